"""List the builds that a builder remembers, show one step by step, or say why its steps ran.

For the admin of the builder: it reads the Docker host, to which clients have no access.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict

from humanize import naturalsize

from client.explain import Clearing, Reason, comparable, explain, short
from client.history import Build, Details, History, Record, RemovedError, summary
from client.stack import Stack, StackError
from components.docker_host import HostDocker

_LISTED = 20
_BAR = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument("what", nargs="?", choices=["list", "show", "why"], default="list")
    parser.add_argument(
        "build",
        nargs="?",
        default="1",
        help="for show and why: its number in the list, 1 for the last, or the beginning of its id",
    )
    parser.add_argument("--last", type=int, default=_LISTED, help="how many to list (%(default)s)")
    parser.add_argument(
        "--host", metavar="NAME", help="which of the stack's hosts, if it has several"
    )
    parser.add_argument("--json", action="store_true", help="for machines")


def run(stack: Stack, options: argparse.Namespace) -> int:
    """Print the list, a build step by step, or why its steps ran."""
    stack = stack.on_host(options.host)
    host = HostDocker(stack.docker_host)
    try:
        with History.of(host, stack.alias) as history:
            records = history.records()
            if options.what == "list":
                _print_list(history, records, options)
                return 0
            record = _chosen(records, options.build)
            details = history.details(record)
            if options.what == "show":
                _print(options, lambda: _steps_json(details), lambda: waterfall(details))
                return 0
            earlier = history.all_details(comparable(record, records))
            made = history.cache_times()
    except RemovedError:
        raise StackError(
            f"build {options.build} has just been removed; next: choose another from "
            "`python -m client builds`"
        ) from None
    except OSError as error:
        raise StackError(f"the history of {stack.alias} cannot be read: {error}") from None
    log = host.output("logs", "--timestamps", f"{stack.alias}-janitor")
    reasons = explain(details, earlier, made, Clearing.parse(log))
    _print(
        options,
        lambda: [asdict(reason) for reason in reasons],
        lambda: explanation(details, reasons, earlier[0].record if earlier else None),
    )
    return 0


def _print(
    options: argparse.Namespace, machine: Callable[[], object], human: Callable[[], str]
) -> None:
    print(json.dumps(machine(), indent=2) if options.json else human())


def _chosen(records: list[Record], which: str) -> Record:
    """The build with this number, counted from the newest, or this beginning of its id.

    Raises StackError when there is none, or it runs.
    """
    if which.isdecimal() and len(which) < 6:
        found = records[-int(which) :][:1] if 0 < int(which) <= len(records) else []
    else:
        found = [record for record in records if record.ref.startswith(which)]
    if len(found) != 1:
        raise StackError(
            f"{len(found) or 'no'} builds are called {which}; next: choose a number or an id from "
            "`python -m client builds`"
        )
    if found[0].completed is None:
        raise StackError(f"build {which} still runs; next: ask again when it has ended")
    return found[0]


def _print_list(history: History, records: list[Record], options: argparse.Namespace) -> None:
    if options.last < 1:
        raise StackError(f"--last {options.last}: must be 1 or more")
    builds = history.builds(records[: -options.last - 1 : -1])
    _print(options, lambda: [asdict(build) for build in builds], lambda: table(builds))


def table(builds: list[Build]) -> str:
    """The builds, the newest first."""
    rows = [("N", "when (UTC)", "image", "commit", "seconds", "cached", "context", "result", "id")]
    rows += [
        (
            str(number),
            _time(build.started),
            ", ".join(build.images) or "-",
            build.commit[:7] or "-",
            "-" if build.seconds is None else f"{build.seconds:.1f}",
            f"{build.cached} of {build.steps}" if build.seconds is not None else "-",
            "-" if build.context is None else naturalsize(build.context),
            "runs" if build.seconds is None else "failed" if build.failed else "ok",
            build.ref[:8],
        )
        for number, build in enumerate(builds, start=1)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def waterfall(details: Details) -> str:
    """A build's steps in the order in which they started, each with a bar from start to end."""
    first = details.record.started
    scale = _BAR / max((details.record.completed or first) - first, 0.001)
    lines = [headline(details)]
    width = max(shutil.get_terminal_size((120, 24)).columns - _BAR - 36, 30)
    for step in details.ran:
        start, length = details.times(step)
        bar = " " * min(int(start * scale), _BAR - 1)
        bar += ("·" if step.cached else "█") * max(1, round(length * scale))
        result = "failed" if step.failed else "cached" if step.cached else ""
        size = naturalsize(step.bytes) if step.bytes else ""
        lines.append(
            f"{start:7.1f} {length:7.1f} s |{bar[:_BAR].ljust(_BAR)}| {result:6} {size:>9} "
            f"{details.label(step)[:width]}".rstrip()
        )
    if details.record.error:
        lines.append(f"error: {details.record.masked(details.record.error)}")
    return "\n".join(lines)


def explanation(details: Details, reasons: list[Reason], compared: Record | None) -> str:
    """The reasons, step by step."""
    lines = [headline(details)]
    if compared:
        lines.append(
            f"compared with earlier builds, the last {short(compared)} ({_time(compared.started)})"
        )
    if not summary(details.record, details.steps).steps:
        lines.append("no step of the Dockerfile ran")
    elif not reasons:
        lines.append("every step came from the cache")
    for reason in reasons:
        where = f" (line {reason.line})" if reason.line else ""
        lines += [f"{reason.step}{where}", f"    {reason.cause}: {reason.text}"]
    return "\n".join(lines)


def headline(details: Details) -> str:
    """One build in a line."""
    build = summary(details.record, details.steps)
    parts = [
        f"build {short(details.record)}",
        _time(build.started) + " UTC",
        ", ".join(build.images),
        f"commit {build.commit[:7]}" if build.commit else "",
        f"{build.seconds or 0:.1f} s",
        f"{build.cached} of {build.steps} steps cached",
        f"{naturalsize(build.context)} of context" if build.context else "",
        "failed" if build.failed else "",
    ]
    return ", ".join(filter(None, parts))


def _steps_json(details: Details) -> dict[str, object]:
    return {
        **asdict(summary(details.record, details.steps)),
        "waterfall": [
            {
                "step": details.label(step),
                "started": step.started,
                "completed": step.completed,
                "cached": step.cached,
                "failed": step.failed,
                "bytes": step.bytes,
            }
            for step in details.ran
        ],
    }


def _time(at: float) -> str:
    return f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%Y-%m-%d %H:%M:%S}"
