"""The rows of a split, and the scores that a model gives them.

N = rows, C = classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from components.convert_to_onnx.export import OUTPUT
from components.convert_to_onnx.parity import Indices, Logits, Scores, left_padded
from components.convert_to_onnx.timing import Batch
from manifests.dataset import SplitName
from serving.bundle import TOKENIZER_FILE, encode, open_session, open_tokenizer
from trainer.checkpoint import TrainingRecord
from trainer.splits import read_split

Forward = Callable[[Batch], Logits]

CALIBRATION_ROWS = 256
CALIBRATION_BATCH_SIZE = 32


@dataclass(frozen=True)
class Rows:
    """A split, tokenised as serving will: cut at the model's length, padded on the right.

    `truth` (N,) holds indices into `labels`.
    """

    texts: Sequence[str]
    truth: Indices
    labels: Sequence[str]
    tokenizer: Tokenizer

    @classmethod
    def read(cls, splits: Path, split: SplitName, checkpoint: Path, record: TrainingRecord) -> Rows:
        """Read a split that validate-data wrote and the tokenizer of the checkpoint."""
        frame = read_split(splits, split)
        return cls(
            texts=frame["text"].tolist(),
            truth=frame["label"].to_numpy(dtype=np.int64),
            labels=record.labels,
            tokenizer=open_tokenizer(checkpoint / TOKENIZER_FILE, record.max_length),
        )

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, rows: Indices) -> Batch:
        """Model inputs of some rows, padded to the longest of them."""
        return encode(self.tokenizer, [self.texts[row] for row in rows])

    def sample(self, seed: int) -> list[Batch]:
        """Batches of rows drawn by `seed`, to calibrate with."""
        count = min(CALIBRATION_ROWS, len(self))
        drawn = np.random.default_rng(seed).permutation(len(self))[:count]
        return [self.batch(rows) for rows in np.array_split(drawn, math.ceil(count / CALIBRATION_BATCH_SIZE))]

    def used_ids(self) -> frozenset[int]:
        """The token ids of all rows, padded as one batch."""
        encodings = self.tokenizer.encode_batch(list(self.texts))
        return frozenset(token for encoding in encodings for token in encoding.ids)

    def scores(self, forward: Forward, ragged: Sequence[Indices], rest: Sequence[Indices]) -> Scores:
        """Scores of all rows, which `ragged` and `rest` hold once; of the ragged ones with both paddings."""
        right = np.empty((len(self), len(self.labels)), dtype=np.float32)
        left = [np.empty((0, len(self.labels)), dtype=np.float32)]
        for rows in ragged:
            batch = self.batch(rows)
            right[rows] = forward(batch)
            left.append(forward(left_padded(batch)))
        for rows in rest:
            right[rows] = forward(self.batch(rows))
        return Scores(right, np.concatenate(left))


def pytorch_forward(model: nn.Module) -> Forward:
    """A classifier in eval mode as a function of arrays."""

    def forward(batch: Batch) -> Logits:
        with torch.inference_mode():
            logits: torch.Tensor = model(**{name: torch.from_numpy(array) for name, array in batch.items()})
        return np.asarray(logits.numpy(), dtype=np.float32)

    return forward


def onnx_forward(path: Path, threads: int) -> Forward:
    """A graph, in the session that serving opens, as a function of arrays."""
    session = open_session(path, threads)

    def forward(batch: Batch) -> Logits:
        return np.asarray(session.run([OUTPUT], dict(batch))[0], dtype=np.float32)

    return forward
