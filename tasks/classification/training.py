"""What classifiers have in common in training: metrics, weights of classes, and a base class of their tasks.

All metrics except the loss are computed from the confusion matrix, in which entry (i, j) counts rows of class
i that were predicted as class j. Counts add up over batches and ranks, so the metrics of all rows do not
depend on how rows were batched. N = rows, B = rows of a batch, C = classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.classification.manifest import ClassTraining
from gauntlet.trainer.batching import Lengths, sampling_chances
from gauntlet.trainer.own_network import OwnLoss, own_loss
from gauntlet.trainer.task import Task


class ClassifierTask(Task):
    """A task with one class per row, whose outputs are logits (N, C).

    Attributes:
        train_labels, validation_labels: Class indices, (N,).
        row_weights: Weight of each training row's loss, (N,).
        chances: Probability of each training row to be drawn, (N,); None: each comes once.
    """

    train_labels: npt.NDArray[np.int64]
    validation_labels: npt.NDArray[np.int64]
    row_weights: npt.NDArray[Any]
    chances: npt.NDArray[np.float64] | None = None

    @property
    def train_lengths(self) -> Lengths:
        """All rows are of one size."""
        return np.ones_like(self.train_labels)

    @property
    def validation_lengths(self) -> Lengths:
        """As `train_lengths`."""
        return np.ones_like(self.validation_labels)

    @property
    def train_weights(self) -> npt.NDArray[Any]:
        """The weights of the rows' losses."""
        return self.row_weights

    @property
    def sampling_chances(self) -> npt.NDArray[np.float64] | None:
        """The probabilities of the rows."""
        return self.chances

    def training_metrics(self, tally: Sequence[float]) -> dict[str, float]:
        """Accuracy, macro and weighted F1 of a confusion (C * C,)."""
        return confusion_metrics(tally)

    def metrics(self, outputs: torch.Tensor) -> dict[str, float]:
        """Loss, accuracy, macro and weighted F1."""
        return classification_metrics(outputs, self.validation_labels)

    def confusion(self, outputs: torch.Tensor) -> list[list[int]]:
        """The confusion matrix, (C, C)."""
        counts = confusion_counts(outputs, torch.from_numpy(self.validation_labels))
        return cast(list[list[int]], counts.view(outputs.shape[1], -1).tolist())


class WeightedClassifierTask(ClassifierTask):
    """A classifier whose section may weight or balance classes, and name a network or a loss."""

    def __init__(
        self,
        section: ClassTraining,
        names: Sequence[str],
        train_labels: npt.NDArray[np.int64],
        validation_labels: npt.NDArray[np.int64],
    ) -> None:
        self.train_labels, self.validation_labels = train_labels, validation_labels
        self.class_weights = class_weights(section, names, train_labels)
        self.row_weights = row_weights(self.class_weights, train_labels)
        self.chances = balanced_chances(section, train_labels)
        self._training, self._classes = section, len(names)

    @property
    def own_arguments(self) -> Mapping[str, Any]:
        """The number of classes."""
        return {"classes": self._classes}

    @property
    def network_outputs(self) -> Sequence[tuple[int, ...]]:
        """Logits (C,)."""
        return ((self._classes,),)

    @cached_property
    def _own_loss(self) -> OwnLoss | None:
        return own_loss(self._training, self.own_arguments)

    def loss_of(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of logits (B, C), weighted by class and summed over rows: cross-entropy with label
        smoothing, or the section's own.
        """
        weights = on_device_of(self.class_weights, logits)
        if self._own_loss is None:
            smoothing = self._training.label_smoothing
            return functional.cross_entropy(
                logits, labels, weight=weights, reduction="sum", label_smoothing=smoothing
            )
        losses = self._own_loss(logits, labels)
        return losses.sum() if weights is None else (losses * weights[labels]).sum()

    def metrics(self, outputs: torch.Tensor) -> dict[str, float]:
        """A classifier's metrics; `loss` is the mean of the section's own loss if it names one."""
        metrics = super().metrics(outputs)
        if self._own_loss is not None:
            labels = torch.from_numpy(self.validation_labels)
            metrics["loss"] = float(self._own_loss(outputs, labels).mean())
        return metrics


def classification_metrics(logits: torch.Tensor, labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Metrics of logits (N, C) against labels (N,). A class without rows or predictions counts as F1 0."""
    truth = torch.from_numpy(labels)
    loss = float(functional.cross_entropy(logits, truth))
    return {"loss": loss} | confusion_metrics(confusion_counts(logits, truth).tolist())


def confusion_counts(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Rows by true and predicted class, (C * C,) int64, of logits (N, C) and labels (N,), on their device."""
    classes = logits.shape[1]
    cells = labels * classes + logits.detach().argmax(dim=1)
    counts = torch.zeros(classes**2, dtype=torch.int64, device=cells.device)
    # Unlike bincount, it does not wait for the device.
    return counts.scatter_add_(0, cells, torch.ones_like(cells))


def confusion_metrics(counts: Sequence[float]) -> dict[str, float]:
    """Accuracy, macro and weighted F1 of counts (C * C,), by true class, then by predicted class."""
    classes = np.arange(round(len(counts) ** 0.5))
    truth, predicted = np.repeat(classes, len(classes)), np.tile(classes, len(classes))

    def f1(average: str) -> float:
        score = f1_score(
            truth, predicted, labels=classes, average=average, sample_weight=counts, zero_division=0
        )
        return float(score)

    accuracy = float(accuracy_score(truth, predicted, sample_weight=counts))
    return {"accuracy": accuracy, "macro_f1": f1("macro"), "weighted_f1": f1("weighted")}


def class_weights(
    section: ClassTraining, names: Sequence[str], labels: npt.NDArray[np.int64]
) -> torch.Tensor | None:
    """Float32 (C,), in the order of the classes' names; None if every row counts the same.

    `balanced` is N / (C * rows of the class), as in scikit-learn; a class without rows has the weight 1.

    Raises:
        UsageError: A weight is given for a class that there is not.
    """
    wanted = section.class_weights
    if wanted == "none":
        return None
    weights = np.ones(len(names))
    if isinstance(wanted, dict):
        if unknown := sorted(set(wanted) - set(names)):
            raise UsageError(
                f"training.class_weights: found {', '.join(unknown)}, expected some of the classes of the "
                f"data: {', '.join(names)}."
            )
        weights[:] = [wanted.get(name, 1.0) for name in names]
    else:
        found = np.unique(labels)
        weights[found] = compute_class_weight("balanced", classes=found, y=labels)
    return torch.tensor(weights, dtype=torch.float32)


def row_weights(weights: torch.Tensor | None, labels: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """The weight of each row's loss, (N,); a step's loss is divided by the sum of its rows' weights."""
    return np.ones_like(labels) if weights is None else weights.double().numpy()[labels]


def balanced_chances(section: ClassTraining, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64] | None:
    """The weight with which `training.sampler` draws each row, (N,); None if each comes once per epoch."""
    return sampling_chances(labels, power=1.0) if section.sampler == "balanced" else None


def on_device_of(weights: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor | None:
    """The weights, on the device of the logits."""
    return None if weights is None else weights.to(logits.device)
