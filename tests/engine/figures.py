"""Figures of the long trials (`make trials`), kept in docs/trials.md."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path

LONG = os.environ.get("TRIALS") == "long"
_PAGE = Path(__file__).parents[2] / "docs" / "trials.md"
_rows: list[str] = []


def record(what: str, count: int, **seen: float) -> None:
    """Note what a trial saw; a short version leaves docs/ as it is."""
    words = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in seen.items())
    _rows.append(f"| {what} | {count} | {words} |")
    if LONG:
        _PAGE.parent.mkdir(exist_ok=True)
        _PAGE.write_text(_page())


def _shown(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _page() -> str:
    engine = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    return "\n".join(
        [
            "# Trials",
            "",
            f"Written by `make trials` on {datetime.datetime.now(datetime.UTC):%Y-%m-%d}: "
            f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Docker {engine}, "
            "clients and builder on one machine, every client with the same source address.",
            "",
            "| what | times | seen |",
            "| --- | --- | --- |",
            *_rows,
            "",
            "Docker doubles its wait before each restart of a container that ran for less than ten "
            "seconds, up to a minute; the trials that kill a container ten times in a row show "
            "that wait (a single kill: 2 s).",
            "",
        ]
    )
