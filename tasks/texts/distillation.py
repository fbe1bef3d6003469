"""Distillation: a student with fewer layers learns from the trained model, its teacher.

The student starts with some of the teacher's layers (Sanh et al., 2019, arXiv 1910.01108) and learns from the
teacher's outputs (Hinton et al., 2015, arXiv 1503.02531) and from the targets.

N = training rows, K = outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.texts.manifest import EncoderTraining, Student
from gauntlet.tasks.texts.network import layers_of
from gauntlet.trainer.task import DistillationStage, Task, Tensors


class LayerDistillation:
    """Makes the student of a section: the teacher with some of its layers.

    Raises:
        UsageError: The teacher does not have these layers.
    """

    def __init__(
        self,
        section: EncoderTraining,
        student: Student,
        teacher: nn.Module,
        task: Callable[[Student, torch.Tensor], Task],
    ) -> None:
        """`task` makes the student's task from its teacher's outputs for the training rows, (N, K)."""
        self.student = student
        self._section, self._teacher, self._task = section, teacher, task
        require_layers(student, teacher)

    def stage(self, best: Tensors, outputs: torch.Tensor) -> DistillationStage:
        """As `gauntlet.trainer.task.Distillation` describes it."""
        of_its_own = self.student.model_dump(include={"epochs", "learning_rate"})
        return DistillationStage(
            section=self._section.model_copy(update=of_its_own),
            task=self._task(self.student, outputs),
            weights=student_weights(self._teacher, best, self.student.layers),
        )


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
