"""One module per task kind. A task knows its rows, its model, its loss and its metrics; the loop does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gauntlet.manifests.training import Training
from gauntlet.tasks.causal_lm.manifest import LanguageTraining
from gauntlet.tasks.image_classification.manifest import ImageTraining
from gauntlet.tasks.ordinal_grading.manifest import GradingTraining
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.tasks.text_classification.network import Attention

Batch = tuple[torch.Tensor, ...]
"""Tensors of B rows, in an order that only their task knows."""

WEIGHTS_FILE = "model.safetensors"
"""Of a checkpoint, under the names of the model that `untrained_model` builds."""


class Task(Protocol):
    """What the training loop needs to know of a task kind. B rows form a batch, N the validation split."""

    @property
    def train_lengths(self) -> Sequence[int]:
        """Size of each training row, by which batches are formed."""

    @property
    def train_weights(self) -> Sequence[float]:
        """How much each training row counts in the mean loss: of unweighted losses, how many it sums."""

    @property
    def validation_lengths(self) -> Sequence[int]:
        """Size of each validation row."""

    @property
    def sampling_chances(self) -> npt.NDArray[np.float64] | None:
        """Of each training row to be drawn in an epoch, (N,); None where each is there once."""

    @property
    def validation_batch_size(self) -> int:
        """Rows that are scored at once."""

    def build_model(self) -> nn.Module:
        """The model with its pretrained weights, on the CPU."""

    @property
    def remarks(self) -> Sequence[str]:
        """What the log says of the rows, a line each."""

    @property
    def of_record(self) -> Mapping[str, Any]:
        """The fields of `TrainingRecord` that are this task's own."""

    def training_batch(self, rows: Sequence[int], seed: tuple[int, int], /) -> Batch:
        """Training rows, on the CPU; what is random about one follows from the seed (seed, epoch) and it."""

    def validation_batch(self, rows: Sequence[int], epoch: int, /) -> Batch:
        """Validation rows after an epoch, on the CPU."""

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Training loss, a scalar with a gradient, and the tally (S,) of the batch's rows.

        The loss is summed, `train_weights` times for a row. The tally (S,) is what `training_metrics` needs
        of the rows, as sums over them; S may be 0.
        """

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """What `metrics` needs of each row, (B, K). The model is in eval mode."""

    def training_metrics(self, tally: Sequence[float]) -> dict[str, float]:
        """Metrics of rows as they were trained on, beside their loss, of the sum of their tallies, (S,)."""

    def metrics(self, outputs: torch.Tensor) -> dict[str, float]:
        """Metrics of the `outputs` (N, K) of all validation rows, `loss` (the mean) among them."""

    def confusion(self, outputs: torch.Tensor) -> list[list[int]]:
        """Validation rows by true class, then by predicted class; empty where rows have no class."""

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write weights of `build_model`'s model, configuration and preprocessing into an existing folder."""


def load_task(section: Training, splits: Path) -> Task:
    """The task of a manifest's section, with its training and validation rows in memory.

    Raises:
        UsageError: The splits or the pretrained model cannot be found.
    """
    if isinstance(section, TextTraining):
        from gauntlet.tasks.text_classification.training import TextClassification

        return TextClassification(section, splits)
    if isinstance(section, GradingTraining):
        from gauntlet.tasks.ordinal_grading.training import OrdinalGrading

        return OrdinalGrading(section, splits)
    if isinstance(section, LanguageTraining):
        from gauntlet.tasks.causal_lm.training import CausalLanguageModelling

        return CausalLanguageModelling(section, splits)
    assert isinstance(section, ImageTraining)
    from gauntlet.tasks.image_classification.training import ImageClassification

    return ImageClassification(section, splits)


def untrained_model(kind: str, folder: Path, classes: int, attention: Attention) -> nn.Module:
    """The classifier that a checkpoint's folder describes, without its weights."""
    if kind == "image_classification":
        from gauntlet.tasks.image_classification import training as image_classification

        return image_classification.classifier_of(folder)
    if kind == "ordinal_grading":
        from gauntlet.tasks.ordinal_grading import training as ordinal_grading

        return ordinal_grading.grader_of(folder)
    from gauntlet.tasks.text_classification import training as text_classification

    return text_classification.classifier_of(folder, classes, attention)
