"""Numbers of the long trials (`make trials`), kept in docs/trials.md and docs/scale.md."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

LONG = os.environ.get("TRIALS") == "long"
_DOCS = Path(__file__).parents[2] / "docs"
_ENDS = {
    "trials": (
        "Docker waits before it restarts a container that ran for less than ten seconds. The wait "
        "doubles with each restart, up to a minute. The trials that kill a container ten times in "
        "a row include this wait; after a single kill it is 2 s. A real host is a Debian 13 with "
        "systemd, control groups of version 2 and AppArmor, in QEMU on one emulated core, so that "
        "its seconds are many times those of a real machine."
    ),
    "scale": (
        "MiB counts all processes of Pulumi together, with shared pages counted for each process. "
        "connections is how many connections the sshd of one host (default MaxStartups 10:30:100) "
        "saw during the run, logging in at once how many of them were not yet logged in at the "
        "same time, refused how many it dropped. --parallel is the option given to Pulumi. One "
        "hundred builders are previewed and not created: only one host was available, and "
        "Docker's default address pools have networks for about fifteen builders on one host. The "
        "first build on a new host has two steps on a base image that comes through the mirror: "
        "one takes some seconds of CPU, the other writes 8 MB. Most of the time and memory of a "
        "hundred builders goes to their providers, one process each. Builds at once are of role "
        "build, each project with a connection of its own, and change one line of their source; "
        "then as many run on this machine's own daemon. Builds in a row write 4 MiB each, four at "
        "a time, with a cache of 1 GB and ages of ten to thirty seconds."
    ),
}


def record(what: str, count: int, *, document: str = "trials", **seen: float) -> None:
    """Write what a trial saw into its row of a page in docs/; a short trial leaves docs/ as it is.

    Rows of other trials stay, each with the day and the daemon's image of its own run.
    """
    if not LONG:
        return
    words = ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in seen.items())
    page = _DOCS / f"{document}.md"
    rows = _rows(page.read_text())
    daemon = os.environ.get("TEST_DAEMON_IMAGE", "").rpartition(":")[2].partition("-")[0]
    today = datetime.datetime.now(datetime.UTC)
    rows[what] = f"| {what} | {count} | {words} | {daemon}, {today:%Y-%m-%d} |"
    page.write_text(_text(document, rows))


def _shown(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _rows(text: str) -> dict[str, str]:
    """The rows of a page by their first column."""
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


def _text(document: str, rows: dict[str, str]) -> str:
    return "\n".join(
        [
            f"# {document.title()}",
            "",
            f"Written by `make trials`: {os.cpu_count()} cores, {platform.system()} "
            f"{platform.machine()}, clients and builder on one machine, every client with the same "
            "source address. Each row has the engine of its builder and the day of its run.",
            "",
            "| what | times | seen | engine, day |",
            "| --- | --- | --- | --- |",
            *rows.values(),
            "",
            _ENDS[document],
            "",
        ]
    )
