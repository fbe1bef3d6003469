"""Sections of manifests that every kind of model of images has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gauntlet.manifests.dataset import LabelledDataset
from gauntlet.manifests.section import Fraction, Section

Size = Annotated[int, Field(ge=8, le=1024)]
Width = Annotated[int, Field(ge=1, le=4096)]


class PixelDataset(LabelledDataset):
    """What datasets of images have: the height and width that a model sees, and its channels."""

    shape: tuple[Size, Size]
    channels: Literal[1, 3] = 1


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
