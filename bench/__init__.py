"""The builder and its alternatives, measured side by side in one session: `make bench`."""
