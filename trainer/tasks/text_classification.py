"""Text classification: a pretrained encoder, mean pooling, one linear layer.

B = batch, T = tokens, H = hidden size, C = classes.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.torch import save_file
from sklearn.metrics import accuracy_score, f1_score
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

from manifests.schema import Training
from trainer.batching import evaluation_batches
from trainer.encoder import find_encoder, load_encoder
from trainer.splits import read_labels, read_split

VALIDATION_BATCH_SIZE = 64


class TextClassifier(nn.Module):
    """Mean of the encoder's last hidden states over the real tokens, dropout, one linear layer."""

    def __init__(self, encoder: nn.Module, hidden_size: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of token ids and mask, both (B, T) int64."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]  # (B, T, H)
        mask = attention_mask.unsqueeze(-1).to(states.dtype)  # (B, T, 1)
        pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)  # (B, H)
        return cast(torch.Tensor, self.classifier(self.dropout(pooled)))  # (B, C)


class TokenizedRows:
    """A split's texts as token ids, tokenised once."""

    def __init__(self, frame: pd.DataFrame, tokenizer: Tokenizer) -> None:
        self.ids = [encoding.ids for encoding in tokenizer.encode_batch(frame["text"].tolist())]
        self.labels: npt.NDArray[np.int64] = frame["label"].to_numpy(dtype=np.int64, copy=True)
        self.lengths = [len(ids) for ids in self.ids]

    def batch(
        self, rows: Sequence[int], pad_id: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token ids (B, T), mask (B, T) and labels (B,), padded on the right to the longest row."""
        width = max(self.lengths[row] for row in rows)
        ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
        mask = torch.zeros((len(rows), width), dtype=torch.int64)
        for at, row in enumerate(rows):
            ids[at, : self.lengths[row]] = torch.tensor(self.ids[row])
            mask[at, : self.lengths[row]] = 1
        labels = torch.from_numpy(self.labels[list(rows)])
        return tuple(tensor.to(device, non_blocking=True) for tensor in (ids, mask, labels))  # type: ignore[return-value]


class TextClassification:
    """The task `text_classification` on the splits that validate-data wrote."""

    def __init__(self, section: Training, splits: Path) -> None:
        """Read and tokenise the training and validation rows.

        Raises:
            UsageError: The encoder cannot be found.
        """
        self._section = section
        self._encoder = find_encoder(section.encoder)
        self._labels = read_labels(splits)
        tokenizer = Tokenizer.from_file(str(self._encoder.tokenizer))
        padding = tokenizer.padding or {}
        self._pad_id: int = padding.get("pad_id", 0)
        tokenizer.no_padding()
        tokenizer.enable_truncation(section.max_length)
        self._train = TokenizedRows(read_split(splits, "train"), tokenizer)
        self._validation = TokenizedRows(read_split(splits, "validation"), tokenizer)

    @property
    def train_lengths(self) -> Sequence[int]:
        """Tokens in each training row."""
        return self._train.lengths

    def build_model(self) -> TextClassifier:
        """The pretrained encoder under a new linear layer, initialised from torch's global seed."""
        encoder = load_encoder(self._encoder.folder, dropout=self._section.dropout)
        hidden_size: int = encoder.config.hidden_size  # type: ignore[assignment, union-attr]
        return TextClassifier(encoder, hidden_size, len(self._labels), self._section.dropout)

    def loss_sum(self, model: nn.Module, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """Cross-entropy with label smoothing, summed over rows."""
        ids, mask, labels = self._train.batch(rows, self._pad_id, device)
        return functional.cross_entropy(
            model(ids, mask).float(), labels, reduction="sum", label_smoothing=self._section.label_smoothing
        )

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Loss, accuracy, macro and weighted F1, each computed over all validation rows at once."""
        logits = torch.empty(len(self._validation.labels), len(self._labels))
        for rows in evaluation_batches(self._validation.lengths, VALIDATION_BATCH_SIZE):
            ids, mask, _ = self._validation.batch(rows, self._pad_id, device)
            logits[rows] = model(ids, mask).float().cpu()
        return classification_metrics(logits, self._validation.labels)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write `model.safetensors`, the encoder's `config.json` and `tokenizer.json`."""
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        shutil.copyfile(self._encoder.folder / "config.json", folder / "config.json")
        shutil.copyfile(self._encoder.tokenizer, folder / "tokenizer.json")


def classification_metrics(logits: torch.Tensor, labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Metrics of logits (N, C) against labels (N,). A class without rows or predictions counts as F1 0."""
    predicted = logits.argmax(dim=1).numpy()
    classes = list(range(logits.shape[1]))
    return {
        "loss": float(functional.cross_entropy(logits, torch.from_numpy(labels))),
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(f1_score(labels, predicted, labels=classes, average="macro", zero_division=0)),
        "weighted_f1": float(
            f1_score(labels, predicted, labels=classes, average="weighted", zero_division=0)
        ),
    }
