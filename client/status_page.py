"""The status as one page: no script, no other file, light and dark, wide and narrow."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import humanize
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from client.explain import Explained, Reason
from client.history import Build, Day, summary
from client.status import Status, Unread, timestamp
from client.status_text import ago, store_text

_BUILDS = 50
_DAYS = 14
_DAY_PIXELS = 56
_LABEL = 400
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
    when: str
    target: str
    """The id of its waterfall; empty for none."""
    failed: bool
    x: float
    width: float
    height: float
    cached: float
    """Height of the part that came from the cache."""


@dataclass(frozen=True)
class DayBar:
    """The builds of one day; heights in pixels."""

    label: str
    """Such as 27 Nov."""
    builds: int
    height: float
    failed_height: float


@dataclass(frozen=True)
class Row:
    """One step in a waterfall; its place in time is in percent of the whole build."""

    kind: str
    """cached, ran, failed, or own for what BuildKit does by itself."""
    label: str
    size: str
    """What was sent for it; empty for nothing."""
    left: float
    width: float
    took: str
    reason: Reason | None
    """Why it ran."""


@dataclass(frozen=True)
class Waterfall:
    """One build step by step."""

    build: Build
    target: str
    """The id of its element in the page."""
    facts: list[str]
    rows: list[Row]
    error: str


@dataclass(frozen=True)
class Section:
    """What the page shows of one builder."""

    status: Status
    columns: list[Column]
    failed: int
    """How many builds in the chart."""
    days: list[DayBar]
    waterfalls: list[Waterfall]
    """The newest first."""


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
    waterfalls = [_waterfall(explained, status.asked) for explained in status.explained]
    columns = _columns(shown, status.asked, {waterfall.target for waterfall in waterfalls})
    return Section(status, columns, failed, _days(status), waterfalls)


def _columns(builds: list[Build], now: float, targets: set[str]) -> list[Column]:
    longest = max((build.seconds or 0 for build in builds), default=0) or 1
    step = 1000 / _BUILDS
    columns = []
    for number, build in enumerate(builds):
        # By the square root, so that one long build leaves the others visible.
        height = max(6.0, 100 * ((build.seconds or 0) / longest) ** 0.5)
        cached = height * build.cached / build.steps if build.steps else 0
        when = ago(now - build.started)
        title = (
            f"{when}: {build.seconds or 0:.1f} s, {build.cached} of "
            f"{build.steps} steps from the cache{', failed' * build.failed}"
        )
        target = _target(build) if _target(build) in targets else ""
        place = (number * step, step - 4, height, cached)
        columns.append(Column(title, when, target, build.failed, *place))
    return columns


def _target(build: Build) -> str:
    return f"build-{build.ref}"


def _days(status: Status) -> list[DayBar]:
    """The last days, up to the day on which the status was read; those without builds too."""
    today = datetime.datetime.fromtimestamp(status.asked, datetime.UTC).date()
    known = {day.date: day for day in status.days}
    dates = [today - datetime.timedelta(days=ago) for ago in range(_DAYS - 1, -1, -1)]
    while dates and f"{dates[0]}" not in known:
        dates.pop(0)
    shown = [known.get(f"{date}", Day(f"{date}", 0, 0)) for date in dates]
    scale = _DAY_PIXELS / max((day.builds for day in shown), default=1)
    return [
        DayBar(f"{date:%-d %b}", day.builds, day.builds * scale, day.failed * scale)
        for date, day in zip(dates, shown, strict=True)
    ]


def _waterfall(explained: Explained, now: float) -> Waterfall:
    details, record = explained.details, explained.details.record
    build = summary(record, details.steps)
    facts = [
        ago(now - build.started),
        f"{build.seconds or 0:.1f} s",
        f"{build.cached} of {build.steps} steps cached",
        f"{humanize.naturalsize(build.context)} of context" if build.context else "",
        f"commit {build.commit[:7]}" if build.commit else "",
    ]
    # Steps of several platforms may have one label.
    reasons: dict[str, list[Reason]] = {}
    for reason in explained.reasons:
        reasons.setdefault(reason.step, []).append(reason)
    scale = 100 / max((record.completed or record.started) - record.started, 0.001)
    rows = []
    for step in details.ran:
        label = details.label(step)
        start, length = details.times(step)
        left = min(start * scale, 99.0)
        kind = "failed" if step.failed else "cached" if step.cached else "ran"
        is_own = not step.is_instruction and not step.failed
        waiting = reasons.get(label, []) if step.is_instruction and not step.cached else []
        rows.append(
            Row(
                "own" if is_own else kind,
                label if len(label) <= _LABEL else f"{label[:_LABEL]}…",
                humanize.naturalsize(step.bytes) if step.bytes else "",
                left,
                min(length * scale, 100 - left),
                "cached" if step.cached else f"{length:.1f} s",
                waiting.pop(0) if waiting else None,
            )
        )
    error = record.masked(record.error) if record.error else ""
    return Waterfall(build, _target(build), list(filter(None, facts)), rows, error)
