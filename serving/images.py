"""Images as a graph takes them: bytes of one shape, which the graph itself normalises.

C = channels, H = height, W = width.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gauntlet.serving.bundle import BundleInfo
from gauntlet.serving.interface import Batch, Image, InputError

if TYPE_CHECKING:
    from PIL.Image import Image as PictureOfPillow
    from PIL.ImageFile import ImageFile

MODES = {1: "L", 3: "RGB"}  # pillow's, by the number of channels
DEEP = ("I", "F")  # first letters of pillow's modes of more than 8 bits a channel
DEEP_DECODERS = ";16B"
PRINTED = ("CMYK", "LAB")  # a colour profile decides what they look like on a screen
MOST_PIXELS = 50_000_000


@dataclass(frozen=True)
class ImageInputs:
    """The inputs of a graph, all of the shape (C, H, W).

    With one input a row is an image; with S of them it is S images, (S, C, H, W), in the inputs' order.
    """

    shape: tuple[int | str, ...]
    names: tuple[str, ...] = ("images",)

    @classmethod
    def of_bundle(cls, folder: Path, info: BundleInfo) -> ImageInputs:  # noqa: ARG003
        """The inputs of a bundle's graph."""
        return cls(info.inputs[0].shape[1:], tuple(spec.name for spec in info.inputs))

    @property
    def row_shape(self) -> tuple[int | str, ...]:
        """The shape of a row."""
        return self.shape if len(self.names) == 1 else (len(self.names), *self.shape)

    def cut(self, rows: Any) -> list[int]:  # noqa: ARG002
        """No positions: an image is read whole."""
        return []

    def batch(self, rows: Sequence[Image] | Image) -> Batch:
        """Each input, uint8 (B, C, H, W).

        Raises:
            InputError: One is of another shape or type.
        """
        for row in rows:
            if not isinstance(row, np.ndarray) or row.dtype != np.uint8 or row.shape != self.row_shape:
                found = f"{row.dtype} {row.shape}" if isinstance(row, np.ndarray) else type(row).__name__
                raise InputError(f"found {found}, expected an image of uint8 {self.row_shape}")
        stacked = np.stack(list(rows))
        if len(self.names) == 1:
            return {self.names[0]: stacked}
        return {name: np.ascontiguousarray(stacked[:, at]) for at, name in enumerate(self.names)}


def read_image(path: Path, shape: tuple[int | str, ...]) -> Image:
    """A PNG or JPEG file, stretched to `shape` (C, H, W) and made grey or RGB.

    Raises:
        InputError: As `open_image`.
    """
    return fitted(open_image(path, str(path)), shape)


def open_image(file: Path | IO[bytes], name: str) -> PictureOfPillow:
    """A PNG or JPEG file's picture, grey or RGB.

    It is rotated as its EXIF data say; transparent pixels become black.

    Raises:
        InputError: It is not such a file, is damaged or too large, has more than 8 bits per channel, or has
            colours for print.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # MOST_PIXELS is stricter
            opened = Pillow.open(file, formats=("PNG", "JPEG"))
        with opened as picture:
            _require_readable(picture, name)
            turned = ImageOps.exif_transpose(picture)
            if turned.has_transparency_data:
                turned = turned.convert("RGBA")
                turned = Pillow.alpha_composite(Pillow.new("RGBA", turned.size, "black"), turned)
            return turned.convert("L" if turned.mode in ("1", "L") else "RGB")
    except FileNotFoundError:
        raise InputError(f"{name}: no such file, expected an image (PNG or JPEG).") from None
    except (UnidentifiedImageError, IsADirectoryError):
        raise InputError(f"{name}: found no image, expected a PNG or JPEG file.") from None
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:  # as pillow has them
        raise InputError(f"{name}: cannot be read: {error}. Save it again as PNG or JPEG.") from None


def _require_readable(picture: ImageFile, name: str) -> None:
    """Refuse by what the header says, before any pixel is decoded."""
    if picture.width * picture.height > MOST_PIXELS:
        raise InputError(
            f"{name}: found {picture.width} × {picture.height} pixels, expected at most {MOST_PIXELS:,}. "
            "Shrink it."
        )
    # Pillow silently cuts the 16-bit channels of a coloured PNG to 8; only its decoder's name shows it.
    if picture.mode.startswith(DEEP) or any(str(tile[3]).endswith(DEEP_DECODERS) for tile in picture.tile):
        raise InputError(f"{name}: found {picture.mode} of 16 bits, expected 8 bits a channel. Convert it.")
    if picture.mode in PRINTED:
        raise InputError(f"{name}: found colours in {picture.mode}, expected grey or RGB. Convert it.")


def fitted(picture: PictureOfPillow, shape: tuple[int | str, ...]) -> Image:
    """A picture stretched to `shape` (C, H, W)."""
    from PIL import Image as Pillow

    channels, height, width = (int(size) for size in shape)
    resized = picture.convert(MODES[channels]).resize((width, height), Pillow.Resampling.BILINEAR)
    pixels = np.asarray(resized, dtype=np.uint8)
    return np.ascontiguousarray(pixels[np.newaxis] if channels == 1 else np.moveaxis(pixels, 2, 0))
