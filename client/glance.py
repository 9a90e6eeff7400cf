"""Show a builder at a glance: version, cache, disk, builds, keys and their last use, host keys.

For the admin of the builder: it reads the Docker host, to which clients have no access.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from client.stack import Stack
from client.status import Status, Unread, gather, gather_all
from client.status_text import as_text
from components.docker_host import HostError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for machines")
    form.add_argument("--html", type=Path, metavar="FILE", help="write one page")
    form.add_argument(
        "--quiet", action="store_true", help="for cron: one line for each problem, else nothing"
    )
    parser.add_argument(
        "--host", metavar="NAME", help="one of the stack's hosts; without it, all of them"
    )


def run(stack: Stack, options: argparse.Namespace) -> int:
    """Print or write the status; returns 1 when something needs attention."""
    if options.host or not stack.settings.get("hosts"):
        stack = stack.on_host(options.host)
        try:
            found: list[Status | Unread] = [
                gather(stack, stack.resources(), is_explained=bool(options.html))
            ]
        except HostError as error:
            if not options.quiet:
                raise
            found = [Unread(stack.alias, [str(error)])]
    else:
        found = gather_all(stack, stack.resources(), is_explained=bool(options.html))
    if options.json:
        shown = [as_json(status) for status in found]
        print(json.dumps(shown if stack.settings.get("hosts") else shown[0], indent=2))
    elif options.html:
        # Only this form needs the template engine.
        from client.status_page import page

        options.html.write_text(page(found))
        print(f"{options.html} shows {', '.join(status.builder for status in found)}")
    elif options.quiet:
        print("".join(f"{line}\n" for line in problems(found)), end="")
    else:
        print("\n\n".join(map(as_text, found)))
    return 1 if any(status.notices for status in found) else 0


def problems(found: list[Status | Unread]) -> Iterator[str]:
    """One line for each thing that needs attention."""
    for status in found:
        for notice in status.notices:
            yield f"{status.builder}: {' '.join(notice.split())}"


def as_json(status: Status | Unread) -> dict[str, Any]:
    """The status, with the figures that are computed from it."""
    if isinstance(status, Unread):
        return asdict(status)
    derived = {"running": status.running, "hit_ratio": status.hit_ratio}
    shown = asdict(replace(status, visits=[], removals=[], explained=[]))
    del shown["visits"], shown["removals"], shown["explained"]
    return {**shown, **derived, "median_seconds": status.median_seconds}
