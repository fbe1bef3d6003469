"""What the splits of images hold, look like in numbers, and look like."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.components.pictures import ClassPicture, data_uri
from gauntlet.components.validate_data.checks import SHOWN_EXAMPLES, Finding, json_line, origin
from gauntlet.components.validate_data.classes import count_classes
from gauntlet.contracts.data import ClassStatistics
from gauntlet.contracts.document import Document
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.interface import Resize
from gauntlet.tasks.images.manifest import PixelDataset

# Fixed, so that histograms of different data can be compared bin by bin. The mean of an image's pixels.
BRIGHTNESS_EDGES = tuple(range(0, 256, 16))
LEVELS = 256
SHOWN_ROWS = 16
GAP = 2  # pixels between two images
PAPER = 255
IMAGES_AT_ONCE = 256

Pixels = npt.NDArray[np.uint8]
"""Images (N, …)."""

Positions = npt.NDArray[np.int64]
"""Of images among `Pixels`."""


class PixelStatistics(Document):
    """Pixels of one split, 0 to 255.

    Attributes:
        mean: Of each channel; 0 if there are no images.
        std: Of each channel, over all of its pixels.
        edges: Lower bounds of the bins; a bin ends below the next edge, the last one at 255.
        brightness: Images in each bin, by the mean of their pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    edges: tuple[int, ...]
    brightness: tuple[int, ...]


class Statistics(ClassStatistics):
    """The content of `statistics.json`.

    Attributes:
        sha256: Of the images and labels of the three splits (`content_sha256`).
        shape: Height and width.
        resize: How images of other sizes got to the shape; None if all had it.
        sizes: Width and height of the smallest and of the largest image before that.
        labels_from: Where the labels come from; None: the manifest, in which the kind needs them.
        other_files: Files among the images that are none by their names, and were not read.
    """

    shape: tuple[int, int]
    channels: int
    pixels: Mapping[str, PixelStatistics]
    resize: Resize | None = None
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    labels_from: Literal["manifest", "folders", "table"] | None = None
    other_files: tuple[str, ...] | None = None


def find_noted(rows: pd.DataFrame, column: str) -> Finding:
    """Rows in which reading them noted a fault."""
    faulty = rows[rows[column] != ""]
    examples = [f"{row['place']}: {row[column]}" for row in faulty.head(SHOWN_EXAMPLES).to_dict("records")]
    return Finding(
        faulty.index, faulty.index, examples, reasons=lambda table, some: table.loc[some, column].tolist()
    )


def describe(
    table: pd.DataFrame,
    pixels: Pixels,
    dataset: PixelDataset,
) -> Statistics:
    """The statistics of a table of `label` (a name) and `split` whose index is the position in `pixels`."""
    positions = {split: table.index[table["split"] == split].to_numpy() for split in SPLITS}
    labels = {split: table.loc[table["split"] == split, "label"].tolist() for split in SPLITS}
    return Statistics(
        **origin(dataset),
        labels=dataset.labels,
        sha256=content_sha256(pixels, positions, labels, dataset.labels),
        rows={split: len(of_split) for split, of_split in positions.items()},
        class_counts=count_classes(table, dataset.labels),
        shape=dataset.shape,
        channels=dataset.channels,
        pixels={
            split: describe_pixels(in_pieces(pixels, of_split), dataset.channels)
            for split, of_split in positions.items()
        },
    )


def array_on_disk(shape: tuple[int, ...]) -> Pixels:
    """Zeros in a temporary file without a name, which the system removes with the array.

    Raises:
        GauntletError: The disk is full.
    """
    size = math.prod(shape)
    if not size:  # nothing can be mapped
        return np.zeros(shape, dtype=np.uint8)
    with tempfile.TemporaryFile() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk would end the process later
        except OSError as error:
            raise GauntletError(
                f"{tempfile.gettempdir()}: {size / 1e9:,.1f} GB of images cannot be written "
                f"({error.strerror}). Make room, or name a folder on a larger disk by TMPDIR."
            ) from None
        return np.memmap(file, np.uint8, "r+", shape=shape)


def in_pieces(pixels: Pixels, positions: Positions) -> Iterator[Pixels]:
    """The images at positions (N,), a few at a time, since the file that holds them may be large."""
    for start in range(0, len(positions), IMAGES_AT_ONCE):
        yield pixels[positions[start : start + IMAGES_AT_ONCE]]


