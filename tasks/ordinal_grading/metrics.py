"""Metrics of a grader that need no torch, for evaluate-model. N = rows; NaN means no label."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import cohen_kappa_score

from gauntlet.components import bootstrap
from gauntlet.tasks.classification.metrics import Resamples, resampled_metrics


def quadratic_weighted_kappa(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], grades: int
) -> float:
    """Cohen's kappa with quadratic weights; 0 if neither input varies, since kappa is undefined then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        kappa = cohen_kappa_score(
            labels, predicted, labels=list(range(grades)), weights="quadratic", replace_undefined_by=0.0
        )
    return float(kappa)


@dataclass(frozen=True)
class GradeFigures:
    """Metrics of classes that are steps of a scale.

    Attributes:
        qwk: Cohen's kappa with quadratic weights; 0 where neither labels nor predictions vary.
        mae: Mean distance of the predicted grade from the true one.
        within_one: Share of rows whose distance is at most one grade.
    """

    qwk: float
    mae: float
    within_one: float


def measure_grades(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], grades: int
) -> GradeFigures:
    """Every metric of one model."""
    kappa = quadratic_weighted_kappa(labels, predicted, grades)
    distance = np.abs(labels - predicted)
    return GradeFigures(kappa, float(distance.mean()), float((distance <= 1).mean()))


def resampled_grade_metrics(drawn: Resamples) -> bootstrap.Metrics:
    """The metrics of a classifier, and kappa and the mean error, (R,), on each resample."""
    distance, steps = np.abs(drawn.labels - drawn.predicted), np.arange(drawn.support.shape[1])
    # The sum over all pairs of a label and a prediction of (label - prediction)², without the pairs.
    squares = (drawn.support + drawn.chosen) @ steps**2
    expected = squares - 2 * (drawn.support @ steps) * (drawn.chosen @ steps) / drawn.support.sum(axis=1)
    observed = drawn.counts @ distance**2
    ratio = np.divide(observed, expected, out=np.ones_like(expected), where=expected > 0)
    errors = drawn.counts @ distance / drawn.counts.sum(axis=1)
    return {**resampled_metrics(drawn), "qwk": 1 - ratio, "mae": errors}


def mean_known_error(found: npt.NDArray[np.float32], targets: npt.NDArray[np.float32]) -> float | None:
    """The mean absolute error of the values (N, M) where both are finite; None if there are none."""
    errors = np.abs(found - targets)
    known = np.isfinite(errors)
    return float(errors[known].mean()) if known.any() else None
