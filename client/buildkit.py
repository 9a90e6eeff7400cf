"""A connection to the BuildKit of a builder."""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from components.metrics.program.buildkit import BuildKit, BuildKitError

_SECONDS = 20


@contextmanager
def connected(dial: list[str]) -> Iterator[BuildKit]:
    """BuildKit, over the standard input and output of the command `dial`.

    Raises OSError, with the command's errors, when BuildKit cannot be reached, refuses, or does
    not answer within 20 seconds.
    """
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile() as complaints:
        ours.settimeout(_SECONDS)
        with theirs:
            pipe = theirs.fileno()
            process = subprocess.Popen(dial, stdin=pipe, stdout=pipe, stderr=complaints)
        try:
            yield BuildKit(ours)
        except BuildKitError as error:
            complaints.seek(0)
            why = complaints.read().decode(errors="replace").strip()
            raise OSError(why or str(error)) from None
        finally:
            process.kill()
            process.wait()
