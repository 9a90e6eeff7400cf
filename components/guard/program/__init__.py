"""The guard: a proxy between keys of role `build` and the daemon's API.

It runs in its own container with Python's standard library and hpack, and imports nothing else of
this project. `rules` decides what is allowed; `http1` and `http2` parse strictly, so that the guard
never passes on what it has not understood; `relay` passes the bytes on.
"""
