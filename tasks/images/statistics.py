"""What the splits look like in numbers: the baseline that drift is measured against."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.components.validate_data.classes import count_classes
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.tasks.image_classification.manifest import PixelDataset

# Fixed, so that histograms of different data can be compared bin by bin. The mean of an image's pixels.
BRIGHTNESS_EDGES = tuple(range(0, 256, 16))
LEVELS = 256


@dataclass(frozen=True)
class PixelStatistics:
    """Pixels of one split, 0 to 255.

    Attributes:
        mean: Of each channel; 0 where there are no images.
        std: Of each channel, over all of its pixels.
        edges: Lower bounds of the bins; a bin ends below the next edge, the last one at 255.
        brightness: Images in each bin, by the mean of their pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    edges: tuple[int, ...]
    brightness: tuple[int, ...]


@dataclass(frozen=True)
class ImageStatistics:
    """The content of `statistics.json`.

    Attributes:
        sha256: Of the images and labels of the three splits (`content_sha256`).
        shape: Height and width.
    """

    name: str
    version: str
    commit_hash: str | None
    created: str | None
    uri: str
    labels: tuple[str, ...]
    sha256: str
    rows: Mapping[str, int]
    class_counts: Mapping[str, Mapping[str, int]]
    shape: tuple[int, int]
    channels: int
    pixels: Mapping[str, PixelStatistics]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types; what is unknown is absent."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def describe(table: pd.DataFrame, pixels: npt.NDArray[np.uint8], dataset: PixelDataset) -> ImageStatistics:
    """The statistics of a table of `label` (a name) and `split` whose index is the position in `pixels`."""
    images = {split: pixels[table.index[table["split"] == split]] for split in SPLITS}
    labels = {split: table.loc[table["split"] == split, "label"].tolist() for split in SPLITS}
    return ImageStatistics(
        name=dataset.name,
        version=dataset.version,
        commit_hash=dataset.commit_hash,
        created=dataset.created.isoformat() if dataset.created else None,
        uri=dataset.uri,
        labels=dataset.labels,
        sha256=content_sha256(images, labels, dataset.labels),
        rows={split: len(of_split) for split, of_split in images.items()},
        class_counts=count_classes(table, dataset.labels),
        shape=dataset.shape,
        channels=dataset.channels,
        pixels={split: describe_pixels(of_split, dataset.channels) for split, of_split in images.items()},
    )


def describe_pixels(images: npt.NDArray[np.uint8], channels: int) -> PixelStatistics:
    """Mean, standard deviation and brightness of images (N, …, H, W) or (N, …, H, W, channels).

    The moments are of whole numbers, so they are the same on every machine.
    """
    means, deviations = [], []
    for channel in np.moveaxis(images.reshape(-1, channels), 1, 0):
        counts = np.bincount(channel, minlength=LEVELS).tolist()
        total = max(1, sum(counts))
        first = sum(level * count for level, count in enumerate(counts))
        second = sum(level * level * count for level, count in enumerate(counts))
        means.append(first / total)
        deviations.append(math.sqrt(second * total - first * first) / total)
    brightness = images.reshape(len(images), math.prod(images.shape[1:])).mean(axis=1)
    histogram, _ = np.histogram(brightness, bins=[*BRIGHTNESS_EDGES, LEVELS])
    counted = tuple(int(count) for count in histogram)
    return PixelStatistics(tuple(means), tuple(deviations), BRIGHTNESS_EDGES, counted)


def content_sha256(
    images: Mapping[SplitName, npt.NDArray[np.uint8]],
    labels: Mapping[SplitName, list[str]],
    names: tuple[str, ...],
) -> str:
    """Hash of the rows in their order, so that it does not change with the files' format.

    Fed with a JSON line of the class names; then for each split with a JSON line of its name and of its
    images' shape, with its class indices as bytes of 16 bits, the lowest first, and with its pixels.
    """
    index = {name: number for number, name in enumerate(names)}
    digest = hashlib.sha256(_line(list(names)))
    for split in SPLITS:
        digest.update(_line([split, *images[split].shape]))
        digest.update(np.array([index[label] for label in labels[split]], dtype="<u2").tobytes())
        digest.update(np.ascontiguousarray(images[split]).tobytes())
    return digest.hexdigest()


def _line(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
