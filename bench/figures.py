"""What was measured, and what was to be reached."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """Samples of one thing on one path."""

    group: str
    """What was done: a heading of the report."""
    path: str
    """Where: a line of it."""
    unit: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Target:
    """A ratio of two medians, and the bound that was set for it."""

    what: str
    over: tuple[str, str]
    """Group and path of the figure above the line."""
    under: tuple[str, str]
    sense: Literal["≤", "≥"]
    bound: float


@dataclass(frozen=True)
class Outcome:
    target: Target
    ratio: float

    @property
    def reached(self) -> bool:
        if self.target.sense == "≤":
            return self.ratio <= self.target.bound
        return self.ratio >= self.target.bound


def outcomes(targets: list[Target], figures: list[Figure]) -> list[Outcome]:
    """The targets of which both figures were measured."""
    medians = {(figure.group, figure.path): figure.median for figure in figures}
    return [
        Outcome(target, medians[target.over] / medians[target.under])
        for target in targets
        if target.over in medians and target.under in medians
    ]
