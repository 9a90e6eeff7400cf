"""What was measured, and the targets."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """The samples of one measurement on one path."""

    group: str
    """What was done: a heading in the report."""
    path: str
    """Where it was done: a line below that heading."""
    unit: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Target:
    """A median or a ratio of two, and its bound."""

    what: str
    over: tuple[str, str]
    """Group and path of the numerator."""
    under: tuple[str, str] | None
    """None compares the numerator itself."""
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
    """The targets whose two figures were measured."""
    medians = {(figure.group, figure.path): figure.median for figure in figures}
    return [
        Outcome(target, medians[target.over] / (medians[target.under] if target.under else 1))
        for target in targets
        if target.over in medians and (target.under is None or target.under in medians)
    ]
