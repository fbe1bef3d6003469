"""Reading what validate-data wrote: the splits and their statistics."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gauntlet.contracts.data import STATISTICS_FILE, Statistics
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import UsageError

TEXT = "text"
"""The column of texts."""

ROWS_AT_ONCE = 2_000
"""Of a split of texts."""

BUFFER_BYTES = 2**20

NAME_LENGTH_AT = 26
"""Position in the header of a member of a zip archive: APPNOTE 4.3.7."""


@dataclass(frozen=True)
class ImageSplit:
    """The images (N, C, H, W) uint8 of a split on disk, class indices (N,) int64, and rows in the file."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]


def split_file(folder: Path, split: SplitName) -> Path:
    """The file of a split of texts, or a `UsageError` if there are no splits."""
    return existing_file(folder / f"{split}.parquet")


def read_split(folder: Path, split: SplitName, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A split of texts as validate-data wrote it, in its order, or some of its columns."""
    return pd.read_parquet(split_file(folder, split), columns=None if columns is None else list(columns))


def read_rows(
    folder: Path, split: SplitName, rows: Sequence[int] | npt.NDArray[np.int64], columns: Sequence[str]
) -> pd.DataFrame:
    """Some columns of the rows of a split of texts at ascending positions, which are the index."""
    wanted, start, found = np.asarray(rows, dtype=np.int64), 0, []
    for piece in split_pieces(folder, split, columns):
        within = wanted[(wanted >= start) & (wanted < start + len(piece))]
        found.append(piece.take(pa.array(within - start)))
        start += len(piece)
    frame: pd.DataFrame = pa.Table.from_batches(found).to_pandas()
    return frame.set_axis(wanted)


def read_targets(
    folder: Path, split: SplitName, targets: Callable[[pd.DataFrame], npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    """The `targets` of a split of texts, (N, …), without reading the texts."""
    names = [name for name in pq.read_schema(split_file(folder, split)).names if name != TEXT]
    return np.concatenate([targets(piece.to_pandas()) for piece in split_pieces(folder, split, names)])


def split_pieces(folder: Path, split: SplitName, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of a split of texts in its order, a few rows at a time; at least one piece."""
    with pq.ParquetFile(split_file(folder, split), buffer_size=BUFFER_BYTES) as file:
        if not file.metadata.num_rows:
            yield pa.RecordBatch.from_pylist([], file.schema_arrow).select(list(columns))
        for piece in file.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
            yield piece.select(list(columns))


def read_images(folder: Path, split: SplitName) -> ImageSplit:
    """A split of images as validate-data wrote it, in its order."""
    path = existing_file(folder / f"{split}.npz")
    with np.load(path) as arrays:
        return ImageSplit(in_channels_first(map_array(path, "images")), arrays["label"], arrays["row"])


def map_array(path: Path, name: str) -> npt.NDArray[Any]:
    """An array of a file that `numpy.savez` wrote, mapped into memory: a row is read when it is asked for.

    The file is a zip archive that does not compress its members, each a file in the npy format:
    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED:  # not by `savez`
        return np.asarray(np.load(path)[name])
    with path.open("rb") as file:
        file.seek(member.header_offset + NAME_LENGTH_AT)
        lengths = struct.unpack("<HH", file.read(4))  # of the name and of the extra field, which follow
        file.seek(sum(lengths), os.SEEK_CUR)
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, is_fortran, dtype = read_header(file)
        if not math.prod(shape):  # nothing can be mapped
            return np.asarray(np.load(path)[name])
        order: Literal["F", "C"] = "F" if is_fortran else "C"
        # Copied on write, since torch takes no arrays that cannot be written.
        return np.memmap(path, dtype, "c", file.tell(), shape, order)


def in_channels_first(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images (N, …, C, H, W) of (N, …, H, W, C), as a split holds them, or (N, 1, H, W) of (N, H, W)."""
    return images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, -3)


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
