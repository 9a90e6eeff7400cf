"""What the people and jobs that use a stack's builder need: `python -m client VERB`."""
