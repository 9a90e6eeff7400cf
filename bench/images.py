"""The images of a run, from the environment that scripts/bench sets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from bench.client import take_cli


@dataclass(frozen=True)
class Images:
    daemon: str
    gateway: str
    registry: str
    buildkit: str
    base: str
    """A small image with a shell."""
    python: str
    """An image with pip."""
    go: str

    @classmethod
    def from_environment(cls) -> Self:
        """Read BENCH_DAEMON_IMAGE and so on. Raises KeyError if one is missing."""
        return cls(**{f.name: os.environ[f"BENCH_{f.name.upper()}_IMAGE"] for f in fields(cls)})


@contextmanager
def prepared() -> Iterator[tuple[Images, Path]]:
    """The images of a run, and a folder for it; docker on PATH is that of the daemon's image."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, images = Path(name), Images.from_environment()
        take_cli(images.daemon, folder / "cli")
        os.environ["PATH"] = f"{folder}/cli:{os.environ['PATH']}"
        yield images, folder
