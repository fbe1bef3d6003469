"""Trains the tagger: rows, network, loss and metrics for the training loop.

B = batch, N = rows of a split, T = words of the longest sentence of a batch, F = features, K = tags.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from gauntlet.manifests.dataset import SplitName
from gauntlet.trainer.splits import read_statistics
from gauntlet.trainer.task import WEIGHTS_FILE, Batch, Task
from gauntlet_token_classification.entities import outcomes, scores
from gauntlet_token_classification.features import batch_ids
from gauntlet_token_classification.manifest import TokenTraining
from gauntlet_token_classification.network import Tagger, TaggerConfig
from gauntlet_token_classification.serving import CONFIG_FILE

NO_TAG = -100
"""The tag of padding, which the loss ignores."""


class Sentences:
    """A split that validate-data wrote."""

    def __init__(self, splits: Path, split: SplitName) -> None:
        """Read it."""
        table = pq.read_table(splits / f"{split}.parquet").to_pydict()
        self.words: list[list[str]] = table["words"]
        self.tags: list[list[int]] = table["tags"]
        self.rows: list[int] = table["row"]

    @property
    def lengths(self) -> list[int]:
        """Words of each sentence."""
        return [len(words) for words in self.words]


class TokenClassification(Task):
    """The rows and the network of a section."""

    validation_batch_size = 256

    def __init__(self, section: TokenTraining, splits: Path) -> None:
        """Read the training and validation rows.

        Raises:
            UsageError: The splits are not there.
        """
        statistics = read_statistics(splits)
        self._section = section
        self._train, self._validation = Sentences(splits, "train"), Sentences(splits, "validation")
        tags = statistics.labels
        self._config = TaggerConfig(tags, section.buckets, section.width, section.layers, section.dropout)

    @property
    def train_lengths(self) -> Sequence[int]:
        """Words of each sentence."""
        return self._train.lengths

    @property
    def train_weights(self) -> Sequence[float]:
        """The loss is the mean over words."""
        return self._train.lengths

    @property
    def validation_lengths(self) -> Sequence[int]:
        """Words of each sentence."""
        return self._validation.lengths

    def build_model(self) -> nn.Module:
        """The network, initialised from torch's global seed."""
        return Tagger(self._config)

    def training_batch(self, rows: Sequence[int], _seed: tuple[int, int]) -> Batch:
        """Features (B, T, F) and tags (B, T)."""
        return self._batch(self._train, rows)

    def validation_batch(self, rows: Sequence[int], _epoch: int) -> Batch:
        """Features (B, T, F) and tags (B, T)."""
        return self._batch(self._validation, rows)

    def _batch(self, split: Sentences, rows: Sequence[int]) -> Batch:
        features = batch_ids([split.words[row] for row in rows], self._config.buckets)
        tags = np.full(features.shape[:2], NO_TAG, dtype=np.int64)
        for at, row in enumerate(rows):
            tags[at, : len(split.tags[row])] = split.tags[row]
        return torch.from_numpy(features), torch.from_numpy(tags)

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy summed over words, and as tally (2,) the words with the right tag, and all words."""
        features, tags = batch
        logits = model(features).float()
        loss = functional.cross_entropy(
            logits.flatten(0, 1),
            tags.flatten(),
            ignore_index=NO_TAG,
            reduction="sum",
            label_smoothing=self._section.label_smoothing,
        )
        known = tags != NO_TAG
        right = (logits.detach().argmax(dim=2) == tags) & known
        return loss, torch.stack([right.sum(), known.sum()])

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The summed loss of each sentence and its `outcomes`, (B, 6)."""
        features, tags = batch
        logits = model(features).float()
        losses = functional.cross_entropy(
            logits.transpose(1, 2), tags, ignore_index=NO_TAG, reduction="none"
        ).sum(dim=1)  # (B,)
        found = torch.tensor(self._outcomes(logits.argmax(dim=2).tolist(), tags.tolist()))
        return torch.cat([losses[:, None], found.to(losses)], dim=1)

    def _outcomes(
        self, predicted: Sequence[Sequence[int]], truth: Sequence[Sequence[int]]
    ) -> list[tuple[int, int, int, int, int]]:
        names = self._config.tags
        return [
            outcomes(
                [names[tag] for tag in true if tag != NO_TAG],
                [names[tag] for tag, known in zip(guessed, true, strict=True) if known != NO_TAG],
            )
            for guessed, true in zip(predicted, truth, strict=True)
        ]

    def training_metrics(self, tally: Sequence[float]) -> dict[str, float]:
        """The share of words with the right tag."""
        return {"token_accuracy": tally[0] / max(tally[1], 1)}

    def metrics(self, outputs: torch.Tensor) -> dict[str, float]:
        """The mean loss of a word, and the metrics of `outputs` (N, 6) summed."""
        summed = outputs.double().sum(dim=0).numpy()  # (6,)
        found = {name: float(value) for name, value in scores(summed[1:]).items()}
        return {"loss": float(summed[0] / max(summed[5], 1)), **found}

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:  # noqa: ARG002
        """Write `model.safetensors` and the network's `tagger.json`."""
        save_file(dict(weights), folder / WEIGHTS_FILE)
        content: Mapping[str, Any] = asdict(self._config)
        (folder / CONFIG_FILE).write_text(json.dumps(content), encoding="utf-8")


def load_task(section: TokenTraining, splits: Path) -> Task:
    """The rows of the splits and the network of the section."""
    return TokenClassification(section, splits)


def untrained_model(folder: Path, _classes: int, _attention: str) -> nn.Module:
    """The network that a checkpoint's folder describes, without its weights."""
    content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return Tagger(TaggerConfig(**{**content, "tags": tuple(content["tags"])}))
