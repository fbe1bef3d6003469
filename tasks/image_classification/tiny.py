"""Settings and data with which any manifest of the kind trains in seconds, for `gauntlet smoke`."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SETTINGS: dict[str, Any] = {
    "training.backbone": None,
    "training.epochs": 1,
    "training.batch_size": 16,
    "training.gradient_accumulation": 1,
    "training.filters": [8],
    "training.depth": 1,
    "training.units": 16,
    "conversion.candidates": ["plain", "int8_static"],
    "conversion.pytorch": ["eager"],
}
LABELS = ("left", "right")
"""Of generated images if the manifest takes the labels from its data."""

TRAINING_IMAGES, TEST_IMAGES = 40, 16
"""Of each class."""

Drawn = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def settings(manifest: Any, folder: Path, at_hand: bool) -> tuple[dict[str, Any], str]:
    """Manifest keys to set, and in words which images are read: its own, or generated ones of its labels."""
    dataset = manifest.dataset
    if at_hand:
        return SETTINGS, "its own"
    labels, channels = dataset.labels or LABELS, dataset.channels or 1
    drawn = [
        draw(len(labels), count, dataset.shape, channels, seed)
        for seed, count in enumerate((TRAINING_IMAGES, TEST_IMAGES))
    ]
    generated = {
        "name": dataset.name,
        "version": "drawn",
        "labels": labels,
        "shape": dataset.shape,
        "channels": channels,
        "uri": str(write_files(folder / "data", *drawn)),
        "validation_fraction": 0.25,
    }
    return {"dataset": generated} | SETTINGS, "drawn"


def draw(classes: int, images_per_class: int, shape: tuple[int, int], channels: int, seed: int) -> Drawn:
    """Noise with a bright bar, whose position is its class: images (N, H, W) or (N, H, W, C), labels (N,)."""
    generator = np.random.default_rng(seed)
    labels = np.tile(np.arange(classes, dtype=np.uint8), images_per_class)
    sides = (*shape, channels) if channels > 1 else shape
    images = generator.integers(0, 60, (len(labels), *sides), dtype=np.uint8)
    width = max(1, shape[1] // classes)
    for image, label in zip(images, labels, strict=True):
        image[:, label * width % shape[1] :][:, :width] += np.uint8(150)
    return images, labels


def write_files(folder: Path, train: Drawn, test: Drawn) -> Path:
    """The four gzipped idx files of a training set and a test set, under their usual names."""
    folder.mkdir(parents=True, exist_ok=True)
    for role, (images, labels) in (("train", train), ("t10k", test)):
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{role}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array), compresslevel=1))
    return folder


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    """The array as an idx file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
