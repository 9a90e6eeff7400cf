"""When the disk is full, by the free space that the janitor writes to its log at each sweep.

Only a measured course counts. Sizes of images and cache do not tell: both share layers, cache stops
at its limit, and other programs may use the disk too.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass

from client.janitor_log import entries

_MEASURED = re.compile(r"([\d.]+) GB free")
_DAY = 86400.0
_WINDOW = 7 * _DAY
_LEAST_SPAN = _DAY
_LEAST_SAMPLES = 12
# How many times the measured span a forecast may reach.
_REACH = 10


@dataclass(frozen=True)
class Sample:
    """The free space of the disk at one time."""

    time: float
    """Seconds since 1970."""
    free: float
    """Bytes."""

    @classmethod
    def parse(cls, log: str) -> list[Sample]:
        """The measurements in the janitor's log with timestamps, in its order."""
        return [
            cls(at.timestamp(), float(match[1]) * 1e9)
            for at, text in entries(log)
            if (match := _MEASURED.fullmatch(text))
        ]


@dataclass(frozen=True)
class Forecast:
    """When the disk will be full."""

    text: str
    days: float | None = None
    """Until nothing is free; None when that is not known, or too far away."""


def forecast(samples: list[Sample], free: int, now: float) -> Forecast:
    """The forecast for a disk with so many bytes free at the time `now`.

    It continues the straight line through the measurements of the last seven days. It is none
    before a day has been measured, and where the free space varies more than it falls.
    """
    recent = [sample for sample in samples if now - sample.time <= _WINDOW]
    span = recent[-1].time - recent[0].time if recent else 0
    if span < _LEAST_SPAN or len(recent) < _LEAST_SAMPLES:
        measured = f"{len(recent)} time{'s' * (len(recent) != 1)} within {_hours(span)}"
        return Forecast(f"no forecast yet: measured {measured}, and it takes a whole day")
    over = f"the last {span / _DAY:.0f} days" if span >= 1.5 * _DAY else "the last day"
    times, sizes = [s.time for s in recent], [s.free for s in recent]
    slope, start = statistics.linear_regression(times, sizes)
    spread = statistics.pstdev(
        size - (slope * time + start) for time, size in zip(times, sizes, strict=True)
    )
    if slope >= 0:
        return Forecast(f"does not fill up at the rate of {over}")
    if -slope * span < 2 * spread:
        return Forecast(f"no forecast: the free space varied more than it fell in {over}")
    left = free / -slope
    if left > _REACH * span:
        return Forecast(f"not full within {_REACH * span / _DAY:.0f} days at the rate of {over}")
    when = f"{left / _DAY:.0f} days" if left >= 1.5 * _DAY else _hours(max(left, 3600))
    return Forecast(f"full in about {when} at the rate of {over}", left / _DAY)


def _hours(seconds: float) -> str:
    hours = round(seconds / 3600)
    return f"{hours} hour{'s' * (hours != 1)}"
