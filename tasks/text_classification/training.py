"""Training of a text classifier on tokenised rows. N = training rows, B = batch, C = classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

from gauntlet.tasks.classification.training import (
    WeightedClassifierTask,
    confusion_counts,
    on_device_of,
)
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.tasks.texts import hugging_face
from gauntlet.tasks.texts import training as texts
from gauntlet.tasks.texts.manifest import Student

untrained_model = texts.untrained_model
import_checkpoint = hugging_face.import_checkpoint


class TextClassification(texts.EncoderTask, WeightedClassifierTask):
    """The task on the splits that validate-data wrote."""

    _section: TextTraining

    def __init__(
        self,
        section: TextTraining,
        splits: Path,
        student: Student | None = None,
        teacher_logits: torch.Tensor | None = None,
    ) -> None:
        """Read and tokenise the training and validation rows. Raises what `EncoderTask` does."""
        texts.EncoderTask.__init__(self, section, splits, student=student, teacher_outputs=teacher_logits)
        targets = self._train.targets, self._validation.targets
        WeightedClassifierTask.__init__(self, section, self.labels, *targets)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy, or the section's own loss."""
        return self.loss_of(outputs, targets)

    def imitation_loss(
        self, outputs: torch.Tensor, wanted: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """`distillation_loss`, weighted by class."""
        of_classes = on_device_of(self.class_weights, outputs)
        of_rows = None if of_classes is None else of_classes[targets]
        return distillation_loss(outputs, wanted, temperature, of_rows)

    def student_task(self, student: Student, teacher_outputs: torch.Tensor) -> TextClassification:
        """The task of a student of this classifier."""
        return TextClassification(self._section, self._splits, student, teacher_outputs)

    def tally(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The confusion of the rows."""
        return confusion_counts(outputs, targets)


def distillation_loss(
    logits: torch.Tensor, wanted: torch.Tensor, temperature: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Kullback-Leibler divergence of the teacher's softened classes, summed over rows of logits (B, C).

    It is multiplied by the square of the temperature, so that gradients do not shrink with it (section 2 of
    Hinton et al., 2015, arXiv 1503.02531), and with `weights` (B,) by each row's weight.
    """
    student, teacher = (functional.log_softmax(scores / temperature, dim=1) for scores in (logits, wanted))
    if weights is not None:
        of_rows = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
        return (of_rows * weights).sum() * temperature**2
    return functional.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2


load_task = TextClassification
