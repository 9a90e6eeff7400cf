"""Copies of this tree, as a clone would have it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.engine.conftest import ROOT, passed, run


def files() -> list[str]:
    """The tree's files by their paths: the tracked ones, and new ones that git does not ignore."""
    words = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = passed(run(*words, cwd=ROOT)).split("\0")[:-1]
    return [name for name in listed if (ROOT / name).exists()]


def copy_to(folder: Path) -> None:
    for name in files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
