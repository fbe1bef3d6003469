"""Two evaluations of one task kind, A and B, side by side. Differences are B − A."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gauntlet.pages.formatting import minus
from gauntlet.pages.page import NOTHING

RESAMPLES = 2_000
CONFIDENCE = 0.95
SEED = 0

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """A figure of both runs; `interval` is the middle 95 % of a paired bootstrap of the same rows."""

    name: str
    first: float | None
    second: float | None
    interval: Interval | None = None
    lower_is_better: bool = False

    @property
    def difference(self) -> float | None:
        """B − A."""
        return minus(self.second, self.first)

    @property
    def is_clear(self) -> bool:
        """Whether the interval is on one side of 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def tone(self) -> str:
        """Whether B is better (good) or worse (bad), as far as that is clear (else idle)."""
        if self.difference is None or not self.is_clear:
            return "idle"
        return "good" if (self.difference > 0) != self.lower_is_better else "bad"


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of a run: its `scores`, read by the kind's `SCORES`, and its `predictions`."""

    scores: Any
    predictions: Path


@dataclass(frozen=True)
class Paired:
    """How surely two models differ, from their answers to the same test rows.

    Attributes:
        intervals: Of the differences of metrics, by the metric's name.
        classes: Differences of single classes.
        summary: A sentence about the rows that both answered.
        unpaired: Why there are no intervals; then all else is empty.
    """

    intervals: Mapping[str, Interval] = field(default_factory=dict)
    classes: tuple[Difference, ...] = ()
    summary: str = ""
    body: Markup = NOTHING
    unpaired: str = ""
