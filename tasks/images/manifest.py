"""Sections of manifests that every kind of model of images has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gauntlet.manifests.dataset import LabelledDataset, RowCheck
from gauntlet.manifests.section import Fraction, Section

Size = Annotated[int, Field(ge=8, le=1024)]
Width = Annotated[int, Field(ge=1, le=4096)]


class PixelDataset(LabelledDataset):
    """What datasets of images have: the height and width that a model sees, and its channels."""

    shape: tuple[Size, Size]
    channels: Literal[1, 3] = 1


class ImageColumns(Section):
    """The columns of a table of images. `label: null` means the only column beside `image`.

    `image` holds paths, relative to the table's folder, or the content of image files.
    """

    image: str = Field("image", min_length=1)
    label: str | None = None


class LikenessCheck(RowCheck):
    """Images whose perceptual hashes agree in `similarity` of their bits."""

    similarity: float = Field(0.9, gt=0.5, le=1.0)


class Augmentation(Section):
    """How far a training image is moved at most, drawn anew for each image in each epoch.

    `rotation` is in degrees, `shift` a share of the side, along both, `shear` a share of the height, by which
    the upper edge slides against the lower one, and `zoom` the share by which the image grows or shrinks.
    """

    rotation: float = Field(0.0, ge=0, le=180)
    shift: Fraction = 0.0
    shear: Fraction = 0.0
    zoom: float = Field(0.0, ge=0, lt=1)
    horizontal_flip: bool = False
