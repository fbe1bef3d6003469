"""Distillation: a student with fewer layers learns from the trained model, its teacher.

The student starts with some of the teacher's layers (Sanh et al., 2019, arXiv 1910.01108) and learns from the
teacher's logits (Hinton et al., 2015, arXiv 1503.02531) and from the labels.

N = training rows, B = batch, C = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.classification.training import confusion_counts, on_device_of
from gauntlet.tasks.text_classification.manifest import Student, TextTraining
from gauntlet.tasks.text_classification.network import layers_of
from gauntlet.tasks.text_classification.training import TextClassification
from gauntlet.trainer.task import Batch, DistillationStage, Tensors


class LayerDistillation:
    """Makes the student of a section: the teacher with some of its layers.

    Raises:
        UsageError: The teacher does not have these layers.
    """

    def __init__(self, section: TextTraining, splits: Path, teacher: nn.Module) -> None:
        assert section.student is not None
        self.student = section.student
        self._section, self._splits, self._teacher = section, splits, teacher
        require_layers(self.student, teacher)

    def stage(self, best: Tensors, outputs: torch.Tensor) -> DistillationStage:
        """As `gauntlet.trainer.task.Distillation` describes it."""
        of_its_own = self.student.model_dump(include={"epochs", "learning_rate"})
        return DistillationStage(
            section=self._section.model_copy(update=of_its_own),
            task=StudentTask(self._section, self._splits, self.student, outputs),
            weights=student_weights(self._teacher, best, self.student.layers),
        )


class StudentTask(TextClassification):
    """Trains the student of a section; `logits` (N, C) are its teacher's, of the training rows."""

    def __init__(self, section: TextTraining, splits: Path, student: Student, logits: torch.Tensor) -> None:
        super().__init__(section, splits)
        self._student = student
        self._logits = logits
        self.layers = len(student.layers)

    def training_batch(self, rows: Sequence[int], seed: tuple[int, int]) -> Batch:
        """Token ids (B, T), mask (B, T), labels (B,) and the teacher's logits (B, C)."""
        return *super().training_batch(rows, seed), self._logits[list(rows)]

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted sum of `distillation_loss` and cross-entropy, and the confusion of the rows."""
        ids, mask, labels, wanted = batch
        logits, weight = model(ids, mask).float(), self._student.teacher_weight
        of_classes = on_device_of(self.class_weights, logits)
        of_rows = None if of_classes is None else of_classes[labels]
        imitating = distillation_loss(logits, wanted, self._student.temperature, of_rows)
        naming = self.loss_of(logits, labels)
        return weight * imitating + (1 - weight) * naming, confusion_counts(logits, labels)


def distillation_loss(
    logits: torch.Tensor, wanted: torch.Tensor, temperature: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Kullback-Leibler divergence of the teacher's softened classes, summed over rows of logits (B, C).

    It is multiplied by the square of the temperature, so that gradients do not shrink with it (section 2 of
    Hinton et al.), and with `weights` (B,) by each row's weight.
    """
    ours, theirs = (functional.log_softmax(scores / temperature, dim=1) for scores in (logits, wanted))
    if weights is not None:
        of_rows = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
        return (of_rows * weights).sum() * temperature**2
    return functional.kl_div(ours, theirs, reduction="sum", log_target=True) * temperature**2


def require_layers(student: Student, model: nn.Module) -> None:
    """Refuse a student of layers that the model's encoder does not have, or of all its layers.

    Raises:
        UsageError: It is such a student.
    """
    found: int = model.encoder.config.num_hidden_layers  # type: ignore[union-attr, assignment]
    if student.layers[-1] >= found or len(student.layers) == found:
        raise UsageError(
            f"training.student.layers: found {list(student.layers)}, expected some but not all of "
            f"0 to {found - 1}, the encoder's layers."
        )


def student_weights(model: nn.Module, weights: Tensors, layers: Sequence[int]) -> Tensors:
    """A model's weights with only these of the encoder's layers, which are renumbered from 0."""
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
