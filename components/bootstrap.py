"""How much a metric would change on other rows: the paired percentile bootstrap.

Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; Koehn (2004), Statistical
Significance Tests for Machine Translation Evaluation: all models are scored on the same resampled rows.

A metric depends on a row only through its outcome: its label and each model's prediction. So a resample is a
multinomial draw of how often each distinct outcome occurs, and a few matrix products score all resamples.
N = rows, R = resamples, K = distinct outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Metrics = Mapping[str, Floats]

DRAWS_IN_MEMORY = 4_000_000


def resample(
    outcomes: Indices, resamples: int, seed: int, measure: Callable[[Floats, Indices], Sequence[Metrics]]
) -> tuple[Metrics, ...]:
    """Score `resamples` draws of the rows of outcomes (N, M).

    Args:
        outcomes: A row's label and each model's prediction, for example.
        resamples: How many.
        seed: Of the draws.
        measure: The metrics of each model, (R,) or (R, C), from how often each distinct outcome is drawn in
            each resample, (R, K), and the outcomes (K, M).
    """
    generator = np.random.default_rng(seed)
    distinct, counts = np.unique(outcomes, axis=0, return_counts=True)
    block = max(1, DRAWS_IN_MEMORY // len(counts))
    drawn = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        weights = generator.multinomial(len(outcomes), counts / len(outcomes), size=size)
        drawn.append(measure(weights.astype(np.float64), distinct))
    return tuple(
        {name: np.concatenate([block[model][name] for block in drawn]) for name in drawn[0][model]}
        for model in range(len(drawn[0]))
    )


def resampled_means(outcomes: Floats, resamples: int, seed: int) -> Floats:
    """The columns' means, (R, K), of `resamples` draws of N rows from outcomes (N, K)."""
    generator = np.random.default_rng(seed)
    rows = len(outcomes)
    block = max(1, DRAWS_IN_MEMORY // rows)
    means = [
        generator.multinomial(rows, np.full(rows, 1 / rows), size=min(block, resamples - start))
        @ outcomes
        / rows
        for start in range(0, resamples, block)
    ]
    return np.concatenate(means)


def interval(values: Floats, confidence: float) -> tuple[float, float]:
    """The middle `confidence` of the resampled values, (R,)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def lower_bound(values: Floats, confidence: float) -> float:
    """One-sided: the metric is above it in `confidence` of the resamples."""
    return float(np.quantile(values, 1 - confidence))


def upper_bound(values: Floats, confidence: float) -> float:
    """One-sided: the metric is below it in `confidence` of the resamples."""
    return float(np.quantile(values, confidence))
