"""The command lines of this machine's processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """Every command line on this machine during the block, in and out of containers.

    A process younger than half a second may still start another program, so the look at it is
    repeated every 2 milliseconds, that at others every tenth of a second.
    """
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        young_until: dict[str, float] = {}
        all_at = 0.0
        while not ended.wait(0.002):
            now = time.monotonic()
            every = now >= all_at
            if every:
                all_at = now + 0.1
            for entry in os.listdir("/proc"):
                if entry.isdecimal() and (now < young_until.setdefault(entry, now + 0.5) or every):
                    with suppress(OSError):
                        line = Path(f"/proc/{entry}/cmdline").read_bytes()
                        seen.add(line.replace(b"\0", b" ").decode(errors="replace"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
