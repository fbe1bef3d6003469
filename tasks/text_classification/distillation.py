"""The task of a student: text classification by a model with fewer layers, which learns from a larger one.

It begins as its teacher with some of the layers (Sanh et al., 2019, arXiv 1910.01108) and learns from the
teacher's scores (Hinton et al., 2015, arXiv 1503.02531) beside the labels.

N = training rows, B = batch, C = classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.classification.class_weights import on_device_of
from gauntlet.tasks.classification.training_metrics import confusion_counts
from gauntlet.tasks.text_classification.manifest import Student, TextTraining
from gauntlet.tasks.text_classification.network import layers_of
from gauntlet.tasks.text_classification.training import TextClassification
from gauntlet.trainer.replica import Tensors
from gauntlet.trainer.task import Batch
from gauntlet.trainer.watch import Tracker


class Distillation(TextClassification):
    """Trains the student of a section; `scores` (N, C) are its teacher's logits of the training rows."""

    def __init__(self, section: TextTraining, splits: Path, student: Student, scores: torch.Tensor) -> None:
        super().__init__(section, splits)
        self._student = student
        self._scores = scores
        self.layers = len(student.layers)

    def training_batch(self, rows: Sequence[int], seed: tuple[int, int]) -> Batch:
        """Token ids (B, T), mask (B, T), labels (B,) and the teacher's logits (B, C)."""
        return *super().training_batch(rows, seed), self._scores[list(rows)]

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """`distillation_loss` of the scores and cross-entropy of the labels, weighted, and the confusion."""
        ids, mask, labels, wanted = batch
        logits, weight = model(ids, mask).float(), self._student.teacher_weight
        of_classes = on_device_of(self._class_weights, logits)
        of_rows = None if of_classes is None else of_classes[labels]
        imitating = distillation_loss(logits, wanted, self._student.temperature, of_rows)
        naming = functional.cross_entropy(
            logits,
            labels,
            weight=of_classes,
            reduction="sum",
            label_smoothing=self._section.label_smoothing,
        )
        return weight * imitating + (1 - weight) * naming, confusion_counts(logits, labels)


def distillation_loss(
    logits: torch.Tensor, wanted: torch.Tensor, temperature: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Kullback-Leibler divergence of the teacher's softened classes, summed over rows of logits (B, C).

    Times the temperature's square, so that gradients do not shrink with it: section 2 of Hinton et al. With
    `weights` (B,) each row's is weighed.
    """
    ours, theirs = (functional.log_softmax(scores / temperature, dim=1) for scores in (logits, wanted))
    if weights is not None:
        of_rows = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
        return (of_rows * weights).sum() * temperature**2
    return functional.kl_div(ours, theirs, reduction="sum", log_target=True) * temperature**2


def require_layers(student: Student, model: nn.Module) -> None:
    """Refuse a student of layers that the model's encoder does not have.

    Raises:
        UsageError: It does.
    """
    found: int = model.encoder.config.num_hidden_layers  # type: ignore[union-attr, assignment]
    if student.layers[-1] >= found or len(student.layers) == found:
        raise UsageError(
            f"training.student.layers: found {list(student.layers)}, expected some but not all of "
            f"0 to {found - 1}, the encoder's layers."
        )


def student_weights(model: nn.Module, weights: Tensors, layers: Sequence[int]) -> Tensors:
    """A model's weights without the encoder's layers but these, which are counted anew from 0."""
    name = f"encoder.{layers_of(model.encoder)[0]}"  # type: ignore[arg-type]
    prefixes = {f"{name}.{layer}.": f"{name}.{at}." for at, layer in enumerate(layers)}
    kept: Tensors = {}
    for key, tensor in weights.items():
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix:
            kept[prefixes[prefix] + key.removeprefix(prefix)] = tensor
        elif not key.startswith(f"{name}."):
            kept[key] = tensor
    return kept


class StudentTracker:
    """Tells a tracker of the student: `student_validation_macro_f1`, `step/student_loss`."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics by the student's own epochs or steps."""
        self._tracker.log_metrics({_renamed(name): value for name, value in metrics.items()}, step)


def _renamed(name: str) -> str:
    folder, slash, metric = name.rpartition("/")
    return f"{folder}{slash}student_{metric}"
