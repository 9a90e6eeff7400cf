"""The metrics of a builder."""
