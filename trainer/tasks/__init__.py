"""One module per task kind. A task knows its rows, its model, its loss and its metrics; the loop does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from manifests.errors import UsageError
from manifests.schema import Training


class Task(Protocol):
    """What the training loop needs to know of a task kind. B rows form a batch."""

    @property
    def train_lengths(self) -> Sequence[int]:
        """Size of each training row, by which batches are formed."""

    def build_model(self) -> nn.Module:
        """The model with its pretrained weights, on the CPU."""

    def loss_sum(self, model: nn.Module, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """Training loss summed over the given training rows, a scalar with a gradient."""

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Metrics on the validation split, `loss` (mean per row) among them. The model is in eval mode."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write weights, configuration and preprocessing into an existing folder."""


def load_task(kind: str, section: Training, splits: Path) -> Task:
    """The task of a kind, with its training and validation rows in memory."""
    if kind == "text_classification":
        from trainer.tasks.text_classification import TextClassification

        return TextClassification(section, splits)
    raise UsageError(f"task: found {kind!r}, expected text_classification")
