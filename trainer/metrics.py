"""Metrics of a classifier on the validation split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional


def classification_metrics(logits: torch.Tensor, labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Metrics of logits (N, C) against labels (N,). A class without rows or predictions counts as F1 0."""
    predicted = logits.argmax(dim=1).numpy()
    classes = list(range(logits.shape[1]))
    return {
        "loss": float(functional.cross_entropy(logits, torch.from_numpy(labels))),
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, labels=classes, average="macro", zero_division=0)),
        "weighted_f1": float(
            f1_score(labels, predicted, labels=classes, average="weighted", zero_division=0)
        ),
    }
