"""What the training loop asks of a kind of model: its rows, its network, its loss and its metrics.

The module `training` of a kind defines `load_task`, which returns a `Task`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gauntlet.manifests.kinds import task_kind
from gauntlet.manifests.section import Section
from gauntlet.manifests.training import Training
from gauntlet.trainer.batching import Lengths

Batch = tuple[torch.Tensor, ...]
"""Tensors of B rows, in an order that only their task knows."""

Tensors = dict[str, torch.Tensor]

WEIGHTS_FILE = "model.safetensors"
"""Of a checkpoint, under the names of the model that the kind's `untrained_model` builds."""


class Task(ABC):
    """A kind's rows and model. B rows form a batch, N the validation split."""

    validation_batch_size: int
    """Rows that are scored at once."""

    uses_cpu_kernels: bool = True
    """Whether, on a CPU, dropout, layer norm and attention are computed by `gauntlet.trainer.cpu`."""

    @property
    @abstractmethod
    def train_lengths(self) -> Lengths:
        """Size of each training row. Rows of similar size are batched together."""

    @property
    @abstractmethod
    def validation_lengths(self) -> Lengths:
        """Size of each validation row."""

    @property
    def train_weights(self) -> Sequence[float] | npt.NDArray[Any]:
        """Weight of each training row in the mean loss; for a sum of losses, how many it sums."""
        return np.ones(len(self.train_lengths), dtype=np.int64)

    @property
    def sampling_chances(self) -> npt.NDArray[np.float64] | None:
        """Probability of each training row to be drawn in an epoch, (N,); None: each row comes once."""
        return None

    @property
    def remarks(self) -> Sequence[str]:
        """Lines about the rows for the log."""
        return ()

    @property
    def of_record(self) -> Mapping[str, Any]:
        """The kind's own fields of `TrainingRecord`."""
        return {}

    @property
    def own_arguments(self) -> Mapping[str, Any]:
        """What a network or a loss of the user's own may ask for, by argument: JSON types."""
        return {}

    @property
    def network_outputs(self) -> Sequence[tuple[int, ...]]:
        """The shapes, without B, of what a network of the user's own returns; empty: the kind takes none."""
        return ()

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The model with its pretrained weights, on the CPU."""

    def size(self, model: nn.Module) -> int:
        """Numbers in all tensors of the model, as its architecture has them."""
        return sum(tensor.numel() for tensor in unaliased(model).values())

    @abstractmethod
    def training_batch(self, rows: Sequence[int], seed: tuple[int, int], /) -> Batch:
        """Training rows, on the CPU. `seed` is (seed, epoch); with the row it decides all randomness."""

    @abstractmethod
    def validation_batch(self, rows: Sequence[int], epoch: int, /) -> Batch:
        """Validation rows after an epoch, on the CPU."""

    @abstractmethod
    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Training loss, a scalar with a gradient, and the tally (S,) of the batch's rows.

        The loss is summed over rows, each weighted by its `train_weights`. The tally holds the sums over the
        rows that `training_metrics` needs; S may be 0.
        """

    @abstractmethod
    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """What `metrics` needs of each row, (B, K). The model is in eval mode."""

    @abstractmethod
    def training_metrics(self, tally: Sequence[float]) -> dict[str, float]:
        """Metrics of the training rows beside their loss, from the sum (S,) of their tallies."""

    @abstractmethod
    def metrics(self, outputs: torch.Tensor) -> dict[str, float]:
        """Metrics of the `outputs` (N, K) of all validation rows, among them `loss`, the mean."""

    def confusion(self, outputs: torch.Tensor) -> list[list[int]]:  # noqa: ARG002
        """Validation rows by true class, then by predicted class; empty if rows have no class."""
        return []

    @abstractmethod
    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write weights of `build_model`'s model, configuration and preprocessing into an existing folder."""

    def distillation(self, model: nn.Module) -> Distillation | None:  # noqa: ARG002
        """The training of a student of this model, if the section asks for one.

        Raises:
            UsageError: The model does not have what the student is made from.
        """
        return None


@dataclass(frozen=True)
class DistillationStage:
    """A second training: of a student, a smaller model that learns from the outputs of the first.

    Attributes:
        section: The training section with the student's own epochs and learning rate.
        task: The student's rows, model and loss.
        weights: What the student begins with; on the first rank.
    """

    section: Training
    task: Task
    weights: Tensors


class Distillation(Protocol):
    """Prepares the training of a student from that of its teacher."""

    @property
    def student(self) -> Section:
        """The student's settings. A state of a student with other settings is not resumed."""

    def stage(self, best: Tensors, outputs: torch.Tensor) -> DistillationStage:
        """The student's training; called on all ranks.

        Args:
            best: The best epoch's weights of the teacher; on the first rank.
            outputs: The teacher's, with these weights, for the training rows, (N, K).
        """


def load_task(task: str, section: Training, splits: Path) -> Task:
    """The rows of the splits, and the model that the section describes.

    Raises:
        UsageError: The splits or the pretrained model cannot be found.
    """
    loaded: Task = task_kind(task).function("training", "load_task")(section, splits)
    return loaded


def aliases(model: nn.Module) -> set[str]:
    """Names of parameters that another name holds too, such as a head that is tied to the embedding."""
    everything = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return everything - {name for name, _ in model.named_parameters()}


def unaliased(model: nn.Module) -> Tensors:
    """The model's state without aliases."""
    left_out = aliases(model)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}


def with_frozen(weights: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The trained weights and the parameters of the model that training left as they were."""
    frozen = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
    }
    return {**frozen, **weights}
