"""Images as a graph takes them: bytes of one shape, which the graph itself normalises.

C = channels, H = height, W = width.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.inputs import Batch, Image, InputError

MODES = {1: "L", 3: "RGB"}  # pillow's, by the number of channels
DEEP = ("I", "F")  # first letters of pillow's modes of more than 8 bits a channel
MOST_PIXELS = 50_000_000


@dataclass(frozen=True)
class ImageInputs:
    """The shape (C, H, W) that a graph takes."""

    shape: tuple[int | str, ...]

    def batch(self, rows: Sequence[Image] | Image) -> Batch:
        """`images`, uint8 (B, C, H, W).

        Raises:
            InputError: One is of another shape or type.
        """
        for row in rows:
            if not isinstance(row, np.ndarray) or row.dtype != np.uint8 or row.shape != self.shape:
                found = f"{row.dtype} {row.shape}" if isinstance(row, np.ndarray) else type(row).__name__
                raise InputError(f"found {found}, expected an image of uint8 {self.shape}")
        return {"images": np.stack(list(rows))}


def read_image(path: Path, shape: tuple[int | str, ...]) -> Image:
    """A PNG or JPEG file, stretched to `shape` (C, H, W) and made grey or RGB.

    It is turned as its EXIF data say; what is transparent becomes black.

    Raises:
        InputError: It is no such file, is damaged or too large, or has more than 8 bits a channel.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps, UnidentifiedImageError

    channels, height, width = (int(size) for size in shape)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # MOST_PIXELS is stricter
            opened = Pillow.open(path, formats=("PNG", "JPEG"))
        with opened as file:
            if file.width * file.height > MOST_PIXELS:
                raise InputError(
                    f"{path}: found {file.width} × {file.height} pixels, expected at most {MOST_PIXELS:,}. "
                    "Shrink it."
                )
            if file.mode.startswith(DEEP):
                raise InputError(f"{path}: found mode {file.mode}, expected 8 bits a channel. Convert it.")
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Pillow.alpha_composite(Pillow.new("RGBA", image.size, "black"), image)
            image = image.convert(MODES[channels]).resize((width, height), Pillow.Resampling.BILINEAR)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected an image (PNG or JPEG).") from None
    except (UnidentifiedImageError, IsADirectoryError):
        raise InputError(f"{path}: found no image, expected a PNG or JPEG file.") from None
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:  # as pillow has them
        raise InputError(f"{path}: cannot be read: {error}. Save it again as PNG or JPEG.") from None
    pixels = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels[np.newaxis] if channels == 1 else np.moveaxis(pixels, 2, 0))
