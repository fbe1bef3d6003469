"""Training of a model that gives texts any number of labels. N = rows, B = batch, C = labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import f1_score
from torch.nn import functional

from gauntlet.tasks.classification.training import on_device_of
from gauntlet.tasks.multi_label_text.data import label_sets
from gauntlet.tasks.multi_label_text.manifest import MultiLabelTraining
from gauntlet.tasks.multi_label_text.thresholds import choose_thresholds, sigmoid
from gauntlet.tasks.texts import hugging_face
from gauntlet.tasks.texts import training as texts
from gauntlet.tasks.texts.manifest import Student

untrained_model = texts.untrained_model
import_checkpoint = hugging_face.import_checkpoint


class MultiLabelTask(texts.EncoderTask):
    """The task on the splits that validate-data wrote."""

    _section: MultiLabelTraining

    def __init__(
        self,
        section: MultiLabelTraining,
        splits: Path,
        student: Student | None = None,
        teacher_logits: torch.Tensor | None = None,
    ) -> None:
        """Read and tokenise the training and validation rows. Raises what `EncoderTask` does."""
        super().__init__(section, splits, targets=label_sets, student=student, teacher_outputs=teacher_logits)
        self.positive_weights = positive_weights(section, self.labels, self._train.targets)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy of logits (B, C) against targets (B, C): the mean over labels of each row."""
        smoothing = self._section.label_smoothing
        of_labels = functional.binary_cross_entropy_with_logits(
            outputs,
            targets * (1 - smoothing) + smoothing / 2,
            pos_weight=on_device_of(self.positive_weights, outputs),
            reduction="none",
        )
        return of_labels.mean(dim=1).sum()

    def imitation_loss(
        self, outputs: torch.Tensor, wanted: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """`imitation_loss` of the logits, weighted as the labels are."""
        weights = on_device_of(self.positive_weights, outputs)
        of_labels = None if weights is None else 1 + (weights - 1) * targets
        return imitation_loss(outputs, wanted, temperature, of_labels)

    def student_task(self, student: Student, teacher_outputs: torch.Tensor) -> MultiLabelTask:
        """The task of a student of this model."""
        return MultiLabelTask(self._section, self._splits, student, teacher_outputs)

    def tally(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Rows that have a label and are given it, that have it, and that are given it, (3 * C,)."""
        given, has = (outputs.detach() > 0).to(torch.int64), targets.to(torch.int64)
        return torch.cat([(given * has).sum(dim=0), has.sum(dim=0), given.sum(dim=0)])

    def training_metrics(self, tally: Sequence[float]) -> dict[str, float]:
        """Macro- and micro-F1 with the threshold 1/2 for every label."""
        both, has, given = np.array(tally, dtype=np.float64).reshape(3, -1)
        of_labels = np.divide(2 * both, has + given, out=np.zeros_like(both), where=has + given > 0)
        return {
            "macro_f1": float(of_labels.mean()),
            "micro_f1": float(2 * both.sum() / max(1.0, has.sum() + given.sum())),
        }

    def metrics(self, outputs: torch.Tensor) -> dict[str, float]:
        """Loss, macro- and micro-F1, and the share of rows with all labels right.

        The thresholds are the best for these rows, as the bundle's will be.
        """
        truth = self._validation.targets
        probabilities = sigmoid(outputs.numpy())
        given = probabilities >= choose_thresholds(probabilities, truth)
        loss = functional.binary_cross_entropy_with_logits(outputs, torch.from_numpy(truth))
        return {
            "loss": float(loss),
            "macro_f1": float(f1_score(truth, given, average="macro", zero_division=0)),
            "micro_f1": float(f1_score(truth, given, average="micro", zero_division=0)),
            "accuracy": float((given == (truth > 0)).all(axis=1).mean()),
        }


def imitation_loss(
    logits: torch.Tensor, wanted: torch.Tensor, temperature: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Kullback-Leibler divergence of each label's softened probability, the mean over labels of each row.

    It is summed over rows of logits (B, C), multiplied by the square of the temperature, and with `weights`
    (B, C) by the weight of each label.
    """
    teacher = torch.sigmoid(wanted / temperature)
    cross, own = (
        functional.binary_cross_entropy_with_logits(scores / temperature, teacher, reduction="none")
        for scores in (logits, wanted)
    )
    divergence = cross - own
    if weights is not None:
        divergence = divergence * weights
    return divergence.mean(dim=1).sum() * temperature**2


def positive_weights(
    section: MultiLabelTraining, names: Sequence[str], targets: npt.NDArray[np.float32]
) -> torch.Tensor | None:
    """Float32 (C,), in the order of the labels; None if all weigh the same.

    `balanced` is the rows without the label over those with it; a label without rows has the weight 1.
    """
    wanted = section.positive_weights
    if wanted == "none":
        return None
    if isinstance(wanted, dict):
        return torch.tensor([wanted.get(name, 1.0) for name in names], dtype=torch.float32)
    having = targets.sum(axis=0, dtype=np.float64)
    weights = np.divide(len(targets) - having, having, out=np.ones_like(having), where=having > 0)
    return torch.tensor(weights, dtype=torch.float32)


load_task = MultiLabelTask
