"""Pictures of some rows of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.components.pictures import data_uri

SHOWN_ROWS = 16
GAP = 2  # pixels between two images
PAPER = 255


@dataclass(frozen=True)
class Strip:
    """Some rows of a class side by side, as a PNG in a data URI; its size is in pixels."""

    label: str
    picture: str
    width: int
    height: int


def class_strips(table: pd.DataFrame, pixels: npt.NDArray[np.uint8], labels: Sequence[str]) -> list[Strip]:
    """For each class, training rows at even distances; a class without any has no strip."""
    train = table[table["split"] == "train"]
    strips = []
    for label in labels:
        rows = train.index[train["label"] == label].to_numpy()
        if len(rows):
            chosen = rows[np.linspace(0, len(rows) - 1, min(SHOWN_ROWS, len(rows)), dtype=np.int64)]
            strips.append(_strip(label, pixels[chosen]))
    return strips


def _strip(label: str, images: npt.NDArray[np.uint8]) -> Strip:
    number, height, width = images.shape[:3]
    sheet = np.full((height, number * (width + GAP) - GAP, *images.shape[3:]), PAPER, dtype=np.uint8)
    for place, image in enumerate(images):
        sheet[:, place * (width + GAP) : place * (width + GAP) + width] = image
    return Strip(label, data_uri(sheet), sheet.shape[1], sheet.shape[0])
