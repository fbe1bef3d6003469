"""Weights of rows by their class, for classes of different sizes. N = rows, C = classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.class_weight import compute_class_weight

from gauntlet.manifests.training import ClassTraining
from gauntlet.trainer.batching import sampling_chances


def class_weights(
    section: ClassTraining, names: Sequence[str], labels: npt.NDArray[np.int64]
) -> torch.Tensor | None:
    """Float32 (C,), in the order of the classes' names; None if every row counts the same.

    `balanced` is N / (C * rows of the class), as in scikit-learn; a class without rows has the weight 1.
    """
    wanted = section.class_weights
    if wanted == "none":
        return None
    weights = np.ones(len(names))
    if isinstance(wanted, dict):
        weights[:] = [wanted.get(name, 1.0) for name in names]
    else:
        found = np.unique(labels)
        weights[found] = compute_class_weight("balanced", classes=found, y=labels)
    return torch.tensor(weights, dtype=torch.float32)


def row_weights(weights: torch.Tensor | None, labels: npt.NDArray[np.int64]) -> Sequence[float]:
    """The weight of each row's loss, (N,); a step's loss is divided by the sum of its rows' weights."""
    if weights is None:
        return [1] * len(labels)
    return [float(weight) for weight in weights[torch.from_numpy(labels)]]


def balanced_chances(section: ClassTraining, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64] | None:
    """The weight with which `training.sampler` draws each row, (N,); None if each comes once per epoch."""
    return sampling_chances(labels, power=1.0) if section.sampler == "balanced" else None


def on_device_of(weights: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor | None:
    """The weights, on the device of the logits."""
    return None if weights is None else weights.to(logits.device)
