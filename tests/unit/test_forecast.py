"""When the disk is full, by what the janitor measured."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable

import pytest

from client.forecast import Sample, forecast

ASKED = 1_800_000_000.0
DAY = 86400


def course(days: float, free: Callable[[float], float]) -> list[Sample]:
    """One measurement an hour until now; `free` is the bytes so many days ago."""
    hours = [hour / 24 for hour in range(int(days * 24), -1, -1)]
    return [Sample(ASKED - ago * DAY, free(ago)) for ago in hours]


def told(samples: list[Sample], free: float) -> str:
    return forecast(samples, int(free), ASKED).text


def test_a_steady_fall_is_continued() -> None:
    """4 GB less a day, and 36 GB free."""
    found = forecast(course(3, lambda ago: 36e9 + ago * 4e9), int(36e9), ASKED)
    assert found.text == "full in about 9 days at the rate of the last 3 days"
    assert found.days == pytest.approx(9)


def test_what_the_janitor_removes_now_and_then_counts() -> None:
    """Each day 10 GB go and the janitor makes 6 GB free."""
    saw = course(7, lambda ago: 40e9 + 4e9 * int(ago) + 10e9 * (ago % 1))
    assert told(saw, 40e9) == "full in about 10 days at the rate of the last 7 days"


def test_a_disk_that_is_full_within_hours() -> None:
    saw = course(1, lambda ago: 5e9 + ago * 24e9)
    assert told(saw, 5e9) == "full in about 5 hours at the rate of the last day"


@pytest.mark.parametrize(
    ("samples", "measured"),
    [
        ([], "0 times within 0 hours"),
        (course(0, lambda _: 1e9), "1 time within 0 hours"),
        (course(0.75, lambda ago: 1e9 + ago * 1e9), "19 times within 18 hours"),
        # The builder was off in between.
        (course(2, lambda ago: 1e9 + ago * 1e9)[::48], "2 times within 48 hours"),
        (course(30, lambda ago: 1e9 + ago * 1e9)[:500], "0 times within 0 hours"),
    ],
)
def test_too_little_is_no_forecast(samples: list[Sample], measured: str) -> None:
    found = forecast(samples, int(1e9), ASKED)
    assert found.text == f"no forecast yet: measured {measured}, and it takes a whole day"
    assert found.days is None


def test_a_disk_that_gets_emptier_or_stays_as_it_is_does_not_fill_up() -> None:
    for free in (lambda ago: 40e9 - ago * 1e9, lambda _: 40e9):
        assert told(course(2, free), 40e9) == "does not fill up at the rate of the last 2 days"


def test_a_fall_that_is_lost_in_ups_and_downs_is_no_forecast() -> None:
    chance = random.Random(1)
    varies = course(7, lambda ago: 40e9 + ago * 0.1e9 + chance.uniform(-5e9, 5e9))
    said = "no forecast: the free space varied more than it fell in the last 7 days"
    assert told(varies, 40e9) == said


def test_a_forecast_reaches_ten_times_as_far_as_the_measurements() -> None:
    saw = course(2, lambda ago: 100e9 + ago * 1e9)
    assert told(saw, 100e9) == "not full within 20 days at the rate of the last 2 days"
    assert told(saw, 19e9) == "full in about 19 days at the rate of the last 2 days"


def test_measurements_are_read_from_the_janitor_s_log() -> None:
    log = (
        "2026-11-27T05:00:00.123456789Z [janitor] 41.52 GB free\n"
        "2026-11-27T05:01:00.2Z [janitor] the disk is nearly full: removed cache 1.2GB; "
        "free 1.00 GB -> 2.00 GB\n"
        "2026-11-27T06:00:00Z [janitor] 40.00 GB free\n"
    )
    first = datetime.datetime(2026, 11, 27, 5, tzinfo=datetime.UTC).timestamp()
    found = Sample.parse(log)
    assert [sample.time for sample in found] == [first, first + 3600]
    assert [sample.free for sample in found] == pytest.approx([41.52e9, 40e9])
