"""The rows of a split as conversion needs them, whatever the task: as the inputs that serving makes of them.

N = rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gauntlet.components.convert_to_onnx.parity import Indices
from gauntlet.components.convert_to_onnx.timing import Batch
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.dataset import SplitName
from gauntlet.serving.bundle import TOKENIZER_FILE
from gauntlet.serving.images import ImageInputs
from gauntlet.serving.texts import TextInputs
from gauntlet.tasks.ordinal_grading.manifest import SIDES
from gauntlet.trainer.splits import read_cards, read_images, read_split

EXCERPT_CHARACTERS = 160


class Rows(Protocol):
    """A split of any task."""

    @property
    def truth(self) -> Indices:
        """The true classes, (N,)."""

    @property
    def labels(self) -> Sequence[str]:
        """The names of the classes."""

    @property
    def lengths(self) -> Sequence[int]:
        """Of each row, that by which serving batches them."""

    @property
    def are_padded(self) -> bool:
        """Whether rows of other lengths share a batch, by an `attention_mask`."""

    def __len__(self) -> int: ...

    def batch(self, rows: Indices) -> Batch:
        """The model's inputs of some rows."""

    def excerpt(self, row: int) -> Mapping[str, Any]:
        """What tables show of a row beside its number."""


@dataclass(frozen=True)
class TextRows:
    """Texts, tokenised as serving will."""

    texts: Sequence[str]
    truth: Indices
    labels: Sequence[str]
    inputs: TextInputs
    are_padded = True

    @classmethod
    def read(cls, splits: Path, split: SplitName, checkpoint: Path, record: TrainingRecord) -> TextRows:
        """Read a split that validate-data wrote and the tokenizer of the checkpoint."""
        frame = read_split(splits, split)
        return cls(
            texts=frame["text"].tolist(),
            truth=frame["label"].to_numpy(dtype=np.int64),
            labels=record.labels,
            inputs=TextInputs.open(checkpoint / TOKENIZER_FILE, record.max_length),
        )

    @property
    def lengths(self) -> Sequence[int]:
        """Characters."""
        return [len(text) for text in self.texts]

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, rows: Indices) -> Batch:
        """Token ids and masks, padded to the longest of the rows."""
        return self.inputs.batch([self.texts[row] for row in rows])

    def excerpt(self, row: int) -> Mapping[str, Any]:
        """The beginning of the text."""
        return {"text": self.texts[row][:EXCERPT_CHARACTERS]}

    def used_ids(self) -> frozenset[int]:
        """The token ids of all rows, padded as one batch."""
        encodings = self.inputs.tokenizer.encode_batch(list(self.texts))
        return frozenset(token for encoding in encodings for token in encoding.ids)


@dataclass(frozen=True)
class ImageRows:
    """Images (N, C, H, W), or of several `inputs` (N, inputs, C, H, W), their pixels as they are in the file.

    `file_rows` (N,) are their rows there.
    """

    images: npt.NDArray[np.uint8]
    truth: Indices
    file_rows: Indices
    labels: Sequence[str]
    inputs: tuple[str, ...] = ("images",)
    are_padded = False

    @classmethod
    def read(cls, splits: Path, split: SplitName, record: TrainingRecord) -> ImageRows:
        """Read a split that validate-data wrote."""
        if record.task == "ordinal_grading":
            cards = read_cards(splits, split)
            return cls(cards.images, cards.labels, cards.rows, record.labels, SIDES)
        read = read_images(splits, split)
        return cls(read.images, read.labels, read.rows, record.labels)

    @property
    def lengths(self) -> Sequence[int]:
        """All images are of one size."""
        return [1] * len(self)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Indices) -> Batch:
        """The images."""
        return ImageInputs(self.images.shape[-3:], self.inputs).batch(self.images[rows])

    def excerpt(self, row: int) -> Mapping[str, Any]:
        """Its row in the file."""
        return {"file_row": int(self.file_rows[row])}


def read_rows(splits: Path, split: SplitName, checkpoint: Path, record: TrainingRecord) -> Rows:
    """Read a split of the checkpoint's task."""
    if record.input_shape:
        return ImageRows.read(splits, split, record)
    return TextRows.read(splits, split, checkpoint, record)
