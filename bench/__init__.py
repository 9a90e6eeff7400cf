"""The builder beside what else one would build on, in one session: `make bench`."""
