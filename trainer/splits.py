"""Reading what validate-data wrote: the splits and their statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.contracts.data import Statistics
from gauntlet.contracts.names import STATISTICS_FILE
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import UsageError


@dataclass(frozen=True)
class ImageSplit:
    """The images (N, C, H, W) uint8 of a split, class indices (N,) int64, and rows in the file."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True)
class CardSplit(ImageSplit):
    """Cards: `images` are (N, 2, C, H, W), front and back; `labels` are grades less 1.

    Attributes:
        centering: Percentages, float32 (N, 4): the left border's of left and right and the top one's of top
            and bottom, of the front and of the back; NaN where it is not known.
        edge_damage: Shares of the edges of front and back, float32 (N, 2), likewise.
        certificates: What the grader calls each card, (N,).
    """

    centering: npt.NDArray[np.float32]
    edge_damage: npt.NDArray[np.float32]
    certificates: npt.NDArray[np.str_]


def read_split(folder: Path, split: SplitName) -> pd.DataFrame:
    """A split of texts as validate-data wrote it, in its order."""
    return pd.read_parquet(_existing(folder / f"{split}.parquet"))


def read_images(folder: Path, split: SplitName) -> ImageSplit:
    """A split of images as validate-data wrote it, in its order."""
    with np.load(_existing(folder / f"{split}.npz")) as arrays:
        images = arrays["images"]  # (N, H, W) or (N, H, W, C)
        images = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
        return ImageSplit(np.ascontiguousarray(images), arrays["label"], arrays["row"])


def holds_cards(folder: Path, split: SplitName) -> bool:
    """Whether the images of a split are sides of cards."""
    with np.load(_existing(folder / f"{split}.npz")) as arrays:
        return "certificate" in arrays


def read_cards(folder: Path, split: SplitName) -> CardSplit:
    """A split of cards as validate-data wrote it, in its order."""
    with np.load(_existing(folder / f"{split}.npz")) as arrays:
        images = arrays["images"]  # (N, 2, H, W) or (N, 2, H, W, C)
        images = images[:, :, None] if images.ndim == 4 else np.moveaxis(images, 4, 2)
        return CardSplit(
            images=np.ascontiguousarray(images),
            labels=arrays["label"],
            rows=arrays["row"],
            centering=arrays["centering"],
            edge_damage=arrays["edge_damage"],
            certificates=arrays["certificate"],
        )


def read_statistics(folder: Path) -> Statistics:
    """What the statistics of the splits of any task kind have, among them `labels` and `sha256`."""
    return Statistics.read(folder / STATISTICS_FILE)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file, expected a folder written by the step validate-data. "
            "Run `gauntlet run` once, or name its splits folder."
        )
    return path
