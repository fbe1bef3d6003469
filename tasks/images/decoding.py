"""Decode images once: pixels in the model's shape, a perceptual hash, and a hash of the pixels.

Processes that only decode import this module, so it imports little.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from PIL import Image

from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.cpu import usable_cpus
from gauntlet.serving.images import fitted, open_image
from gauntlet.serving.interface import InputError, Resize

SAMPLES = 64  # pixels along a side of what is hashed
WAVES = 16  # along either axis
BITS = WAVES * WAVES - 1
FEW = 2_000
"""Fewer images are decoded by threads: starting a process takes as long as decoding a thousand."""

# The lowest waves of a discrete cosine transform: (WAVES, SAMPLES).
COSINES = np.cos(np.pi / SAMPLES * np.outer(np.arange(WAVES), np.arange(SAMPLES) + 0.5))


@dataclass(frozen=True)
class ImageFile:
    """The content of a file and its name in messages, or what is wrong with it."""

    data: bytes = b""
    name: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Decoded:
    """Some images, N.

    Attributes:
        pixels: uint8 (N, H, W), or (N, H, W, 3) for three channels; black where the image cannot be read.
        hashes: The perceptual hash of each image, bool (N, BITS).
        keys: The sha256 of each image's pixels.
        sizes: Width and height of each file's picture, int64 (N, 2); 0 if it is unreadable.
        faults: What is wrong with each image, or an empty text.
    """

    pixels: npt.NDArray[np.uint8]
    hashes: npt.NDArray[np.bool_]
    keys: list[str]
    sizes: npt.NDArray[np.int64]
    faults: list[str]


@dataclass(frozen=True)
class Decoder:
    """Decodes images, or if `of_scans` scans (`open_image`), and brings them to a shape (height, width)."""

    shape: tuple[int, int]
    channels: int
    resize: Resize = "stretch"
    of_scans: bool = False

    @property
    def laid_out(self) -> tuple[int, ...]:
        """The shape of an image's pixels, (H, W) or (H, W, 3)."""
        return self.shape if self.channels == 1 else (*self.shape, self.channels)

    def __call__(self, files: Sequence[ImageFile]) -> Decoded:
        """The images in files."""
        pixels = np.zeros((len(files), *self.laid_out), dtype=np.uint8)
        hashes = np.zeros((len(files), BITS), dtype=np.bool_)
        sizes, faults = np.zeros((len(files), 2), dtype=np.int64), [file.fault for file in files]
        for at, file in enumerate(files):
            if file.fault:
                continue
            try:
                if not file.data:
                    raise InputError(f"{file.name}: found an empty file, expected an image.")
                picture = open_image(io.BytesIO(file.data), file.name, self.of_scans)
                seen = fitted(picture, (self.channels, *self.shape), self.resize)
            except InputError as error:
                faults[at] = str(error)
                continue
            pixels[at] = seen[0] if self.channels == 1 else np.moveaxis(seen, 0, 2)
            hashes[at] = perceptual_hash(picture)
            sizes[at] = picture.size
        keys = [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
        return Decoded(pixels, hashes, keys, sizes, faults)

    def in_order(self, pieces: Iterable[Sequence[ImageFile]], images: int) -> Iterator[Decoded]:
        """The images of each piece, on all CPUs; a few pieces at a time are in memory.

        Raises:
            GauntletError: The system ended a process that decodes.
        """
        # None of the processes imports the main module, which may be a script that calls this function.
        on_cpus = Parallel(
            n_jobs=usable_cpus(),
            backend="threading" if images < FEW else "loky",
            return_as="generator",
            max_nbytes=None,
        )
        try:
            yield from on_cpus(delayed(self)(piece) for piece in pieces)
        except BrokenProcessPool:
            raise GauntletError(
                "images: the system ended a process that decodes them, which it does when memory runs out. "
                "Lower dataset.shape, or use a machine with more memory."
            ) from None


def perceptual_hash(picture: Image.Image) -> npt.NDArray[np.bool_]:
    """(BITS,): which of the lowest waves of the grey picture, without its mean, are above their median.

    The method is pHash (Zauner, 2010). Size, light and compression hardly change the hash; position, cut and
    wear do, so two cards of one design differ.
    """
    small = picture.convert("L").resize((SAMPLES, SAMPLES), Image.Resampling.BOX)
    waves = (COSINES @ np.asarray(small, dtype=np.float64) @ COSINES.T).reshape(-1)[1:]
    return np.asarray(waves > np.median(waves))
