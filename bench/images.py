"""The images of a run, from the environment that scripts/bench sets."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Self


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
