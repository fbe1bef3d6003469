"""The test split as bundles score it, texts and images alike. N = rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gauntlet.manifests.errors import DataError
from gauntlet.serving.interface import Rows
from gauntlet.trainer.splits import holds_cards, read_cards, read_images, read_split

IMAGES_FILE = "test.npz"


@dataclass(frozen=True)
class TestRows:
    """The test split.

    Attributes:
        inputs: What a model is asked, (N).
        labels: The true classes' indices, (N,).
        columns: What tells the rows apart among the predictions.
        centering: The true one of cards, in percent, (N, 4), NaN where it is not known; None where rows are
            no cards.
    """

    inputs: Rows
    labels: npt.NDArray[np.int64]
    columns: Mapping[str, Sequence[str] | npt.NDArray[np.int64]]
    centering: npt.NDArray[np.float32] | None = None


def read_test_rows(splits: Path) -> TestRows:
    """Read the test split that validate-data wrote.

    Raises:
        DataError: It has no rows.
    """
    rows = _read_images(splits) if (splits / IMAGES_FILE).is_file() else _read_texts(splits)
    if not len(rows.labels):
        raise DataError(
            f"{splits}: found 0 test rows, expected at least 1. Give the dataset a test split with rows."
        )
    return rows


def _read_texts(splits: Path) -> TestRows:
    frame = read_split(splits, "test")
    texts = frame["text"].tolist()
    return TestRows(texts, frame["label"].to_numpy(dtype=np.int64), {"text": texts})


def _read_images(splits: Path) -> TestRows:
    """Predictions name an image by its row in the file: they are no place for pixels."""
    if holds_cards(splits, "test"):
        cards = read_cards(splits, "test")
        columns = {"row": cards.rows, "certificate": cards.certificates.tolist()}
        return TestRows(cards.images, cards.labels, columns, cards.centering)
    split = read_images(splits, "test")
    return TestRows(split.images, split.labels, {"row": split.rows})
