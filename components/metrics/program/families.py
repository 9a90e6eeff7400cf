"""The metrics: names, labels and meanings, and the page with those of one or several builders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

REMOVAL_KINDS = (
    *("builder", "untagged image", "anonymous volume", "build record", "volume", "container"),
    *("network", "image", "cache"),
)
"""What the janitor removes, as it calls them; the longer of two that end alike comes first."""
REMOVAL_CAUSES = ("age", "space")
"""space is when the disk was nearly full."""
LEAST_FREE = 0.05
"""A smaller share of free space or free inodes is a problem."""
_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)
_SHARES = (0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1)
_FIGURES = {
    "builder_read_timestamp_seconds": "When the builder was read.",
    "builder_start_timestamp_seconds": "When the daemon started.",
    "builder_running_builds": "Builds at work.",
    "builder_cache_bytes": "Size of the build cache.",
    "builder_cache_limit_bytes": "What the setting cacheSize allows.",
    "builder_images_bytes": "Size of the images.",
    "builder_disk_bytes": "Size of the disk with the cache.",
    "builder_disk_free_bytes": "Free space on it.",
    "builder_disk_inodes": "Inodes of the disk; 0 without a fixed number.",
    "builder_disk_free_inodes": "Free inodes of the disk.",
}


@dataclass(frozen=True)
class HostKey:
    """One generation of the gateway's host key."""

    generation: int
    presented: bool
    age: float
    """In seconds."""


@dataclass(frozen=True)
class Reading:
    """What was read of one builder at one moment."""

    builder: str
    is_up: bool
    """Whether it could be read."""
    problems: int
    figures: Mapping[str, float] = field(default_factory=dict)
    """By the names in _FIGURES; what is not known is left out."""
    info: Mapping[str, str] = field(default_factory=dict)
    """Its `version` and `image_store`."""
    parts: Mapping[str, bool] = field(default_factory=dict)
    sessions: Mapping[str, int] = field(default_factory=dict)
    ends: Mapping[str, float] = field(default_factory=dict)
    """By the name of a key or identity, in seconds since 1970."""
    host_keys: Iterable[HostKey] = ()


class Metrics(Collector):
    """The readings that were taken last, and counts of what has happened since the start."""

    def __init__(self) -> None:
        disable_created_metrics()
        self._readings: list[Reading] = []
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

    def page(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def take(self, readings: list[Reading]) -> None:
        """Show these in place of the last ones."""
        self._readings = readings

    def begin(self, builder: str) -> None:
        """Make the counters of a builder, with 0: Prometheus then sees the first increase."""
        for result in ("ok", "failed"):
            self._builds.labels(builder, result)
        self._refused.labels(builder)
        for kind in REMOVAL_KINDS:
            for cause in REMOVAL_CAUSES:
                self._removed.labels(builder, kind, cause)

    def count_build(
        self, builder: str, *, failed: bool, seconds: float, steps: int, cached: int
    ) -> None:
        """Count a build that has ended; one without steps has no share of cached ones."""
        self._builds.labels(builder, "failed" if failed else "ok").inc()
        self._seconds.labels(builder).observe(seconds)
        if steps:
            self._cached.labels(builder).observe(cached / steps)

    def count_refused(self, builder: str, logins: int) -> None:
        """Count logins that were refused."""
        self._refused.labels(builder).inc(logins)

    def count_removed(self, builder: str, kind: str, cause: str, count: int) -> None:
        """Count what the janitor removed."""
        self._removed.labels(builder, kind, cause).inc(count)

    def collect(self) -> Iterator[Metric]:
        """The gauges: all that is known of the builders now."""
        up = GaugeMetricFamily(
            "builder_up", "Whether the builder could be read.", labels=["builder"]
        )
        problems = GaugeMetricFamily(
            "builder_problems", "How many things need attention.", labels=["builder"]
        )
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
        figures = {
            name: GaugeMetricFamily(name, text, labels=["builder"])
            for name, text in _FIGURES.items()
        }
        for reading in self._readings:
            name = reading.builder
            up.add_metric([name], reading.is_up)
            problems.add_metric([name], reading.problems)
            for figure, value in reading.figures.items():
                figures[figure].add_metric([name], value)
            if reading.info:
                info.add_metric([name], dict(reading.info))
            for part, is_up in reading.parts.items():
                parts.add_metric([name, part], is_up)
            for key, count in reading.sessions.items():
                sessions.add_metric([name, key], count)
            for key, end in reading.ends.items():
                ends.add_metric([name, key], end)
            for host_key in reading.host_keys:
                presented = str(host_key.presented).lower()
                ages.add_metric([name, str(host_key.generation), presented], host_key.age)
        yield from (up, problems, *figures.values(), info, parts, sessions, ends, ages)
