"""How far numbers are off: metrics, their values on resampled rows, and split-conformal intervals.

N = rows, M = models, R = resamples. All errors are in the unit of the target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from gauntlet.components import bootstrap
from gauntlet.manifests.gates import resolvable_mean

Floats = npt.NDArray[np.float64]

CORRELATION = 0.5
"""The assumed correlation of two models' absolute errors: models with the same training rows are wrong about
the same ones."""

BINS = 16
NICE_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
TAIL = 0.005  # of the values at either end, which the outermost bins take in


def measure(targets: Floats, predicted: Floats) -> dict[str, float]:
    """MAE, RMSE and R² of predictions (N,)."""
    found = metrics_of(moments(targets, predicted, float(targets.mean())).mean(axis=0))
    return {name: float(value) for name, value in found.items()}


def moments(targets: Floats, predicted: Floats, centre: float) -> Floats:
    """(N, 4): absolute and squared error, target and squared target; metrics are functions of their means.

    `centre` is subtracted from the targets. R² does not depend on it, but its rounding errors are smaller.
    """
    error, centred = predicted - targets, targets - centre
    return np.stack([np.abs(error), error**2, centred, centred**2], axis=1)


def metrics_of(means: Floats) -> Mapping[str, Floats]:
    """MAE, RMSE and R² of mean moments (…, 4).

    A prediction of the targets' own mean has an R² of 0. If all targets are equal, R² is 1 of a model without
    error, else 0, as in scikit-learn.
    """
    absolute, squared, first, second = np.moveaxis(means, -1, 0)
    variance = np.maximum(second - first**2, 0.0)
    constant = np.where(squared > 0, 0.0, 1.0)
    # The variance of equal targets is 0 except for rounding.
    varies = variance > np.finfo(np.float64).eps * second
    ratio = np.divide(squared, variance, out=np.zeros_like(variance), where=varies)
    return {"mae": absolute, "rmse": np.sqrt(squared), "r2": np.where(varies, 1 - ratio, constant)}


def resample(
    targets: Floats, models: Sequence[Floats], resamples: int, seed: int
) -> tuple[Mapping[str, Floats], ...]:
    """MAE, RMSE and R² of each of M models on the same `resamples` draws of N rows, (R,)."""
    centre = float(targets.mean())
    outcomes = np.concatenate([moments(targets, predicted, centre) for predicted in models], axis=1)
    means = bootstrap.resampled_means(outcomes, resamples, seed)  # (R, 4 M)
    return tuple(metrics_of(part) for part in np.split(means, len(models), axis=1))


def resolvable_error(rows: int, spread: float, confidence: float = 0.95) -> float:
    """The smallest difference in the mean absolute error that a comparison on so many rows can show.

    `spread` is the standard deviation of one model's absolute errors.
    """
    return resolvable_mean(rows, spread * math.sqrt(2 * (1 - CORRELATION)), confidence)


def half_width(residuals: Floats, coverage: float) -> float:
    """Half of the width of an interval around a prediction that holds `coverage` of new targets.

    Split-conformal prediction (Lei et al., 2018, arXiv 1604.04173): the ⌈(n + 1) · coverage⌉-th smallest
    absolute residual (N,) of rows that did not fit the model; the largest one if there are too few rows.
    """
    ordered = np.sort(np.abs(residuals))
    rank = min(len(ordered), math.ceil((len(ordered) + 1) * coverage))
    return float(ordered[rank - 1])


def bin_edges(values: Floats) -> tuple[float, ...]:
    """Lower bounds of about `BINS` bins and the end of the last one, at round numbers, for values (N,)."""
    low, high = (float(value) for value in np.quantile(values, [TAIL, 1 - TAIL]))
    power = 10.0 ** math.floor(math.log10((high - low) / BINS)) if high > low else 1.0
    step = power * next(nice for nice in NICE_STEPS if power * nice * BINS >= high - low)
    first, last = math.floor(low / step), math.floor(high / step) + 1
    digits = max(0, 2 - math.floor(math.log10(step)))
    return tuple(round(at * step, digits) for at in range(first, last + 1))


def histogram(values: Floats, edges: Sequence[float]) -> tuple[int, ...]:
    """How many values (N,) are in each bin; the first and the last bin hold those beyond them too."""
    at = np.searchsorted(edges, values, side="right") - 1
    return tuple(np.bincount(at.clip(0, len(edges) - 2), minlength=len(edges) - 1).tolist())
