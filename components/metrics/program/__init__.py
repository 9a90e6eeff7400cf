"""The metrics of one builder: one process reads the builder, another one serves what was read.

It runs in two containers with Python's standard library, prometheus_client and h2, and imports
nothing else of this project. `families` defines the metrics; `client.metrics` uses it too.
"""
