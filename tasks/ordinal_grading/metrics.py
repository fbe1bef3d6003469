"""Metrics of a grader that need no torch, for evaluate-model. N = rows.

NaN means no label.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import cohen_kappa_score


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


def mean_known_error(found: npt.NDArray[np.float32], targets: npt.NDArray[np.float32]) -> float | None:
    """The mean absolute error of the values (N, M) where both are finite; None if there are none."""
    errors = np.abs(found - targets)
    known = np.isfinite(errors)
    return float(errors[known].mean()) if known.any() else None
