"""Reading what validate-data wrote: the splits and their statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.contracts.data import STATISTICS_FILE, Statistics
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import UsageError


@dataclass(frozen=True)
class ImageSplit:
    """The images (N, C, H, W) uint8 of a split, class indices (N,) int64, and rows in the file."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


def read_split(folder: Path, split: SplitName) -> pd.DataFrame:
    """A split of texts as validate-data wrote it, in its order."""
    return pd.read_parquet(existing_file(folder / f"{split}.parquet"))


def read_images(folder: Path, split: SplitName) -> ImageSplit:
    """A split of images as validate-data wrote it, in its order."""
    with np.load(existing_file(folder / f"{split}.npz")) as arrays:
        return ImageSplit(in_channels_first(arrays["images"]), arrays["label"], arrays["row"])


def in_channels_first(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images (N, C, H, W) of (N, H, W) or (N, H, W, C), as a split holds them."""
    return np.ascontiguousarray(images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1))


def read_statistics(folder: Path) -> Statistics:
    """What the statistics of the splits of any task kind have, among them `labels` and `sha256`."""
    return Statistics.read(folder / STATISTICS_FILE)


def existing_file(path: Path) -> Path:
    """The path, or a `UsageError` if there is no such file."""
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file, expected a folder written by the step validate-data. "
            "Run `gauntlet run` once, or name its splits folder."
        )
    return path
