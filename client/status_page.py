"""The status as one page: no script, no other file, light and dark, wide and narrow."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import humanize
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from client.history import Build
from client.status import Status, Unread, ago, store_text, timestamp

_BUILDS = 50
_FILTERS: dict[str, Callable[..., object]] = {
    "ago": ago,
    "date": lambda at: f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%Y-%m-%d %H:%M}",
    "percent": lambda share: f"{share:.0%}",
    "size": humanize.naturalsize,
    "span": lambda seconds: humanize.precisedelta(
        datetime.timedelta(seconds=seconds), minimum_unit="minutes", format="%d"
    ),
    "store": store_text,
    "timestamp": timestamp,
}


@dataclass(frozen=True)
class Column:
    """One build in the chart of 1000 by 100: the taller, the longer it took."""

    title: str
    failed: bool
    x: float
    width: float
    height: float
    cached: float
    """Height of the part that came from the cache."""


@dataclass(frozen=True)
class Section:
    """What the page shows of one builder."""

    status: Status
    columns: list[Column]
    failed: int
    """How many builds in the chart."""


def page(found: list[Status | Unread]) -> str:
    """The whole page, with a section for each builder."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _FILTERS
    return environment.get_template("status_page.html").render(
        sections=[_section(status) for status in found if isinstance(status, Status)],
        unread=[status for status in found if isinstance(status, Unread)],
    )


def _section(status: Status) -> Section:
    shown = status.ended[-_BUILDS:]
    failed = sum(build.failed for build in shown)
    return Section(status, _columns(shown, status.asked), failed)


def _columns(builds: list[Build], asked: float) -> list[Column]:
    longest = max((build.seconds or 0 for build in builds), default=0) or 1
    step = 1000 / _BUILDS
    columns = []
    for number, build in enumerate(builds):
        # By the square root, so that one long build leaves the others visible.
        height = max(6.0, 100 * ((build.seconds or 0) / longest) ** 0.5)
        cached = height * build.cached / build.steps if build.steps else 0
        title = (
            f"{ago(asked - build.started)}: {build.seconds or 0:.1f} s, {build.cached} of "
            f"{build.steps} steps from the cache{', failed' * build.failed}"
        )
        columns.append(Column(title, build.failed, number * step, step - 4, height, cached))
    return columns
