"""The one way to a stack: all that `client` and `review` ask of Pulumi."""
