"""Whether the model is worse than promised: proven by labels, or estimated without them.

N = rows, C = classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.stats import beta

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

BETS = 8
SMALLEST_BET, LARGEST_BET = 0.02, 0.95
CALIBRATION_BINS = 15
Z_95 = 1.959963984540054
LEAST_PROBABILITY = 1e-12
EM_ROUNDS, EM_CLOSE = 1_000, 1e-8


@dataclass(frozen=True)
class Alarm:
    """What the e-detector says of a series of losses.

    Attributes:
        row: The first row, from 1, at which harm was proven; None if it was not.
        largest: The largest value of the detector.
        since: The row, from 1, from which on the losses speak most against the promise.
    """

    row: int | None
    largest: float
    since: int | None


def upper_error(errors: int, rows: int, confidence: float = 0.99) -> float:
    """The upper bound of an error rate: Clopper and Pearson's, one-sided."""
    return 1.0 if errors >= rows else float(beta.ppf(confidence, errors + 1, rows - errors))


def upper_mean(losses: Floats, confidence: float = 0.99) -> float:
    """The one-sided upper bound of the mean of losses from 0 to 1, (N,), N ≥ 2.

    It is the empirical Bernstein bound of Maurer and Pontil (https://arxiv.org/abs/0907.3740, theorem 4).
    """
    rows, spread = len(losses), math.log(2 / (1 - confidence))
    deviation = math.sqrt(2 * float(losses.var(ddof=1)) * spread / rows)
    return min(1.0, float(losses.mean()) + deviation + 7 * spread / (3 * (rows - 1)))


def detect_harm(losses: Floats, bound: float, run_length: float) -> Alarm:
    """Whether losses from 0 to 1, in the order of time, have a mean above `bound` from some row on.

    While the expectation of each loss, given the earlier ones, is at most `bound`, the expected number of
    rows up to an alarm is at least `run_length`, at any time and for dependent rows. It is the
    Shiryaev-Roberts e-detector with a mixture of bets (https://arxiv.org/abs/2203.03532).
    """
    values = detector(losses, bound)
    reached = np.flatnonzero(values >= run_length)
    excess = np.concatenate([[0.0], np.cumsum(losses - bound)])
    row = int(reached[0]) + 1 if len(reached) else None
    since = None if row is None else int(excess[:row].argmin()) + 1
    return Alarm(row, float(values.max(initial=0.0)), since)


def detector(losses: Floats, bound: float) -> Floats:
    """The value of the e-detector after each of the losses (…, N), of one or several series."""
    bets = np.minimum(np.geomspace(SMALLEST_BET, LARGEST_BET / bound, BETS), LARGEST_BET / bound)
    state = np.zeros((*losses.shape[:-1], BETS))
    found = np.empty(losses.shape)
    for at in range(losses.shape[-1]):
        state = (state + 1) * (1 + bets * (losses[..., at, None] - bound))
        state = np.minimum(state, 1e300)
        found[..., at] = state.mean(-1)
    return found


# --- without labels ----------------------------------------------------------------------------------


def calibrated(probabilities: Floats, temperature: float, biases: Floats | float = 0.0) -> Floats:
    """Probabilities (N, C) of the logits log(p) / temperature + biases."""
    logits = np.log(np.maximum(probabilities, LEAST_PROBABILITY)) / temperature + biases
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)  # type: ignore[no-any-return]


def fit_calibration(probabilities: Floats, labels: Numbers) -> tuple[float, Floats]:
    """The temperature and the biases (C,) with the least negative log-likelihood.

    It is the bias-corrected temperature scaling of https://arxiv.org/abs/1901.06852. Biases have a normal
    prior with a standard deviation of 1, for classes with few rows.
    """
    logits = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
    rows, classes = logits.shape
    is_label = labels[:, None] == np.arange(classes)

    def loss(at: Floats) -> tuple[float, Floats]:
        scaled = logits * at[0] + at[1:]
        scaled -= scaled.max(1, keepdims=True)
        total = np.log(np.exp(scaled).sum(1, keepdims=True))
        gap = np.exp(scaled - total) - is_label
        slope = np.concatenate([[(gap * logits).sum()], gap.sum(0) + at[1:]])
        value = -(scaled - total)[is_label].sum() + (at[1:] ** 2).sum() / 2
        return float(value) / rows, slope / rows

    start = np.concatenate([[1.0], np.zeros(classes)])
    bounds = [(math.exp(-3), math.exp(3)), *[(None, None)] * classes]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(1 / found[0]), np.asarray(found[1:] - found[1:].mean(), dtype=np.float64)


def calibration_error(confidence: Floats, is_right: npt.NDArray[np.bool_]) -> float:
    """The expected calibration error over 15 bins of equal width."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - is_right, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


@dataclass(frozen=True)
class Estimate:
    """What calibrated probabilities say of rows without labels.

    `accuracy_low` and `accuracy_high` are a 95 % interval, if the calibration still holds.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_f1: float


def estimate(probabilities: Floats) -> Estimate:
    """The expected accuracy and macro F1 (CBPE, https://arxiv.org/abs/2505.05295) of rows (N, C)."""
    confidence, predicted = probabilities.max(1), probabilities.argmax(1)
    accuracy = float(confidence.mean())
    spread = Z_95 * math.sqrt(float((confidence * (1 - confidence)).sum())) / len(confidence)
    is_predicted = predicted[:, None] == np.arange(probabilities.shape[1])
    right = (probabilities * is_predicted).sum(0)
    both = is_predicted.sum(0) + probabilities.sum(0)  # = 2 TP + FP + FN
    f1 = 2 * right / np.maximum(both, LEAST_PROBABILITY)
    return Estimate(accuracy, max(0.0, accuracy - spread), min(1.0, accuracy + spread), float(f1.mean()))


def shifted_priors(probabilities: Floats, priors: Floats) -> Floats:
    """The shares of the classes (C,) in rows without labels, by expectation maximisation.

    It holds where only the shares have changed, not what a class looks like. `priors` are those that the
    probabilities were calibrated on (Saerens 2002, doi:10.1162/089976602753284446; with calibration
    https://arxiv.org/abs/1901.06852).
    """
    found = priors.copy()
    for _ in range(EM_ROUNDS):
        weighted = probabilities * (found / np.maximum(priors, LEAST_PROBABILITY))
        last, found = found, (weighted / weighted.sum(1, keepdims=True)).mean(0)
        if np.abs(found - last).max() < EM_CLOSE:
            break
    return found
