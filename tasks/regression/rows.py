"""The splits that validate-data writes: texts or images, and a number for each. N = rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.manifests.dataset import SplitName
from gauntlet.serving.interface import Rows
from gauntlet.trainer.mapped import map_texts
from gauntlet.trainer.splits import existing_file, in_channels_first, map_array, read_split

IMAGES_SUFFIX = ".npz"


@dataclass(frozen=True)
class NumberRows:
    """A split.

    Attributes:
        inputs: Texts, or images (N, C, H, W) uint8.
        targets: (N,).
        rows: Their positions in the split's files, (N,).
    """

    inputs: Rows
    targets: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """The inputs, of a split of images."""
        return cast("npt.NDArray[np.uint8]", self.inputs)


def are_images(splits: Path) -> bool:
    """Whether the rows are images, not texts."""
    return (splits / f"train{IMAGES_SUFFIX}").is_file()


def targets_of(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """The numbers of a split of texts, (N,)."""
    return frame["target"].to_numpy(dtype=np.float64, copy=True)


def read_rows(splits: Path, split: SplitName) -> NumberRows:
    """Read a split.

    Raises:
        UsageError: There are no splits.
    """
    if are_images(splits):
        path = existing_file(splits / f"{split}{IMAGES_SUFFIX}")
        with np.load(path) as arrays:
            images = in_channels_first(map_array(path, "images"))
            return NumberRows(images, arrays["target"], arrays["row"])
    frame = read_split(splits, split, ["target", "row"])
    rows = frame["row"].to_numpy(dtype=np.int64)
    return NumberRows(map_texts(splits, split), targets_of(frame), rows)
