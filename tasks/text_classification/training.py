"""Text classification: a pretrained encoder, mean pooling, one linear layer.

B = batch, T = tokens, H = hidden size, C = classes.
"""

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
from torch.nn import functional

from gauntlet.serving.texts import largest_id
from gauntlet.tasks.classification.class_weights import (
    balanced_chances,
    class_weights,
    on_device_of,
    row_weights,
)
from gauntlet.tasks.classification.training_metrics import (
    classification_metrics,
    confusion_counts,
    confusion_metrics,
)
from gauntlet.tasks.text_classification.encoder_files import find_encoder, require_positions
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.tasks.text_classification.network import Attention, load_encoder
from gauntlet.tasks.texts.vocabulary import embedded_tokens, open_pretrained, require_embedded
from gauntlet.trainer.attention import ATTENTION
from gauntlet.trainer.dropout import Dropout, replace_dropout
from gauntlet.trainer.embedding import train_used_rows_only, with_whole_tables
from gauntlet.trainer.layer_norm import replace_layer_norms
from gauntlet.trainer.splits import read_labels, read_split
from gauntlet.trainer.task import WEIGHTS_FILE, Batch


class TextClassifier(nn.Module):
    """Mean of the encoder's last hidden states over the real tokens, dropout, one linear layer."""

    def __init__(self, encoder: nn.Module, hidden_size: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of token ids and mask, both (B, T) int64."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]  # (B, T, H)
        mask = attention_mask.unsqueeze(-1).to(states.dtype)  # (B, T, 1)
        pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)  # (B, H)
        return cast(torch.Tensor, self.classifier(self.dropout(pooled)))  # (B, C)


class TokenizedRows:
    """A split's texts as token ids, tokenised once; `cut` is the number of texts that were cut."""

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


class TextClassification:
    """The task `text_classification` on the splits that validate-data wrote.

    Attributes:
        layers: How many of the encoder's layers the model has; None for all.
    """

    validation_batch_size = 64
    layers: int | None = None

    def __init__(self, section: TextTraining, splits: Path) -> None:
        """Read and tokenise the training and validation rows.

        Raises:
            UsageError: The encoder cannot be found or reads fewer tokens than `max_length`, or its tokenizer
                does not go with it.
        """
        self._section = section
        self._encoder = find_encoder(section.encoder)
        require_positions(self._encoder, section.encoder, section.max_length)
        self._labels = read_labels(splits)
        opened = open_pretrained(self._encoder.tokenizer, "training.encoder")
        self._pad_id, tokenizer = opened.pad_id, opened.tokenizer
        if (embedded := embedded_tokens(self._encoder.folder)) is not None:
            require_embedded(largest_id(tokenizer), embedded, section.encoder, "training.encoder")
        tokenizer.enable_truncation(section.max_length)
        self._train = TokenizedRows(read_split(splits, "train"), tokenizer)
        self._validation = TokenizedRows(read_split(splits, "validation"), tokenizer)
        self._class_weights = class_weights(section, self._labels, self._train.labels)

    @property
    def train_lengths(self) -> Sequence[int]:
        """Tokens in each training row."""
        return self._train.lengths

    @property
    def train_weights(self) -> Sequence[float]:
        """By `training.class_weights`; without them every row counts once."""
        return row_weights(self._class_weights, self._train.labels)

    @property
    def sampling_chances(self) -> npt.NDArray[np.float64] | None:
        """By `training.sampler`."""
        return balanced_chances(self._section, self._train.labels)

    @property
    def validation_lengths(self) -> Sequence[int]:
        """Tokens in each validation row."""
        return self._validation.lengths

    @property
    def remarks(self) -> Sequence[str]:
        """How many texts are cut."""
        most = self._section.max_length
        return [
            f"{rows.cut} of {len(rows.ids)} {split} texts are cut at training.max_length, {most} tokens"
            for split, rows in (("training", self._train), ("validation", self._validation))
            if rows.cut
        ]

    @property
    def of_record(self) -> Mapping[str, Any]:
        """The encoder, and after how many tokens a text is cut."""
        return {"encoder": self._section.encoder, "max_length": self._section.max_length}

    def build_model(self) -> TextClassifier:
        """The pretrained encoder under a new linear layer, initialised from torch's global seed."""
        encoder = load_encoder(self._encoder.folder, dropout=self._section.dropout, layers=self.layers)
        replace_dropout(encoder)
        replace_layer_norms(encoder)
        encoder.set_attn_implementation(ATTENTION)  # type: ignore[operator]
        train_used_rows_only(encoder, [self._pad_id, *chain.from_iterable(self._train.ids)])
        if self._section.gradient_checkpointing:
            encoder.gradient_checkpointing_enable()  # type: ignore[operator]
        hidden_size: int = encoder.config.hidden_size  # type: ignore[assignment, union-attr]
        return TextClassifier(encoder, hidden_size, len(self._labels), self._section.dropout)

    def training_batch(self, rows: Sequence[int], _seed: tuple[int, int]) -> Batch:
        """Token ids (B, T), mask (B, T) and labels (B,)."""
        return self._train.batch(rows, self._pad_id)

    def validation_batch(self, rows: Sequence[int], _epoch: int) -> Batch:
        """As `training_batch`."""
        return self._validation.batch(rows, self._pad_id)

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy with label smoothing, weighed by class and summed over rows, and their confusion."""
        ids, mask, labels = batch
        logits = model(ids, mask).float()
        loss = functional.cross_entropy(
            logits,
            labels,
            weight=on_device_of(self._class_weights, logits),
            reduction="sum",
            label_smoothing=self._section.label_smoothing,
        )
        return loss, confusion_counts(logits, labels)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Logits (B, C)."""
        ids, mask, _ = batch
        return cast(torch.Tensor, model(ids, mask))

    def training_metrics(self, tally: Sequence[float]) -> dict[str, float]:
        """Accuracy, macro and weighted F1."""
        return confusion_metrics(tally)

    def confusion(self, outputs: torch.Tensor) -> list[list[int]]:
        """Of logits (N, C)."""
        counts = confusion_counts(outputs, torch.from_numpy(self._validation.labels))
        return cast(list[list[int]], counts.view(outputs.shape[1], -1).tolist())

    def metrics(self, outputs: torch.Tensor) -> dict[str, float]:
        """Loss, accuracy, macro and weighted F1 of logits (N, C)."""
        return classification_metrics(outputs, self._validation.labels)

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write `model.safetensors`, the encoder's `config.json` and `tokenizer.json`.

        The tokenizer's file records what training and serving do: where they cut texts, and that they pad to
        the longest text of a batch.
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


def classifier_of(folder: Path, classes: int, attention: Attention) -> TextClassifier:
    """The classifier whose encoder a checkpoint's folder configures, without trained weights."""
    encoder = load_encoder(folder, attention, pretrained=False)
    return TextClassifier(encoder, encoder.config.hidden_size, classes)  # type: ignore[arg-type, union-attr]
