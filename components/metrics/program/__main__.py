"""Read the builder, or serve what was read.

Usage: python -m metrics read FOLDER | serve FOLDER PORT | check FOLDER | ping PORT

FOLDER has the reports of the other parts, and gets the page. `check` and `ping` are the health
checks of `read` and `serve`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from .page import put, serve, why_stale, why_unserved

_PAGE, _PROBLEM = "page", "problem"


def _read(folder: Path) -> None:
    # Only this needs libraries, which the container that serves does not have.
    from .engine import Engine
    from .reader import Places, Reader

    variables = dict(os.environ)
    reader = Reader(
        variables["METRICS_BUILDER"],
        Engine(variables),
        Places(folder, Path(variables["METRICS_DATA"]), Path(variables["METRICS_ACCESS"])),
        parts=variables["METRICS_PARTS"].split(),
        host_keys=variables["METRICS_HOST_KEYS"].split(),
        cache_limit=int(variables["METRICS_CACHE_LIMIT"]),
        image_store=variables["METRICS_IMAGE_STORE"],
    )
    reader.builds.start()
    before = ""
    while True:
        if reader.has_news():
            problem = reader.read()
            if problem != before:
                print(problem or "all of the builder is read", flush=True)
            before = problem
            put(folder / _PROBLEM, problem.encode())
            put(folder / _PAGE, reader.metrics.page())
        time.sleep(1)


def _check(folder: Path) -> str:
    return why_stale(folder / _PAGE) or (folder / _PROBLEM).read_text()


def main(verb: str, *words: str) -> int:
    """Run one of the four verbs; returns the exit code."""
    # PID 1 of a container ignores the signal otherwise.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if verb == "read":
        _read(Path(words[0]))
    if verb == "serve":
        serve(Path(words[0]) / _PAGE, int(words[1]))
    problem = _check(Path(words[0])) if verb == "check" else why_unserved(int(words[0]))
    print(problem, end="")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