def gathered(pixels: Pixels, positions: Positions) -> Pixels:
    """The images at positions (N,), on disk."""
    found = array_on_disk((len(positions), *pixels.shape[1:]))
    for number, piece in enumerate(in_pieces(pixels, positions)):
        start = number * IMAGES_AT_ONCE
        found[start : start + len(piece)] = piece
    return found


def describe_pixels(pieces: Iterable[Pixels], channels: int) -> PixelStatistics:
    """Mean, standard deviation and brightness of images (N, …, H, W) or (N, …, H, W, channels), in pieces.

    The moments are of whole numbers, so they are the same on every machine.
    """
    levels = np.zeros((channels, LEVELS), dtype=np.int64)
    brightness = np.zeros(len(BRIGHTNESS_EDGES), dtype=np.int64)
    for images in pieces:
        of_channels = np.moveaxis(images.reshape(-1, channels), 1, 0)
        levels += [np.bincount(channel, minlength=LEVELS) for channel in of_channels]
        means_of_images = images.reshape(len(images), math.prod(images.shape[1:])).mean(axis=1)
        brightness += np.histogram(means_of_images, bins=[*BRIGHTNESS_EDGES, LEVELS])[0]
    means, deviations = [], []
    for counts in levels.tolist():
        total = max(1, sum(counts))
        first = sum(level * count for level, count in enumerate(counts))
        second = sum(level * level * count for level, count in enumerate(counts))
        means.append(first / total)
        deviations.append(math.sqrt(second * total - first * first) / total)
    return PixelStatistics(
        mean=tuple(means),
        std=tuple(deviations),
        edges=BRIGHTNESS_EDGES,
        brightness=tuple(brightness.tolist()),
    )


def content_sha256(
    pixels: Pixels,
    positions: Mapping[SplitName, Positions],
    labels: Mapping[SplitName, list[str]],
    names: tuple[str, ...],
) -> str:
    """Hash of the rows in their order, so that it does not change with the files' format.

    A split's rows are at its positions of `pixels`. The hash is fed with a JSON line of the class names; then
    for each split with a JSON line of its name and of its images' shape, with its class indices as
    little-endian numbers of 16 bits, and with its pixels.
    """
    index = {name: number for number, name in enumerate(names)}
    digest = hashlib.sha256(json_line(list(names)))
    for split in SPLITS:
        digest.update(json_line([split, len(positions[split]), *pixels.shape[1:]]))
        digest.update(np.array([index[label] for label in labels[split]], dtype="<u2").tobytes())
        for piece in in_pieces(pixels, positions[split]):
            digest.update(piece.tobytes())
    return digest.hexdigest()


def split_arrays(
    table: pd.DataFrame,
    split: SplitName,
    pixels: Pixels,
    labels: Sequence[str],
    targets: Mapping[str, npt.NDArray[Any]] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """A split as it is written: `images`, `label` and `row`, int64 (N,), and its rows of the `targets`."""
    index = {label: number for number, label in enumerate(labels)}
    rows = table[table["split"] == split]
    return {
        "images": gathered(pixels, rows.index.to_numpy()),
        "label": np.array([index[name] for name in rows["label"]], dtype=np.int64),
        "row": rows["row"].to_numpy(dtype=np.int64),
        **{name: values[rows.index] for name, values in (targets or {}).items()},
    }


def class_pictures(
    table: pd.DataFrame, pixels: npt.NDArray[np.uint8], labels: Sequence[str]
) -> tuple[ClassPicture, ...]:
    """For each class that has any, training rows side by side, at even distances in their file."""
    train = table[table["split"] == "train"]
    pictures = []
    for label in labels:
        rows = train.index[train["label"] == label].to_numpy()
        if len(rows):
            chosen = rows[np.linspace(0, len(rows) - 1, min(SHOWN_ROWS, len(rows)), dtype=np.int64)]
            pictures.append(_side_by_side(label, pixels[chosen]))
    return tuple(pictures)


def _side_by_side(label: str, images: npt.NDArray[np.uint8]) -> ClassPicture:
    number, height, width = images.shape[:3]
    sheet = np.full((height, number * (width + GAP) - GAP, *images.shape[3:]), PAPER, dtype=np.uint8)
    for place, image in enumerate(images):
        sheet[:, place * (width + GAP) : place * (width + GAP) + width] = image
    return ClassPicture(label, data_uri(sheet), sheet.shape[1], sheet.shape[0])
