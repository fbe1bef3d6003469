"""Images as pages show them: in data URIs, so that a page stays one file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

THUMBNAIL_SIDE = 96  # pixels


@dataclass(frozen=True)
class ClassPicture:
    """Some rows of a class as one picture, a PNG in a data URI; its size is in pixels."""

    label: str
    picture: str
    width: int
    height: int


def data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """A PNG of pixels (H, W) or (H, W, 3)."""
    return _png(Image.fromarray(pixels))


def thumbnail(image: npt.NDArray[np.uint8]) -> str:
    """A PNG of an image (C, H, W), made smaller where a side is over `THUMBNAIL_SIDE`."""
    picture = Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, 2))
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return _png(picture)


def _png(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
