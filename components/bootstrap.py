"""How much a figure would change on other rows: the percentile bootstrap.

Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; paired, as Koehn (2004),
Statistical Significance Tests for Machine Translation Evaluation, does it: every model is scored on the
same resampled rows, so that what a hard row does to both cancels out.

A figure depends on a row only through its outcome: its label and each model's prediction. Drawing N rows
with replacement is therefore drawing the number of rows of each distinct outcome from a multinomial
distribution, and all resamples are scored with a few matrix products instead of a loop over rows.

N = rows, R = resamples, K = distinct outcomes (at most N), C = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

DRAWS_IN_MEMORY = 4_000_000


@dataclass(frozen=True)
class ResampledFigures:
    """A model's figures on each resample: (R,), and (R, C) for `class_f1`.

    `qwk` and `mae` take the classes for steps of a scale, in their order.
    """

    accuracy: Floats
    macro_f1: Floats
    weighted_f1: Floats
    class_f1: Floats
    qwk: Floats
    mae: Floats


def resample(
    labels: Indices, predictions: Sequence[Indices], class_count: int, resamples: int, seed: int
) -> tuple[ResampledFigures, ...]:
    """Score every model of `predictions`, each (N,), on the same `resamples` draws of N rows."""
    generator = np.random.default_rng(seed)
    outcomes, counts = np.unique(np.stack([labels, *predictions], axis=1), axis=0, return_counts=True)
    block = max(1, DRAWS_IN_MEMORY // len(counts))
    drawn: list[list[ResampledFigures]] = [[] for _ in predictions]
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        weights = generator.multinomial(len(labels), counts / len(labels), size=size)  # (size, K)
        for model, figures in enumerate(drawn):
            figures.append(weighted_figures(weights, outcomes[:, 0], outcomes[:, model + 1], class_count))
    return tuple(_concatenate(figures) for figures in drawn)


def weighted_figures(
    weights: npt.NDArray[np.int64], labels: Indices, predicted: Indices, class_count: int
) -> ResampledFigures:
    """Figures where outcome k counts `weights[r, k]` times in resample r; `labels`, `predicted`: (K,).

    A class that a resample has neither in labels nor in predictions has F1 0, as in `metrics.measure`.
    """
    counts = weights.astype(np.float64)
    one_hot = np.eye(class_count)
    support = counts @ one_hot[labels]  # (R, C)
    chosen = counts @ one_hot[predicted]
    hits = counts @ (one_hot[labels] * (labels == predicted)[:, None])
    either = support + chosen
    class_f1 = np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)
    rows = counts.sum(axis=1)
    distance = np.abs(labels - predicted)
    return ResampledFigures(
        accuracy=hits.sum(axis=1) / rows,
        macro_f1=class_f1.mean(axis=1),
        weighted_f1=(class_f1 * support).sum(axis=1) / rows,
        class_f1=class_f1,
        qwk=_quadratic_weighted_kappa(counts @ distance**2, support, chosen),
        mae=counts @ distance / rows,
    )


def _quadratic_weighted_kappa(observed: Floats, support: Floats, chosen: Floats) -> Floats:
    """Cohen's kappa with quadratic weights (Cohen, 1968), (R,); 0 where neither varies.

    Args:
        observed: Squared differences, summed over rows, (R,).
        support: Rows of each class, (R, C).
        chosen: Predictions of each class, (R, C).
    """
    steps = np.arange(support.shape[1])
    # The sum over all pairs of a label and a prediction of (label - prediction)², without the pairs.
    squares = (support + chosen) @ steps**2
    expected = squares - 2 * (support @ steps) * (chosen @ steps) / support.sum(axis=1)
    ratio = np.divide(observed, expected, out=np.ones_like(expected), where=expected > 0)
    return np.asarray(1 - ratio, dtype=np.float64)


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
    """One-sided: the figure is above it in `confidence` of the resamples."""
    return float(np.quantile(values, 1 - confidence))


def upper_bound(values: Floats, confidence: float) -> float:
    """One-sided: the figure is below it in `confidence` of the resamples."""
    return float(np.quantile(values, confidence))


def _concatenate(blocks: Sequence[ResampledFigures]) -> ResampledFigures:
    return ResampledFigures(
        accuracy=np.concatenate([block.accuracy for block in blocks]),
        macro_f1=np.concatenate([block.macro_f1 for block in blocks]),
        weighted_f1=np.concatenate([block.weighted_f1 for block in blocks]),
        class_f1=np.concatenate([block.class_f1 for block in blocks]),
        qwk=np.concatenate([block.qwk for block in blocks]),
        mae=np.concatenate([block.mae for block in blocks]),
    )
