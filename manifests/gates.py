"""The sections of evaluate-model and gate-model, and the smallest difference that a test split can show."""

from __future__ import annotations

import math
from collections.abc import Collection
from statistics import NormalDist

from pydantic import Field

from gauntlet.manifests.section import Fraction, Section

SMALLEST_MARGIN = 0.01
SMALLEST_CLASS_DROP = 0.05
DISAGREEMENT = 0.1
"""The assumed share of answers in which two models differ, half of them in favour of each."""


def resolvable(rows: float, spread: float, confidence: float = 0.95) -> float:
    """As `resolvable_mean`, for a difference of shares, which is at most 1."""
    return min(1.0, resolvable_mean(rows, spread, confidence))


def resolvable_mean(rows: float, spread: float, confidence: float = 0.95) -> float:
    """The distance between the difference of two equally good models and its lower confidence limit.

    That is z · spread / √rows, where `spread` is the standard deviation of one row's difference; infinite
    without rows. A smaller margin rejects more than half of the models that are as good as the champion.
    """
    return NormalDist().inv_cdf(confidence) * spread / math.sqrt(rows) if rows > 0 else math.inf


def resolvable_margin(rows: Collection[int], confidence: float = 0.95) -> float:
    """The smallest difference in macro-F1 that a comparison on a test split can show.

    `rows` are those of each class, and `confidence` is that of the one-sided limit. Where two models differ
    in a share d of their answers, the spread of one row's difference is √d. A mean over C classes of m rows
    each is as uncertain as one over n = C² / Σ(1 / m) rows: all rows, if the classes are equally large.
    """
    counts = [count for count in rows if count]
    effective = len(counts) ** 2 / sum(1 / count for count in counts) if counts else 0.0
    return resolvable(effective, math.sqrt(DISAGREEMENT), confidence)


def default_margin(rows: Collection[int], confidence: float = 0.95) -> float:
    """The default of `non_inferiority_margin`: what the rows can show, but at least 0.01."""
    return max(SMALLEST_MARGIN, resolvable_margin(rows, confidence))


def describe_resolution(rows: Collection[int], metric: str = "macro-F1", tested: int | None = None) -> str:
    """What a comparison with the champion can show on so many test rows of each class.

    `tested` is the number of test rows, if a row may have several classes.
    """
    difference = f"a difference of {default_margin(rows):.2g} in {metric}"
    return say_resolution(f"{sum(rows) if tested is None else tested:,} test rows", difference)


def say_resolution(tested: str, difference: str) -> str:
    """The sentence that says which difference a comparison on `tested` can show."""
    return (
        f"With {tested} a comparison with the champion can show {difference}. A smaller "
        "gates.non_inferiority_margin rejects most models that are as good; by default it is this difference"
    )


def default_class_drop(rows: int, confidence: float = 0.95) -> float:
    """The default of `max_class_f1_drop` for a class with so many test rows."""
    return max(SMALLEST_CLASS_DROP, resolvable_margin([rows], confidence))


class CommonEvaluation(Section):
    """The section of evaluate-model that every task has: how intervals are computed."""

    bootstrap_resamples: int = Field(2_000, ge=200)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)


class CommonGates(Section):
    """The section of gate-model that every task has. A bound on a metric holds for its bootstrap limit.

    If `non_inferiority_margin` is not set, it follows from the number of test rows (`default_margin`).
    `min_clean_rows` is how many test rows that neither model was trained on must be left for the comparison
    with the champion; a smaller test split must keep all its rows.
    """

    min_speedup: float = Field(2.3, gt=0)
    max_model_mb: float = Field(100.0, gt=0)
    non_inferiority_margin: Fraction | None = None
    min_clean_rows: int = Field(30, ge=1)
    max_cost_usd: float = Field(10.0, gt=0)

    def margin_for(self, rows: int) -> float:
        """The default of `non_inferiority_margin` with so many test rows of classes of one size."""
        return default_margin([rows])
