"""Sections of manifests that every kind of model of images has."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gauntlet.manifests.dataset import LabelledDataset, RowCheck, Sha256
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


FROM_HUB = "hub"
Share = Annotated[float, Field(gt=0, lt=1)]


class Backbone(Section):
    """A network that was trained on other images, and gives features of an image to a new head.

    `name` is one of timm's, or `module:function`, a function without arguments that returns the network.
    `weights` is a safetensors file, by path or URI, with `sha256`, or `hub` for those that timm fetches;
    without it the network is trained from random weights. `freeze` says what training leaves as it is: `all`
    of the network, `none`, or its first so many stages. Pixels from 0 to 1 are normalised with `mean` and
    `std` of each channel; by default timm's for the network, or else those of ImageNet.
    """

    name: str = Field(min_length=1)
    weights: str | None = Field(None, min_length=1)
    sha256: Sha256 | None = None
    freeze: Literal["all", "none"] | Annotated[int, Field(ge=1)] = "all"
    mean: tuple[Share, Share, Share] | None = None
    std: tuple[Share, Share, Share] | None = None

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if self.weights is None and self.freeze != "none":
            raise ValueError(f"freeze {self.freeze} keeps random weights: name weights, or set freeze: none")
        if self.weights == FROM_HUB and ":" in self.name:
            raise ValueError("weights: hub is for networks of timm: name a file")
        if self.sha256 is not None and self.weights in (None, FROM_HUB):
            raise ValueError("sha256 is of a file of weights: name one, or leave it out")
        return self


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
