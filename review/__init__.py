"""What a change does to a builder, and what of it is on the host: for people who look it over."""
