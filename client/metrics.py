"""Serve the state of all builders of a stack in Prometheus' text format, or print it once.

For the admin of the builders, as `status` is: it reads the Docker hosts.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import time
from urllib.parse import urlsplit

from prometheus_client import start_http_server

from client.stack import Stack, StackError
from client.status import (
    ClientUse,
    Status,
    Unread,
    gather_all,
    is_well,
)
from components.metrics.program.families import (
    REMOVAL_CAUSES,
    REMOVAL_KINDS,
    HostKey,
    Metrics,
    Reading,
)

_DAY = 86400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    parser.add_argument(
        "--listen", metavar="ADDRESS:PORT", help="serve them there until it is stopped"
    )
    parser.add_argument(
        "--every",
        type=int,
        default=60,
        metavar="SECONDS",
        help="with --listen: how often the builders are read (%(default)s)",
    )


def run(stack: Stack, options: argparse.Namespace) -> int:
    """Print the metrics, or serve them until it is stopped.

    Raises StackError for an address that is not one or cannot be used, and when Pulumi cannot
    answer.
    """
    resources = stack.resources()
    if not options.listen:
        exporter = Exporter(is_past_counted=True)
        exporter.take(gather_all(stack, resources))
        print(exporter.metrics.page().decode(), end="")
        return 0
    address, port = _address(options.listen)
    if options.every < 1:
        raise StackError(f"--every {options.every}: must be 1 or more")
    exporter = Exporter(is_past_counted=False)
    exporter.take(gather_all(stack, resources))
    try:
        server, _ = start_http_server(port, address, exporter.metrics.registry)
    except OSError as error:
        raise StackError(
            f"--listen {options.listen}: {error.strerror}; next: choose an address of this machine "
            "and a free port"
        ) from None
    print(f"metrics of {stack.alias} on http://{options.listen}/metrics", flush=True)
    try:
        while True:
            time.sleep(options.every)
            exporter.take(gather_all(stack, resources))
    except KeyboardInterrupt:
        server.shutdown()
    return 0


def _address(text: str) -> tuple[str, int]:
    """Address and port of ADDRESS:PORT. Raises StackError for anything else."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise StackError(f"--listen {text}: must be ADDRESS:PORT, such as 127.0.0.1:9105")
    return host, port


class _News:
    """Counts the new entries of a log that is read again and again, by their times."""

    def __init__(self) -> None:
        self._last, self._at_last = "", 0

    def count(self, times: list[str]) -> int:
        """How many were not there before; `times` are in ascending order."""
        new = sum(time > self._last for time in times)
        new += max(0, times.count(self._last) - self._at_last)
        if times and times[-1] >= self._last:
            self._last, self._at_last = times[-1], times.count(times[-1])
        return new


class Exporter:
    """The metrics of the builders that were read last.

    A counter begins at 0 with the exporter; with `is_past_counted` it begins with all that the
    builders remember.
    """

    def __init__(self, *, is_past_counted: bool) -> None:
        self.metrics = Metrics()
        self._is_past_counted = is_past_counted
        self._read_before: set[str] = set()
        self._builds_seen: dict[str, set[str]] = {}
        self._refusals: dict[str, _News] = {}
        self._removals: dict[tuple[str, str, str], _News] = {}

    def take(self, found: list[Status | Unread]) -> None:
        """Use what was read of the builders."""
        for status in found:
            if isinstance(status, Status):
                counted = self._is_past_counted or status.builder in self._read_before
                self._read_before.add(status.builder)
                self.metrics.begin(status.builder)
                self._take_builds(status, counted)
                self._take_logs(status, counted)
        self.metrics.take([_reading(status) for status in found])

    def _take_builds(self, status: Status, counted: bool) -> None:
        name = status.builder
        seen = self._builds_seen.get(name, set())
        for build in status.ended:
            if build.ref not in seen and counted:
                self.metrics.count_build(
                    name,
                    failed=build.failed,
                    seconds=build.seconds or 0,
                    steps=build.steps,
                    cached=build.cached,
                )
        if not status.no_history:
            self._builds_seen[name] = {build.ref for build in status.ended}

    def _take_logs(self, status: Status, counted: bool) -> None:
        name = status.builder
        news = self._refusals.setdefault(name, _News())
        new = news.count([visit.time for visit in status.visits if visit.refused])
        self.metrics.count_refused(name, new if counted else 0)
        for kind, cause in itertools.product(REMOVAL_KINDS, REMOVAL_CAUSES):
            of_kind = [r for r in status.removals if (r.kind, r.cause) == (kind, cause)]
            times = [r.time for r in of_kind for _ in range(r.count)]
            new = self._removals.setdefault((name, kind, cause), _News()).count(times)
            self.metrics.count_removed(name, kind, cause, new if counted else 0)


def _reading(status: Status | Unread) -> Reading:
    """The gauges of a builder."""
    if isinstance(status, Unread):
        return Reading(status.builder, is_up=False, problems=len(status.notices))
    connected = [visit.name for visit in status.connections]
    clients: list[ClientUse] = [*status.keys, *status.identities]
    names = sorted({*connected, *(client.name for client in clients)})
    return Reading(
        status.builder,
        is_up=True,
        problems=len(status.notices),
        figures={
            "builder_read_timestamp_seconds": status.asked,
            "builder_start_timestamp_seconds": status.up_since,
            "builder_running_builds": status.running,
            "builder_cache_bytes": status.cache,
            "builder_cache_limit_bytes": status.cache_cap,
            "builder_images_bytes": status.images,
            "builder_disk_bytes": status.disk,
            "builder_disk_free_bytes": status.disk_free,
            "builder_disk_inodes": status.inodes,
            "builder_disk_free_inodes": status.inodes_free,
        },
        info={"version": status.version, "image_store": status.image_store},
        parts={part: is_well(state) for part, state in status.containers.items()},
        sessions={name: connected.count(name) for name in names},
        ends={use.name: _end_of(use.until) for use in clients if use.until},
        host_keys=[
            HostKey(key.generation, key.presented, key.days * _DAY) for key in status.host_keys
        ],
    )


def _end_of(day: str) -> float:
    """Seconds since 1970 of the end of a day, YYYY-MM-DD, in UTC."""
    first = datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC)
    return first.timestamp() + _DAY
