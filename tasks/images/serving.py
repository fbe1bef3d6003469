"""Serves image classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from gauntlet.serving.bundle import MODEL_FILE
from gauntlet.serving.images import ImageInputs, read_image, read_resize
from gauntlet.serving.interface import Image, Rows
from gauntlet.tasks.classification.serving import Classifier

FILES = (MODEL_FILE,)
open_inputs = ImageInputs.of_bundle
SMOKE_IMAGES = 2


class ImageModel(Classifier):
    """A classifier of images, each of one file."""

    columns: ClassVar[tuple[str, ...]] = ("image",)
    are_scans: ClassVar[bool] = False
    """Whether only files are read that show shades exactly; see `open_image`."""

    def read(self, given: Sequence[str]) -> list[Image]:
        """The images of files, resized as in training.

        Raises:
            InputError: A file is not an image that can be read.
        """
        shape, resize = self.info.inputs[0].shape[1:], read_resize(self.folder, self.info)
        return [read_image(Path(path), shape, resize, self.are_scans) for path in given]

    def smoke_rows(self) -> tuple[Rows, str]:
        """Noise."""
        shape = tuple(int(size) for size in ImageInputs.of_bundle(self.folder, self.info).row_shape)
        noise = np.random.default_rng(0).integers(0, 256, (SMOKE_IMAGES, *shape), dtype=np.uint8)
        return noise, "an image of noise"


def open_model(folder: Path, sha256: str | None = None) -> ImageModel:
    """The model of a bundle; see `serving.bundle.Bundle`."""
    return ImageModel(folder, sha256=sha256)
