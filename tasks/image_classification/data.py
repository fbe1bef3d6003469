"""Image datasets in idx files: read the images, check them, and describe their splits.

MNIST and similar data are published in the idx format: two zero bytes, a byte for the type of the values
(8: unsigned bytes), a byte for the number of dimensions, each dimension as a big-endian number of 32 bits,
then the values: https://yann.lecun.com/exdb/mnist/
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.backends import storage
from gauntlet.components.validate_data.carving import carve, group_names
from gauntlet.components.validate_data.checks import SHOWN_EXAMPLES, CheckedTable, Examination, Finding
from gauntlet.components.validate_data.classes import check_classes
from gauntlet.components.validate_data.duplicates import (
    NothingAlike,
    find_conflicts,
    find_exact,
    find_leaks,
    outside_test,
)
from gauntlet.components.validate_data.packed import decompress
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import DataError
from gauntlet.manifests.gates import describe_resolution
from gauntlet.tasks.image_classification.manifest import ImageDataset
from gauntlet.tasks.images.data import Statistics, class_pictures, describe, split_arrays

__all__ = ["Statistics", "examine", "sources"]

GZIP_SUFFIX = ".gz"
GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTES = 8
START = 4  # bytes before the dimensions of an idx file
SPLITS_OF_FILES: tuple[SplitName, ...] = ("train", "test")
EQUAL = 1.0


def examine(dataset: ImageDataset) -> Examination:
    """Read and check a dataset.

    Raises:
        DataError: The data cannot be read.
        UsageError: There is nothing at the URI.
        GauntletError: The store that holds the data is unavailable.
    """
    table = read_images(dataset)
    checked = check_table(table, dataset)
    statistics = describe(checked.rows, table.pixels, dataset)
    return Examination(
        table=table.rows,
        checked=checked,
        statistics=statistics,
        content=lambda split: split_arrays(checked.rows, split, table.pixels, dataset.labels),
        fingerprints="pixels",
        resolution=describe_resolution(statistics.class_counts["test"].values()),
        pictures=class_pictures(checked.rows, table.pixels, dataset.labels),
    )


def sources(dataset: ImageDataset) -> tuple[str, ...]:
    """The URIs of the four files."""
    return tuple(storage.join(dataset.uri, name) for _, name in dataset.files)


# --- reading -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageTable:
    """Every image of every file.

    Attributes:
        pixels: (N, H, W), or (N, H, W, 3) for three channels.
        rows: One row for each image, in the same order, numbered from 0: `label` (a name of
            `dataset.labels`, or the index as text if there is no such label), `split` (of the file), `place`
            (file and row), `row` (position in the file, from 0), `key` (equal for equal images) and `shown`.
    """

    pixels: npt.NDArray[np.uint8]
    rows: pd.DataFrame


def read_images(dataset: ImageDataset) -> ImageTable:
    """Read the four files.

    Raises:
        DataError: A file is missing, altered (sha256), malformed or of another shape, or its labels are
            more or fewer than its images; the faults of all files together.
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


def _unpacked(data: bytes, name: str) -> bytes:
    packed = name.lower().endswith(GZIP_SUFFIX) or data.startswith(GZIP_MAGIC)
    return decompress(data, name, GZIP_SUFFIX) if packed else data


def _altered(dataset: ImageDataset, contents: dict[str, bytes]) -> list[str]:
    """A message for each file whose sha256 differs from the manifest's."""
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
        raise DataError(
            f"{images_name}: found no images, expected at least one. Correct dataset.uri or dataset.files"
        )
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


