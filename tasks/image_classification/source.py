"""Find the idx files of a dataset, verify them, and read them into one array and one table."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.backends import storage
from gauntlet.components.validate_data.packed import decompress
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.image_classification.idx import read_idx
from gauntlet.tasks.image_classification.manifest import ImageDataset

GZIP_SUFFIX = ".gz"
GZIP_MAGIC = b"\x1f\x8b"
SPLITS_OF_FILES: tuple[SplitName, ...] = ("train", "test")


@dataclass(frozen=True)
class ImageTable:
    """Every image of every file.

    Attributes:
        pixels: (N, H, W), or (N, H, W, 3) for three channels.
        rows: One row for each image, in the same order, numbered from 0: `label` (a name of
            `dataset.labels`, or the index as text when it is none of theirs), `split` (of the file), `place`
            (file and row), `row` (position in the file, from 0), `key` (equal for equal images) and `shown`.
    """

    pixels: npt.NDArray[np.uint8]
    rows: pd.DataFrame


def read_images(dataset: ImageDataset) -> ImageTable:
    """Read the four files.

    Raises:
        DataError: A file is missing, altered (sha256), malformed or of another shape, or images and labels
            are not as many; the faults of all files together.
        UsageError: There is nothing at the URI.
    """
    contents: dict[str, bytes] = {}
    faults: list[str] = []
    for role, name in dataset.files:
        data = storage.read_bytes(storage.join(dataset.uri, name))
        try:
            contents[role] = _unpacked(data, name)
        except DataError as error:
            faults.append(str(error))
    faults += _altered(dataset, contents)
    tables: list[ImageTable] = []
    for split in SPLITS_OF_FILES if not faults else ():
        try:
            tables.append(_read_split(dataset, split, contents))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    rows = pd.concat([table.rows for table in tables], ignore_index=True)
    return ImageTable(np.concatenate([table.pixels for table in tables]), rows)


def sources(dataset: ImageDataset) -> tuple[str, ...]:
    """The URIs of the four files."""
    return tuple(storage.join(dataset.uri, name) for _, name in dataset.files)


def _unpacked(data: bytes, name: str) -> bytes:
    packed = name.lower().endswith(GZIP_SUFFIX) or data.startswith(GZIP_MAGIC)
    return decompress(data, name, GZIP_SUFFIX) if packed else data


def _altered(dataset: ImageDataset, contents: dict[str, bytes]) -> list[str]:
    """What is to be said of the files whose sha256 is not the manifest's."""
    faults = []
    for role, expected in dataset.sha256 or ():
        found = hashlib.sha256(contents[role]).hexdigest() if role in contents else expected
        if found != expected:
            faults.append(
                f"{getattr(dataset.files, role)}: found sha256 {found} when unpacked, expected {expected}. "
                f"Fetch it again, or correct dataset.sha256.{role}"
            )
    return faults


def _read_split(dataset: ImageDataset, split: SplitName, contents: dict[str, bytes]) -> ImageTable:
    images, labels = f"{split}_images", f"{split}_labels"
    images_name, labels_name = getattr(dataset.files, images), getattr(dataset.files, labels)
    expected = dataset.shape if dataset.channels == 1 else (*dataset.shape, dataset.channels)
    pixels = read_idx(contents[images], images_name, dimensions=1 + len(expected))
    indices = read_idx(contents[labels], labels_name, dimensions=1)
    if pixels.shape[1:] != expected:
        raise DataError(
            f"{images_name}: found images of {_sides(pixels.shape[1:])}, expected {_sides(expected)}. "
            "Correct dataset.shape and dataset.channels, or name the right file in dataset.files"
        )
    if len(pixels) != len(indices):
        raise DataError(
            f"{labels_name}: found {len(indices):,} labels, expected {len(pixels):,}, one for each image of "
            f"{images_name}. Name the files that belong together in dataset.files"
        )
    if not len(pixels):
        raise DataError(f"{images_name}: found no images, expected some. Put the data there")
    names = dataset.labels
    rows = pd.DataFrame(
        {
            "label": [names[index] if index < len(names) else str(index) for index in indices.tolist()],
            "split": split,
            "place": [f"{images_name} image {row}" for row in range(len(pixels))],
            "row": range(len(pixels)),
            "key": [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels],
            "shown": "the image",
        }
    )
    return ImageTable(pixels, rows)


def _sides(shape: tuple[int, ...]) -> str:
    return " × ".join(str(side) for side in shape)
