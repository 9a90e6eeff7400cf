"""The bench's report of builds over a distance, from figures that are known."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from bench import distance
from bench.builder import KIT, OWN, PLAIN
from bench.figures import Figure, Target, outcomes
from bench.link import Link
from bench.plot import lines_by
from bench.report import page
from bench.targets import ANSWERED, DEPLOYED, FORMER, PROGRAM, UNCHANGED
from bench.transfers import CONTEXT, LOAD, SAVE, away


def test_round_trips_are_the_seconds_that_delay_adds() -> None:
    link = Link("127.0.0.1", 0)

    def job() -> float:
        link.round_trips += 9
        link.connections += 1
        return 0.4 + 9 * link.delay

    figures = distance._measured(link, {"job": job}, 2)
    found = {figure.group: figure.samples for figure in figures}
    assert found[distance.at(50)] == pytest.approx((0.85, 0.85))
    assert found[distance.TRIPS] == pytest.approx((9,))
    assert found[distance.COUNTED] == (9, 9)
    assert found[distance.OPENED] == (1, 1)
    assert link.delay == 0


def test_the_report_has_a_row_for_each_path_that_was_measured() -> None:
    figures = [
        Figure(group, path, "", (number,))
        for number, group in enumerate(distance.GROUPS)
        for path in (PLAIN, KIT)
    ]
    rows = [line for line in distance.section(figures) if line.startswith("| ")]
    values = "0.00 | 1.00 | 2.00 | 3.00 | 4 | 5 | 6"
    assert rows[1:] == [f"| {KIT} | {values} |", f"| {PLAIN} | {values} |"]
    assert distance.section([]) == []


def test_a_target_can_be_a_number() -> None:
    figure = Figure("trips", KIT, "", (22.0,))
    (outcome,) = outcomes([Target("trips", ("trips", KIT), None, "≤", 25)], [figure])
    assert outcome.ratio == 22
    assert outcome.reached


def test_the_report_shows_what_pulumi_and_transfers_reach_and_miss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.report.machine", lambda: "a machine")
    seconds = [
        Figure(DEPLOYED, PROGRAM, "s", (6.0,)),
        Figure(ANSWERED, FORMER, "s", (5.0,)),
        Figure(UNCHANGED, PROGRAM, "s", (1.6,)),
        Figure(UNCHANGED, FORMER, "s", (1.5,)),
    ]
    rates = []
    for group in (CONTEXT, SAVE, LOAD):
        rates += [
            Figure(group, OWN, "MB/s", (100.0,)),
            Figure(group, KIT, "MB/s", (95.0,)),
            Figure(away(group), KIT, "MB/s", (20.0,)),
        ]
    shown = page(seconds + rates, short=False, minutes=1)
    rows = [line.rpartition(" | ≤ ")[2] for line in shown.splitlines() if " | ≤ " in line]
    assert rows == ["1 | 1.20 | **missed** |", "1.1 | 1.07 | reached |"]
    rows = [line.rpartition(" | ≥ ")[2] for line in shown.splitlines() if " | ≥ " in line]
    assert rows == ["0.9 | 0.95 | reached |", "0.9 | 0.20 | **missed** |"] * 3


def test_lines_are_drawn_for_light_and_dark_pages() -> None:
    drawn = lines_by("seconds", {"kit": [(0, 1.0), (100, 3.0)], "other & more": [(0, 2), (100, 3)]})
    tree = ET.fromstring(drawn)  # made here
    places = [line.get("points") for line in tree.iter() if line.tag.endswith("polyline")]
    assert len(places) == 2
    texts = [float(text.get("y", 0)) for text in tree.iter() if (text.text or "").endswith(": 3")]
    assert abs(texts[0] - texts[1]) >= 16, "names do not overlap"
    assert "prefers-color-scheme: dark" in drawn
