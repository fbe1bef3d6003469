"""Training of a pretrained encoder on tokenised texts. N = rows, B = batch, T = tokens, K = outputs."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn

from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import UsageError
from gauntlet.serving.texts import largest_id
from gauntlet.tasks.texts.encoder_files import find_encoder, require_positions
from gauntlet.tasks.texts.manifest import EncoderTraining, Student
from gauntlet.tasks.texts.network import (
    Attention,
    TextClassifier,
    layers_of,
    load_encoder,
    train_used_rows_only,
    with_whole_tables,
)
from gauntlet.tasks.texts.vocabulary import embedded_tokens, open_pretrained, require_embedded
from gauntlet.trainer.batching import Lengths
from gauntlet.trainer.mapped import map_tokens
from gauntlet.trainer.own_network import own_network
from gauntlet.trainer.saved_model import read_record
from gauntlet.trainer.splits import TEXT, read_statistics, read_targets
from gauntlet.trainer.task import (
    WEIGHTS_FILE,
    Batch,
    Distillation,
    DistillationStage,
    Task,
    Tensors,
    unaliased,
    with_frozen,
)

Targets = npt.NDArray[Any]
"""What rows are to be answered with, (N, …): class indices (N,) int64, for example."""


def class_indices(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """The class index of each row of a split, (N,)."""
    return frame["label"].to_numpy(dtype=np.int64, copy=True)


class TokenizedRows:
    """A split's texts as token ids on disk; `cut` is the number of texts that were truncated."""

    def __init__(
        self, splits: Path, split: SplitName, targets: Callable[[pd.DataFrame], Targets], tokenizer: Tokenizer
    ) -> None:
        columns, self.cut = map_tokens(splits, split, tokenizer, [TEXT])
        self.ids = columns[TEXT]
        self.targets = read_targets(splits, split, targets)

    def batch(self, rows: Sequence[int], pad_id: int) -> Batch:
        """Token ids (B, T), mask (B, T) and targets (B, …), padded on the right to the longest row."""
        of_rows = [self.ids[row] for row in rows]
        ids = np.full((len(rows), max(map(len, of_rows))), pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for at, own in enumerate(of_rows):
            ids[at, : len(own)] = own
            mask[at, : len(own)] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(self.targets[list(rows)])


class EncoderTask(Task):
    """Trains an encoder under a linear layer on the splits that validate-data wrote.

    A kind defines `loss`, `imitation_loss` and `tally` of a batch, `student_task`, and the metrics.
    """

    validation_batch_size = 64
    labels: Sequence[str]

    def __init__(
        self,
        section: EncoderTraining,
        splits: Path,
        outputs: int | None = None,
        targets: Callable[[pd.DataFrame], Targets] = class_indices,
        student: Student | None = None,
        teacher_outputs: torch.Tensor | None = None,
    ) -> None:
        """Read and tokenise the training and validation rows.

        Args:
            section: The manifest's section.
            splits: What validate-data wrote.
            outputs: How many numbers the model gives for a text, K; by default one for each label.
            targets: The targets in a split.
            student: What the trained model is, if it is a student, with the encoder's first layers.
            teacher_outputs: Its teacher's outputs for the training rows, (N, K).

        Raises:
            UsageError: The encoder cannot be found or reads fewer tokens than `max_length`, or its tokenizer
                has ids that it does not embed.
        """
        self._section, self._splits = section, splits
        self._student, self._teacher_outputs = student, teacher_outputs
        self.layers = None if student is None else len(student.layers)
        self._encoder = find_encoder(section.encoder)
        require_positions(self._encoder, section.encoder, section.max_length)
        self.labels = read_statistics(splits).labels
        self._outputs = len(self.labels) if outputs is None else outputs
        opened = open_pretrained(self._encoder.tokenizer, "training.encoder")
        self._pad_id, tokenizer = opened.pad_id, opened.tokenizer
        if (embedded := embedded_tokens(self._encoder.folder)) is not None:
            require_embedded(largest_id(tokenizer), embedded, section.encoder, "training.encoder")
        self._vocabulary_size = largest_id(tokenizer) + 1
        tokenizer.enable_truncation(section.max_length)
        self._train, self._validation = (
            TokenizedRows(splits, split, targets, tokenizer) for split in ("train", "validation")
        )

    @abstractmethod
    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of outputs (B, K) against targets (B, …), summed over rows."""

    @abstractmethod
    def imitation_loss(
        self, outputs: torch.Tensor, wanted: torch.Tensor, targets: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """A student's loss against its teacher's outputs `wanted`, (B, K), summed over rows."""

    @abstractmethod
    def tally(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sums over rows that `training_metrics` needs, (S,)."""

    @abstractmethod
    def student_task(self, student: Student, teacher_outputs: torch.Tensor) -> EncoderTask:
        """The task that trains the student of this model, which gives the training rows these outputs."""

    @property
    def train_lengths(self) -> Lengths:
        """Tokens in each training row."""
        return self._train.ids.lengths

    @property
    def validation_lengths(self) -> Lengths:
        """Tokens in each validation row."""
        return self._validation.ids.lengths

    @property
    def remarks(self) -> Sequence[str]:
        """How many texts are truncated."""
        most = self._section.max_length
        return [
            f"{rows.cut} of {len(rows.ids)} {split} texts are cut at training.max_length, {most} tokens"
            for split, rows in (("training", self._train), ("validation", self._validation))
            if rows.cut
        ]

    @property
    def of_record(self) -> Mapping[str, Any]:
        """The encoder, and the tokens after which a text is truncated."""
        return {"encoder": self._section.encoder, "max_length": self._section.max_length}

    @property
    def own_arguments(self) -> Mapping[str, Any]:
        """The numbers that the model gives for a text, and what the encoder's files say of texts."""
        return {
            **super().own_arguments,
            "outputs": self._outputs,
            "vocabulary_size": self._vocabulary_size,
            "pad_id": self._pad_id,
            "max_length": self._section.max_length,
            "dropout": self._section.dropout,
        }

    @property
    def network_outputs(self) -> Sequence[tuple[int, ...]]:
        """Outputs (K,)."""
        return ((self._outputs,),)

    def build_model(self) -> nn.Module:
        """The pretrained encoder under a new linear layer, initialised from torch's global seed."""
        own = own_network(self._section, self.own_arguments, encoder=self._pretrained_encoder)
        if own is not None:
            return own
        encoder = self._pretrained_encoder()
        hidden_size: int = encoder.config.hidden_size  # type: ignore[assignment, union-attr]
        return TextClassifier(encoder, hidden_size, self._outputs, self._section.dropout)

    def _pretrained_encoder(self) -> nn.Module:
        encoder = load_encoder(self._encoder.folder, dropout=self._section.dropout, layers=self.layers)
        train_used_rows_only(encoder, [self._pad_id, *self._train.ids.used().tolist()])
        if self._section.gradient_checkpointing:
            encoder.gradient_checkpointing_enable()  # type: ignore[operator]
        return encoder

    def size(self, model: nn.Module) -> int:
        """With the rows of the embedding that are not trained."""
        return sum(tensor.numel() for tensor in with_whole_tables(model, unaliased(model)).values())

    def training_batch(self, rows: Sequence[int], _seed: tuple[int, int]) -> Batch:
        """Token ids (B, T), mask (B, T), targets (B, …) and, for a student, its teacher's outputs (B, K)."""
        batch = self._train.batch(rows, self._pad_id)
        return batch if self._teacher_outputs is None else (*batch, self._teacher_outputs[list(rows)])

    def validation_batch(self, rows: Sequence[int], _epoch: int) -> Batch:
        """Token ids (B, T), mask (B, T) and targets (B, …)."""
        return self._validation.batch(rows, self._pad_id)

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss and the tally. A student's loss is a weighted sum with its loss against the teacher."""
        ids, mask, targets, *wanted = batch
        outputs = model(ids, mask).float()
        loss = self.loss(outputs, targets)
        if wanted and self._student is not None:
            weight = self._student.teacher_weight
            imitating = self.imitation_loss(outputs, wanted[0], targets, self._student.temperature)
            loss = weight * imitating + (1 - weight) * loss
        return loss, self.tally(outputs, targets)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The model's outputs, (B, K)."""
        return cast(torch.Tensor, model(batch[0], batch[1]))

    def distillation(self, model: nn.Module) -> Distillation | None:
        """The distillation that `training.student` asks for.

        Raises:
            UsageError: The encoder does not have the student's layers.
        """
        if self._section.student is None:
            return None
        return LayerDistillation(self._section, self._section.student, model, self.student_task)

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write `model.safetensors`, the encoder's `config.json` and `tokenizer.json`.

        The tokenizer's file records where training and serving truncate texts, and that they pad to the
        longest text of a batch.
        """
        save_file(with_whole_tables(model, with_frozen(weights, model)), folder / WEIGHTS_FILE)
        if self.layers is None:
            shutil.copyfile(self._encoder.folder / "config.json", folder / "config.json")
        else:
            model.encoder.config.save_pretrained(folder)  # type: ignore[operator, union-attr]
        opened = open_pretrained(self._encoder.tokenizer, "training.encoder")
        opened.tokenizer.enable_truncation(self._section.max_length)
        opened.tokenizer.enable_padding(pad_id=opened.pad_id, pad_token=opened.pad_token)
        opened.tokenizer.save(str(folder / "tokenizer.json"))


class LayerDistillation:
    """Makes the student of a section: the teacher with some of its layers, which learns from its outputs.

    See Sanh et al., 2019, arXiv 1910.01108, and Hinton et al., 2015, arXiv 1503.02531.

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
        UsageError: It has such layers.
    """
    found: int = model.encoder.config.num_hidden_layers  # type: ignore[union-attr, assignment]
    if student.layers[-1] >= found or len(student.layers) == found:
        raise UsageError(
            f"training.student.layers: found {list(student.layers)}, expected some but not all of "
            f"0 to {found - 1}, the encoder's layers."
        )


def student_weights(model: nn.Module, weights: Tensors, layers: Sequence[int]) -> Tensors:
    """A model's weights with only these of the encoder's layers, which are renumbered from 0."""
    encoder = next(name for name, module in model.named_modules() if module is model.encoder)
    name = f"{encoder}.{layers_of(model.encoder)[0]}"  # type: ignore[arg-type]
    prefixes = {f"{name}.{layer}.": f"{name}.{at}." for at, layer in enumerate(layers)}
    kept: Tensors = {}
    for key, tensor in weights.items():
        prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if prefix:
            kept[prefixes[prefix] + key.removeprefix(prefix)] = tensor
        elif not key.startswith(f"{name}."):
            kept[key] = tensor
    return kept


def untrained_model(folder: Path, outputs: int, attention: Attention) -> nn.Module:
    """The model whose encoder a checkpoint's folder configures, without trained weights."""

    def untrained_encoder() -> nn.Module:
        return load_encoder(folder, attention, pretrained=False)

    known = {"folder": str(folder), "attention": attention}
    own = own_network(read_record(folder), known, encoder=untrained_encoder)
    if own is not None:
        return own
    encoder = untrained_encoder()
    return TextClassifier(encoder, encoder.config.hidden_size, outputs)  # type: ignore[arg-type, union-attr]
