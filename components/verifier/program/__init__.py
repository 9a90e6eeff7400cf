"""Checks the tokens of CI jobs, and lists the keys of those that a rule accepts.

It runs in its own container with Python's standard library and PyJWT, and imports nothing else of
this repository. OpenSSL, which Python has anyway, checks the signatures.
"""
