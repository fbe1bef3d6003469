"""Images of drawn shapes that a small network tells apart, as arrays and as idx files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gauntlet.tasks.image_classification.tiny import Drawn

SHAPES = ("upright", "level", "block")
SIDE = 16
FILES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


def draw(rows_per_class: int, seed: int) -> Drawn:
    """Images (N, 16, 16) of a standing bar, a lying bar or a square, with noise; labels (N,) in turn."""
    generator = np.random.default_rng(seed)
    labels = np.tile(np.arange(len(SHAPES), dtype=np.uint8), rows_per_class)
    images = generator.integers(0, 40, (len(labels), SIDE, SIDE), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = generator.integers(2, 6, 2)
        height, width = ((9, 3), (3, 9), (6, 6))[label]
        image[top : top + height, left : left + width] += np.uint8(generator.integers(120, 200))
    return images, labels


def dataset(uri: Path, **settings: Any) -> dict[str, Any]:
    """The section `dataset` of the drawn images."""
    content = {"name": "drawn", "version": "1", "uri": str(uri), "labels": list(SHAPES)}
    return content | {"shape": [SIDE, SIDE], "validation_fraction": 0.25} | settings


def write_pictures(folder: Path, drawn: Drawn, names: tuple[str, ...] = SHAPES, start: int = 0) -> Path:
    """A folder of PNG files for each class, which are numbered from `start`."""
    images, labels = drawn
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True), start=start):
        Image.fromarray(image).save(folder / names[label] / f"{number // len(names)}.png")
    return folder
