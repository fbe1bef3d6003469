"""Metrics of a classifier; but for the loss they are of its confusion, how many of class i it took for j.

N = rows, C = classes. Counts add up over batches and ranks, so metrics of all rows are exact however rows
were batched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from torch.nn import functional


def classification_metrics(logits: torch.Tensor, labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Metrics of logits (N, C) against labels (N,). A class without rows or predictions counts as F1 0."""
    truth = torch.from_numpy(labels)
    loss = float(functional.cross_entropy(logits, truth))
    return {"loss": loss} | confusion_metrics(confusion_counts(logits, truth).tolist())


def confusion_counts(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Rows by true and predicted class, (C * C,) int64, of logits (N, C) and labels (N,), where they are."""
    classes = logits.shape[1]
    cells = labels * classes + logits.detach().argmax(dim=1)
    counts = torch.zeros(classes**2, dtype=torch.int64, device=cells.device)
    return counts.scatter_add_(0, cells, torch.ones_like(cells))  # unlike bincount it waits for no device


def confusion_metrics(counts: Sequence[float]) -> dict[str, float]:
    """Accuracy, macro and weighted F1 of counts (C * C,)."""
    truth, predicted, classes = _outcomes(len(counts))

    def f1(average: str) -> float:
        score = f1_score(
            truth, predicted, labels=classes, average=average, sample_weight=counts, zero_division=0
        )
        return float(score)

    accuracy = float(accuracy_score(truth, predicted, sample_weight=counts))
    return {"accuracy": accuracy, "macro_f1": f1("macro"), "weighted_f1": f1("weighted")}


def class_metrics(confusion: Sequence[Sequence[int]]) -> dict[str, list[float]]:
    """Precision, recall and F1 by class of a confusion (C, C), true classes first; 0 where of no rows."""
    counts = np.asarray(confusion).ravel()
    truth, predicted, classes = _outcomes(len(counts))
    figures = precision_recall_fscore_support(
        truth, predicted, labels=classes, sample_weight=counts, zero_division=0
    )
    return {
        name: [float(value) for value in values]
        for name, values in zip(("precision", "recall", "f1"), figures, strict=False)
    }


def _outcomes(cells: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The true and the predicted class of each of C * C cells, and the classes."""
    classes = np.arange(round(cells**0.5))
    return np.repeat(classes, len(classes)), np.tile(classes, len(classes)), classes