def read_idx(data: bytes, name: str, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of an unpacked idx file; errors name `name`.

    Raises:
        DataError: It is not an idx file of unsigned bytes with so many dimensions, or it is incomplete.
    """
    start = START + 4 * dimensions
    if len(data) < START or data[:2] != b"\0\0":
        raise DataError(
            f"{name}: found {data[:START].hex(' ') or 'no bytes'} at its start, expected "
            f"{bytes([0, 0, UNSIGNED_BYTES, dimensions]).hex(' ')}, as in an idx file. "
            "Name the right file in dataset.files"
        )
    if data[2] != UNSIGNED_BYTES or data[3] != dimensions:
        raise DataError(
            f"{name}: found an idx file of type {data[2]} with {data[3]} dimensions, expected type "
            f"{UNSIGNED_BYTES} (unsigned bytes) with {dimensions}. Name the right file in dataset.files"
        )
    if len(data) < start:
        raise DataError(
            f"{name}: found {len(data)} bytes, expected {start} before its values. Fetch it again"
        )
    shape = tuple(int(side) for side in np.frombuffer(data, dtype=">u4", count=dimensions, offset=START))
    expected = math.prod(shape)
    if len(data) - start != expected:
        raise DataError(
            f"{name}: found {len(data) - start:,} bytes of values, expected {expected:,} "
            f"({' × '.join(f'{side:,}' for side in shape)}). Fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _sides(shape: tuple[int, ...]) -> str:
    return " × ".join(str(side) for side in shape)


# --- checks ------------------------------------------------------------------------------------------


def check_table(table: ImageTable, dataset: ImageDataset) -> CheckedTable:
    """Run every check, whatever the ones before it found, and carve validation from the training file.

    It is carved after the checks within a split and before the one across splits, so that the rows that
    `drop` removes are gone by then. The index of the rows that are left is their position in `table.pixels`.
    """
    checks = dataset.checks
    keys = table.rows["key"].tolist()
    likeness = NothingAlike()
    rows = table.rows.assign(group=group_names(keys, likeness, EQUAL))
    checked = CheckedTable(rows, len(rows), groups=dict(zip(keys, rows["group"], strict=True)))
    # Such a row cannot be written as (image, class index), so it leaves whatever the severity.
    checked.check(
        "unknown_labels", checks.unknown_labels, lambda rows: find_unknown(rows, dataset), unusable=True
    )
    checked.check("empty_images", checks.empty_images, lambda rows: find_empty(rows, table.pixels))
    checked.check("conflicting_labels", checks.conflicting_labels, find_conflicts)
    checked.check("exact_duplicates", checks.exact_duplicates, find_exact)
    share = dataset.validation_fraction
    checked.rows = carve(
        checked.rows,
        ("validation",),
        {"train": 1 - share, "validation": share},
        checks.rows_per_class.min_rows,
    )
    checked.check("leakage", checks.leakage, lambda rows: find_leaks(rows, likeness, EQUAL))
    check_classes(checked, dataset, checks.rows_per_class, checks.class_balance)
    return checked


def find_unknown(rows: pd.DataFrame, dataset: ImageDataset) -> Finding:
    """Rows whose label is not the index of a class."""
    unknown = rows[~rows["label"].isin(dataset.labels)]
    examples = [
        f"{row.place}: label {row.label}, and the last of dataset.labels is {len(dataset.labels) - 1}"
        for row in unknown.head(SHOWN_EXAMPLES).itertuples()
    ]
    return Finding(unknown.index, unknown.index, examples, column="label")


def find_empty(rows: pd.DataFrame, pixels: npt.NDArray[np.uint8]) -> Finding:
    """Rows whose pixels are all the same."""
    flat = pixels[rows.index].reshape(len(rows), -1)
    empty = rows.index[flat.min(axis=1) == flat.max(axis=1)]
    examples = [
        f"{row.place}: every pixel is {pixels[row.Index].min()}"
        for row in rows.loc[empty[:SHOWN_EXAMPLES]].itertuples()
    ]
    return Finding(
        empty,
        outside_test(rows, empty),
        examples,
        reasons=lambda _, some: [f"every pixel is {pixels[row].min()}" for row in some.tolist()],
    )
