"""Converts image classifiers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from gauntlet.components.convert_to_onnx.candidates import Graph
from gauntlet.components.convert_to_onnx.export import Signature, signature_of_images
from gauntlet.components.convert_to_onnx.scoring import Indices
from gauntlet.components.convert_to_onnx.timing import Batch
from gauntlet.contracts.data import STATISTICS_FILE
from gauntlet.manifests.dataset import SplitName
from gauntlet.serving.images import PREPROCESSING_FILE, ImageInputs
from gauntlet.serving.interface import Image, Part, Resize
from gauntlet.tasks.classification.conversion import ClassifierSubject
from gauntlet.tasks.images.data import Statistics
from gauntlet.trainer.batching import Lengths
from gauntlet.trainer.splits import read_images


@dataclass(frozen=True)
class ImageRows:
    """Images (N, C, H, W), or of several `inputs` (N, inputs, C, H, W), with the pixels of the file.

    `file_rows` (N,) are their rows in the file.
    """

    images: npt.NDArray[np.uint8]
    truth: Indices
    file_rows: Indices
    labels: Sequence[str]
    inputs: tuple[str, ...] = ("images",)
    are_padded = False

    @property
    def lengths(self) -> Lengths:
        """All images have one size."""
        return np.ones(len(self), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Indices) -> Batch:
        """The images."""
        return ImageInputs(self.images.shape[-3:], self.inputs).batch(self.images[rows])

    def excerpt(self, row: int) -> Mapping[str, Any]:
        """Its row in the file."""
        return {"file_row": int(self.file_rows[row])}

    def parts(self, row: int) -> Sequence[Part]:
        """Each image as a file."""
        images = self.images[row]
        return [png_of(image) for image in images.reshape(-1, *images.shape[-3:])]


def png_of(image: Image) -> bytes:
    """An image (C, H, W) as a file, whose pixels are the same."""
    picture = Pillow.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1))
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def resize_file(graph: Graph, resize: Resize | None) -> Mapping[str, Path]:
    """A file beside the graph that says how images are resized; nothing if they are not."""
    if resize is None:
        return {}
    path = graph.path.with_name(PREPROCESSING_FILE)
    path.write_text(json.dumps({"resize": resize}), encoding="utf-8")
    return {PREPROCESSING_FILE: path}


@dataclass(frozen=True)
class ImageSubject(ClassifierSubject[ImageRows]):
    """An image classifier."""

    def read_rows(self, split: SplitName) -> ImageRows:
        """Read the images of a split."""
        read = read_images(self.splits, split)
        return ImageRows(read.images, read.labels, read.rows, self.record.labels)

    def files(self, graph: Graph) -> Mapping[str, Path]:
        """As `preparation`."""
        return self.preparation(graph)

    def preparation(self, graph: Graph) -> Mapping[str, Path]:
        """How images are resized, if those of the splits were."""
        return resize_file(graph, Statistics.read(self.splits / STATISTICS_FILE).resize)

    @property
    def signature(self) -> Signature:
        """Images in, logits out."""
        return signature_of_images(self.record.input_shape)


open_subject = ImageSubject
