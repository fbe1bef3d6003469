"""Images as a graph takes them: bytes of one shape, which the graph itself normalises.

C = channels, H = height, W = width.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast, get_args

import numpy as np

from gauntlet.serving.bundle import BundleError, BundleInfo
from gauntlet.serving.interface import Batch, Image, InputError, Resize, Row

if TYPE_CHECKING:
    from PIL.Image import Image as PictureOfPillow
    from PIL.ImageFile import ImageFile

MODES = {1: "L", 3: "RGB"}  # pillow's, by the number of channels
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SCAN_FORMATS = ("PNG", "JPEG")
SEVERAL = ("GIF", "WEBP", "TIFF")  # formats of files that may hold several pictures, none of which is the one
DEEP = ("I", "F")  # first letters of pillow's modes of more than 8 bits a channel
DEEP_DECODERS = ";16B"
WORDS = "I;16"  # its mode of 16 bits; the others do not say which value is white
PRINTED = ("CMYK", "LAB")  # a colour profile decides what they look like on a screen
MOST_PIXELS = 50_000_000
PREPROCESSING_FILE = "preprocessing.json"
"""Of a checkpoint and a bundle: `resize` of its images. Without it other sizes are stretched."""


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
        """Each input, uint8 (B, C, H, W), or an `InputError` for another shape or type."""
        for row in rows:
            if not isinstance(row, np.ndarray) or row.dtype != np.uint8 or row.shape != self.row_shape:
                found = f"{row.dtype} {row.shape}" if isinstance(row, np.ndarray) else type(row).__name__
                raise InputError(f"found {found}, expected an image of uint8 {self.row_shape}")
        stacked = np.ascontiguousarray(np.stack(list(rows)))  # rows may be views of files with channels last
        if len(self.names) == 1:
            return {self.names[0]: stacked}
        return {name: np.ascontiguousarray(stacked[:, at]) for at, name in enumerate(self.names)}

    def row(self, row: Image) -> Row:
        """An image alone. Raises as `batch`."""
        return Row(self.batch([row]), 1)

    def stacked(self, rows: Sequence[Row]) -> Batch:
        """What `batch` gives for the rows' images."""
        return {name: np.concatenate([row.inputs[name] for row in rows]) for name in self.names}


def read_resize(folder: Path, info: BundleInfo) -> Resize:
    """How a bundle's model wants images resized, or a `BundleError` if its file says something else."""
    if PREPROCESSING_FILE not in info.files:
        return "stretch"
    content = json.loads((folder / PREPROCESSING_FILE).read_bytes())
    found = content.get("resize") if isinstance(content, dict) else None
    if found not in get_args(Resize):
        raise BundleError(
            f"{folder / PREPROCESSING_FILE}: resize: found {found!r}, expected one of "
            f"{', '.join(get_args(Resize))}"
        )
    return cast(Resize, found)


def read_image(
    file: Path | bytes,
    shape: tuple[int | str, ...],
    resize: Resize = "stretch",
    of_scan: bool = False,
    most_pixels: int = MOST_PIXELS,
) -> Image:
    """The picture of a file or of its bytes, brought to `shape` (C, H, W). Raises as `open_image`."""
    opened, name = (BytesIO(file), "the image") if isinstance(file, bytes) else (file, str(file))
    return fitted(open_image(opened, name, of_scan, most_pixels), shape, resize)


def open_image(
    file: Path | IO[bytes], name: str, of_scan: bool = False, most_pixels: int = MOST_PIXELS
) -> PictureOfPillow:
    """A file's picture, grey or RGB.

    It is rotated as its EXIF data say; transparent pixels become black; of 16 bits the upper 8 are kept. If
    it is a scan, in which shades matter, only PNG and JPEG with 8 bits a channel and no colours for print are
    read.

    Raises:
        InputError: It is not such a file, is damaged or too large, or has several pictures or other colours.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps, UnidentifiedImageError

    formats = SCAN_FORMATS if of_scan else FORMATS
    expected = f"{', '.join(formats[:-1])} or {formats[-1]}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)  # MOST_PIXELS is stricter
            opened = Pillow.open(file, formats=formats)
        with opened as picture:
            _require_readable(picture, name, of_scan, most_pixels)
            turned = ImageOps.exif_transpose(picture)
            if turned.mode.startswith(WORDS):
                turned = Pillow.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
            if turned.has_transparency_data:
                turned = turned.convert("RGBA")
                turned = Pillow.alpha_composite(Pillow.new("RGBA", turned.size, "black"), turned)
            return turned.convert("L" if turned.mode in ("1", "L") else "RGB")
    except FileNotFoundError:
        raise InputError(f"{name}: no such file, expected an image ({expected}).") from None
    except (UnidentifiedImageError, IsADirectoryError):
        raise InputError(f"{name}: found no image, expected a {expected} file.") from None
    except InputError:
        raise
    except Pillow.DecompressionBombError:  # raised before `_require_readable` sees the size
        over = 2 * (Pillow.MAX_IMAGE_PIXELS or 0)
        raise InputError(
            f"{name}: found more than {over:,} pixels, expected at most {most_pixels:,}. Shrink it."
        ) from None
    except Exception as error:  # a damaged file makes pillow's decoders raise almost anything
        raise InputError(f"{name}: cannot be read: {error}. Save it again as PNG or JPEG.") from None


def _require_readable(picture: ImageFile, name: str, of_scan: bool, most_pixels: int) -> None:
    """Refuse by what the header says, before any pixel is decoded."""
    if picture.width * picture.height > most_pixels:
        raise InputError(
            f"{name}: found {picture.width} × {picture.height} pixels, expected at most {most_pixels:,}. "
            "Shrink it."
        )
    pictures = getattr(picture, "n_frames", 1) if picture.format in SEVERAL else 1
    if pictures > 1:
        raise InputError(f"{name}: found {pictures} pictures, expected one. Save the one that counts.")
    # Pillow silently cuts the 16-bit channels of a coloured PNG to 8; only its decoder's name shows it.
    deep = picture.mode.startswith(DEEP)
    if of_scan and (deep or any(str(tile[3]).endswith(DEEP_DECODERS) for tile in picture.tile)):
        raise InputError(f"{name}: found {picture.mode} of 16 bits, expected 8 bits a channel. Convert it.")
    if deep and not picture.mode.startswith(WORDS):
        raise InputError(f"{name}: found {picture.mode} of 32 bits, expected 8 or 16 a channel. Convert it.")
    if picture.mode == "LAB" or (of_scan and picture.mode in PRINTED):
        raise InputError(f"{name}: found colours in {picture.mode}, expected grey or RGB. Convert it.")


def fitted(picture: PictureOfPillow, shape: tuple[int | str, ...], resize: Resize = "stretch") -> Image:
    """A picture brought to `shape` (C, H, W)."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    channels, height, width = (int(size) for size in shape)
    coloured, how = picture.convert(MODES[channels]), Pillow.Resampling.BILINEAR
    if resize == "crop":
        resized = ImageOps.fit(coloured, (width, height), how)
    elif resize == "pad":
        factor = min(width / coloured.width, height / coloured.height)
        wide, high = (max(1, round(side * factor)) for side in coloured.size)
        resized = Pillow.new(coloured.mode, (width, height))  # black
        resized.paste(coloured.resize((wide, high), how), ((width - wide) // 2, (height - high) // 2))
    else:
        resized = coloured.resize((width, height), how)
    pixels = np.asarray(resized, dtype=np.uint8)
    return np.ascontiguousarray(pixels[np.newaxis] if channels == 1 else np.moveaxis(pixels, 2, 0))
