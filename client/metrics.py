"""Serve the state of all builders of a stack in Prometheus' text format, or print it once.

For the admin of the builders, as `status` is: it reads the Docker hosts.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from client.stack import Stack, StackError
from client.status import (
    REMOVAL_CAUSES,
    REMOVAL_KINDS,
    ClientUse,
    Status,
    Unread,
    gather_all,
    is_well,
)

_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)
_SHARES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1)
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
        print(generate_latest(exporter.registry).decode(), end="")
        return 0
    address, port = _address(options.listen)
    if options.every < 1:
        raise StackError(f"--every {options.every}: must be 1 or more")
    exporter = Exporter(is_past_counted=False)
    exporter.take(gather_all(stack, resources))
    try:
        server, _ = start_http_server(port, address, exporter.registry)
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


class Exporter(Collector):
    """The metrics of the builders that were read last, and counts of what has happened.

    A counter begins at 0 with the exporter; with `is_past_counted` it begins with all that the
    builders remember.
    """

    def __init__(self, *, is_past_counted: bool) -> None:
        disable_created_metrics()
        self._is_past_counted = is_past_counted
        self._found: list[Status | Unread] = []
        self._read_before: set[str] = set()
        self._builds_seen: dict[str, set[str]] = {}
        self._refusals: dict[str, _News] = {}
        self._removals: dict[tuple[str, str, str], _News] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._builds = Counter(
            "builder_builds", "Builds that ended.", ["builder", "result"], registry=self.registry
        )
        self._seconds = Histogram(
            "builder_build_duration_seconds",
            "How long builds took.",
            ["builder"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._cached = Histogram(
            "builder_build_cached_steps_ratio",
            "Share of a build's steps that came from the cache.",
            ["builder"],
            buckets=_SHARES,
            registry=self.registry,
        )
        self._refused = Counter(
            "builder_refused_logins",
            "Logins that the gateway refused.",
            ["builder"],
            registry=self.registry,
        )
        self._removed = Counter(
            "builder_janitor_removed",
            "What the janitor removed; cache counts once for each time.",
            ["builder", "kind", "cause"],
            registry=self.registry,
        )

    def take(self, found: list[Status | Unread]) -> None:
        """Use what was read of the builders."""
        for status in found:
            if isinstance(status, Status):
                counted = self._is_past_counted or status.builder in self._read_before
                self._read_before.add(status.builder)
                self._take_builds(status, counted)
                self._take_logs(status, counted)
        self._found = found

    def _take_builds(self, status: Status, counted: bool) -> None:
        name = status.builder
        # The series exist from the beginning, so that a first failure is an increase.
        for result in ("ok", "failed"):
            self._builds.labels(name, result)
        seen = self._builds_seen.get(name, set())
        for build in status.ended:
            if build.ref in seen or not counted:
                continue
            self._builds.labels(name, "failed" if build.failed else "ok").inc()
            self._seconds.labels(name).observe(build.seconds or 0)
            if build.steps:
                self._cached.labels(name).observe(build.cached / build.steps)
        if not status.no_history:
            self._builds_seen[name] = {build.ref for build in status.ended}

    def _take_logs(self, status: Status, counted: bool) -> None:
        name = status.builder
        news = self._refusals.setdefault(name, _News())
        new = news.count([visit.time for visit in status.visits if visit.refused])
        self._refused.labels(name).inc(new if counted else 0)
        for kind, cause in itertools.product(REMOVAL_KINDS, REMOVAL_CAUSES):
            of_kind = [r for r in status.removals if (r.kind, r.cause) == (kind, cause)]
            times = [r.time for r in of_kind for _ in range(r.count)]
            new = self._removals.setdefault((name, kind, cause), _News()).count(times)
            self._removed.labels(name, kind, cause).inc(new if counted else 0)

    def collect(self) -> Iterator[Metric]:
        """The gauges: all that is known of the builders now."""
        up = GaugeMetricFamily(
            "builder_up", "Whether the builder could be read.", labels=["builder"]
        )
        problems = GaugeMetricFamily(
            "builder_problems", "How many things need attention.", labels=["builder"]
        )
        for status in self._found:
            up.add_metric([status.builder], isinstance(status, Status))
            problems.add_metric([status.builder], len(status.notices))
        yield from (up, problems)
        found = [status for status in self._found if isinstance(status, Status)]
        for metric, text, attribute in _FIGURES:
            family = GaugeMetricFamily(metric, text, labels=["builder"])
            for status in found:
                family.add_metric([status.builder], getattr(status, attribute))
            yield family
        info = InfoMetricFamily("builder", "Engine and image store.", labels=["builder"])
        parts = GaugeMetricFamily(
            "builder_part_up",
            "Whether a container runs and passes its health check.",
            labels=["builder", "part"],
        )
        sessions = GaugeMetricFamily(
            "builder_sessions",
            "Open connections by the name of the key or identity.",
            labels=["builder", "key"],
        )
        ends = GaugeMetricFamily(
            "builder_key_expires_timestamp_seconds",
            "When a client's key or identity ends; those without an end have none.",
            labels=["builder", "key"],
        )
        ages = GaugeMetricFamily(
            "builder_host_key_age_seconds",
            "Age of the gateway's host keys, in whole days.",
            labels=["builder", "generation", "presented"],
        )
        for status in found:
            name = status.builder
            info.add_metric([name], {"version": status.version, "image_store": status.image_store})
            for part, state in status.containers.items():
                parts.add_metric([name, part], is_well(state))
            connected = [visit.name for visit in status.connections]
            clients: list[ClientUse] = [*status.keys, *status.identities]
            for key in sorted({*connected, *(client.name for client in clients)}):
                sessions.add_metric([name, key], connected.count(key))
            for use in clients:
                if use.until:
                    ends.add_metric([name, use.name], _end_of(use.until))
            for host_key in status.host_keys:
                presented = str(host_key.presented).lower()
                labels = [name, str(host_key.generation), presented]
                ages.add_metric(labels, host_key.days * _DAY)
        yield from (info, parts, sessions, ends, ages)


_FIGURES = (
    ("builder_read_timestamp_seconds", "When the builder was read.", "asked"),
    ("builder_start_timestamp_seconds", "When the daemon started.", "up_since"),
    ("builder_running_builds", "Builds at work.", "running"),
    ("builder_cache_bytes", "Size of the build cache.", "cache"),
    ("builder_cache_limit_bytes", "What the setting cacheSize allows.", "cache_cap"),
    ("builder_images_bytes", "Size of the images.", "images"),
    ("builder_disk_bytes", "Size of the disk with the cache.", "disk"),
    ("builder_disk_free_bytes", "Free space on it.", "disk_free"),
    ("builder_disk_inodes", "Inodes of the disk; 0 without a fixed number.", "inodes"),
    ("builder_disk_free_inodes", "Free inodes of the disk.", "inodes_free"),
)


def _end_of(day: str) -> float:
    """Seconds since 1970 of the end of a day, YYYY-MM-DD, in UTC."""
    first = datetime.datetime.fromisoformat(day).replace(tzinfo=datetime.UTC)
    return first.timestamp() + _DAY
