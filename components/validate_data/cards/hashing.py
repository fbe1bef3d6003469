"""Which scans look alike: perceptual hashes, and how many of their bits agree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.validate_data.duplicates import Likeness

SAMPLES = 64  # pixels along a side of what is hashed
WAVES = 16  # along either axis
BITS = WAVES * WAVES - 1
BLOCK = 2_048  # rows whose agreement with all others is worked out at once

# Of a discrete cosine transform, the lowest waves: (WAVES, SAMPLES).
COSINES = np.cos(np.pi / SAMPLES * np.outer(np.arange(WAVES), np.arange(SAMPLES) + 0.5))


def perceptual_hash(picture: Image.Image) -> npt.NDArray[np.bool_]:
    """(BITS,): which of the lowest waves of the grey picture, but for its mean, are over their median.

    The method is pHash (Zauner, 2010). Size, light and compression hardly change it; two cards of one design
    differ in it where they lie, are cut or are worn differently.
    """
    small = picture.convert("L").resize((SAMPLES, SAMPLES), Image.Resampling.BOX)
    waves = (COSINES @ np.asarray(small, dtype=np.float64) @ COSINES.T).reshape(-1)[1:]
    return np.asarray(waves > np.median(waves))


def alike(keys: list[str], hashes: npt.NDArray[np.bool_], at_least: float) -> Likeness:
    """The cards of other keys whose hashes (N, bits) agree in a share of `at_least` of their bits."""
    signs = hashes.astype(np.float32) * 2 - 1
    bits = hashes.shape[1]
    found: dict[str, dict[str, float]] = {}
    for start in range(0, len(signs), BLOCK):
        agreement = (signs[start : start + BLOCK] @ signs.T / bits + 1) / 2  # (block, N)
        for row, other in np.argwhere(agreement >= at_least).tolist():
            one, two = keys[start + row], keys[other]
            if one != two:
                known = found.setdefault(one, {})
                known[two] = max(known.get(two, 0.0), float(agreement[row, other]))
    return Likeness({key: tuple(others.items()) for key, others in found.items()})
