"""Figures of the long trials (`make trials`), kept in docs/trials.md and docs/scale.md."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path

LONG = os.environ.get("TRIALS") == "long"
_DOCS = Path(__file__).parents[2] / "docs"
_rows: dict[str, list[str]] = {}
_ENDS = {
    "trials": (
        "Docker waits before it restarts a container that ran for less than ten seconds. The wait "
        "doubles with each restart, up to a minute. The trials that kill a container ten times in "
        "a row include this wait; after a single kill it is 2 s."
    ),
    "scale": (
        "MiB counts all processes of Pulumi together, with shared pages counted for each process. "
        "connections is how many connections the sshd of one host (default MaxStartups 10:30:100) "
        "saw during the run, logging in at once how many of them were not yet logged in at the "
        "same time, refused how many it dropped. --parallel is the option given to Pulumi. One "
        "hundred builders are previewed and not created: only one host was available, and "
        "Docker's default address pools have networks for about fifteen builders on one host. The "
        "first build on a new host has two steps on a base image that comes through the mirror: "
        "one takes some seconds of CPU, the other writes 8 MB."
    ),
}


def record(what: str, count: int, *, document: str = "trials", **seen: float) -> None:
    """Note on a page of docs/ what a trial saw; a short version leaves docs/ as it is."""
    words = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in seen.items())
    _rows.setdefault(document, []).append(f"| {what} | {count} | {words} |")
    if LONG:
        (_DOCS / f"{document}.md").write_text(_text(document))


def _shown(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _text(document: str) -> str:
    engine = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return "\n".join(
        [
            f"# {document.title()}",
            "",
            f"Written by `make trials` on {datetime.datetime.now(datetime.UTC):%Y-%m-%d}: "
            f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Docker {engine}, "
            "clients and builder on one machine, every client with the same source address.",
            "",
            "| what | times | seen |",
            "| --- | --- | --- |",
            *_rows[document],
            "",
            _ENDS[document],
            "",
        ]
    )
