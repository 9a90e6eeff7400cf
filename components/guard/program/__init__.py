"""The guard: what stands between keys of role `build` and the daemon's API.

It runs in a container of its own with Python's standard library and hpack, and imports nothing
else of this project. `rules` says what is allowed; `http1` and `http2` read strictly, so that the
daemon is never sent anything that was not understood here; `relay` moves the bytes.
"""
