"""Training of a text classifier on tokenised rows. B = batch, T = tokens, C = classes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn

from gauntlet.serving.texts import largest_id
from gauntlet.tasks.classification.training import WeightedClassifierTask, confusion_counts
from gauntlet.tasks.text_classification.encoder_files import find_encoder, require_positions
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.tasks.text_classification.network import (
    Attention,
    TextClassifier,
    load_encoder,
    train_used_rows_only,
    with_whole_tables,
)
from gauntlet.tasks.texts.vocabulary import embedded_tokens, open_pretrained, require_embedded
from gauntlet.trainer.own_network import own_network
from gauntlet.trainer.saved_model import read_record
from gauntlet.trainer.splits import read_split, read_statistics
from gauntlet.trainer.task import WEIGHTS_FILE, Batch, Distillation, unaliased


class TokenizedRows:
    """A split's texts as token ids, tokenised once; `cut` is the number of texts that were truncated."""

    def __init__(self, frame: pd.DataFrame, tokenizer: Tokenizer) -> None:
        encodings = tokenizer.encode_batch(frame["text"].tolist())
        self.ids = [encoding.ids for encoding in encodings]
        self.cut = sum(bool(encoding.overflowing) for encoding in encodings)
        self.labels: npt.NDArray[np.int64] = frame["label"].to_numpy(dtype=np.int64, copy=True)
        self.lengths = [len(ids) for ids in self.ids]

    def batch(self, rows: Sequence[int], pad_id: int) -> Batch:
        """Token ids (B, T), mask (B, T) and labels (B,), padded on the right to the longest row."""
        width = max(self.lengths[row] for row in rows)
        ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
        mask = torch.zeros((len(rows), width), dtype=torch.int64)
        for at, row in enumerate(rows):
            ids[at, : self.lengths[row]] = torch.tensor(self.ids[row])
            mask[at, : self.lengths[row]] = 1
        return ids, mask, torch.from_numpy(self.labels[list(rows)])


class TextClassification(WeightedClassifierTask):
    """The task on the splits that validate-data wrote.

    Attributes:
        layers: How many of the encoder's layers the model has; None: all.
    """

    validation_batch_size = 64
    layers: int | None = None

    def __init__(self, section: TextTraining, splits: Path) -> None:
        """Read and tokenise the training and validation rows.

        Raises:
            UsageError: The encoder cannot be found or reads fewer tokens than `max_length`, or its tokenizer
                has ids that it does not embed.
        """
        self._section, self._splits = section, splits
        self._encoder = find_encoder(section.encoder)
        require_positions(self._encoder, section.encoder, section.max_length)
        labels = read_statistics(splits).labels
        opened = open_pretrained(self._encoder.tokenizer, "training.encoder")
        self._pad_id, tokenizer = opened.pad_id, opened.tokenizer
        if (embedded := embedded_tokens(self._encoder.folder)) is not None:
            require_embedded(largest_id(tokenizer), embedded, section.encoder, "training.encoder")
        self._vocabulary_size = largest_id(tokenizer) + 1
        tokenizer.enable_truncation(section.max_length)
        self._train = TokenizedRows(read_split(splits, "train"), tokenizer)
        self._validation = TokenizedRows(read_split(splits, "validation"), tokenizer)
        super().__init__(section, labels, self._train.labels, self._validation.labels)

    @property
    def train_lengths(self) -> Sequence[int]:
        """Tokens in each training row."""
        return self._train.lengths

    @property
    def validation_lengths(self) -> Sequence[int]:
        """Tokens in each validation row."""
        return self._validation.lengths

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
        """The classes, and what the encoder's files and the section say of texts."""
        return {
            **super().own_arguments,
            "vocabulary_size": self._vocabulary_size,
            "pad_id": self._pad_id,
            "max_length": self._section.max_length,
            "dropout": self._section.dropout,
        }

    def build_model(self) -> nn.Module:
        """The pretrained encoder under a new linear layer, initialised from torch's global seed."""
        own = own_network(self._section, self.own_arguments, encoder=self._pretrained_encoder)
        if own is not None:
            return own
        encoder = self._pretrained_encoder()
        hidden_size: int = encoder.config.hidden_size  # type: ignore[assignment, union-attr]
        return TextClassifier(encoder, hidden_size, self._classes, self._section.dropout)

    def _pretrained_encoder(self) -> nn.Module:
        encoder = load_encoder(self._encoder.folder, dropout=self._section.dropout, layers=self.layers)
        train_used_rows_only(encoder, [self._pad_id, *chain.from_iterable(self._train.ids)])
        if self._section.gradient_checkpointing:
            encoder.gradient_checkpointing_enable()  # type: ignore[operator]
        return encoder

    def size(self, model: nn.Module) -> int:
        """With the rows of the embedding that are not trained."""
        return sum(tensor.numel() for tensor in with_whole_tables(model, unaliased(model)).values())

    def training_batch(self, rows: Sequence[int], _seed: tuple[int, int]) -> Batch:
        """Token ids (B, T), mask (B, T) and labels (B,)."""
        return self._train.batch(rows, self._pad_id)

    def validation_batch(self, rows: Sequence[int], _epoch: int) -> Batch:
        """As `training_batch`."""
        return self._validation.batch(rows, self._pad_id)

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy, and the confusion of the rows."""
        ids, mask, labels = batch
        logits = model(ids, mask).float()
        return self.loss_of(logits, labels), confusion_counts(logits, labels)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits (B, C)."""
        ids, mask, _ = batch
        return cast(torch.Tensor, model(ids, mask))

    def distillation(self, model: nn.Module) -> Distillation | None:
        """Of `training.student`.

        Raises:
            UsageError: The encoder does not have the student's layers.
        """
        if self._section.student is None:
            return None
        from gauntlet.tasks.text_classification.distillation import LayerDistillation

        return LayerDistillation(self._section, self._splits, model)

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write `model.safetensors`, the encoder's `config.json` and `tokenizer.json`.

        The tokenizer's file records where training and serving truncate texts, and that they pad to the
        longest text of a batch.
        """
        save_file(with_whole_tables(model, weights), folder / WEIGHTS_FILE)
        if self.layers is None:
            shutil.copyfile(self._encoder.folder / "config.json", folder / "config.json")
        else:
            model.encoder.config.save_pretrained(folder)  # type: ignore[operator, union-attr]
        opened = open_pretrained(self._encoder.tokenizer, "training.encoder")
        opened.tokenizer.enable_truncation(self._section.max_length)
        opened.tokenizer.enable_padding(pad_id=opened.pad_id, pad_token=opened.pad_token)
        opened.tokenizer.save(str(folder / "tokenizer.json"))


def load_task(section: TextTraining, splits: Path) -> TextClassification:
    """The task that trains a section's model on splits."""
    return TextClassification(section, splits)


def untrained_model(folder: Path, classes: int, attention: Attention) -> nn.Module:
    """The classifier whose encoder a checkpoint's folder configures, without trained weights."""

    def untrained_encoder() -> nn.Module:
        return load_encoder(folder, attention, pretrained=False)

    own = own_network(read_record(folder), encoder=untrained_encoder)
    if own is not None:
        return own
    encoder = untrained_encoder()
    return TextClassifier(encoder, encoder.config.hidden_size, classes)  # type: ignore[arg-type, union-attr]
