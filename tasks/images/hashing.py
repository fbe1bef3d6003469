"""Find images that look alike: perceptual hashes, and the share of their bits that agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from gauntlet.components.validate_data.duplicates import Known

SAMPLES = 64  # pixels along a side of what is hashed
WAVES = 16  # along either axis
BITS = WAVES * WAVES - 1
BLOCK = 256  # rows that are compared with all others at once
LEAST_CORRELATION = 0.95

Shares = npt.NDArray[np.float64]
Alike = Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.bool_]]
"""Whether the image in a row is like those in other rows (M,), whose hashes agree with its own: (M,)."""

# The lowest waves of a discrete cosine transform: (WAVES, SAMPLES).
COSINES = np.cos(np.pi / SAMPLES * np.outer(np.arange(WAVES), np.arange(SAMPLES) + 0.5))


def perceptual_hash(picture: Image.Image) -> npt.NDArray[np.bool_]:
    """(BITS,): which of the lowest waves of the grey picture, without its mean, are above their median.

    The method is pHash (Zauner, 2010). Size, light and compression hardly change the hash; position, cut and
    wear do, so two cards of one design differ.
    """
    small = picture.convert("L").resize((SAMPLES, SAMPLES), Image.Resampling.BOX)
    waves = (COSINES @ np.asarray(small, dtype=np.float64) @ COSINES.T).reshape(-1)[1:]
    return np.asarray(waves > np.median(waves))


def correlated(pixels: npt.NDArray[np.uint8], positions: npt.NDArray[np.int64]) -> Alike:
    """Images are alike whose pixels correlate: another light changes nothing, another object does.

    An image of one colour has no correlation, and is like no other. Row n is the image at position n of
    `positions` in `pixels` (M, …).
    """

    def centred(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        flat = pixels[positions[rows]].reshape(len(rows), -1).astype(np.float32)
        flat -= flat.mean(axis=1, keepdims=True)
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1.0)
        return flat

    def alike(row: int, others: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        parts = np.array_split(others, range(BLOCK, len(others), BLOCK))
        one = centred(np.array([row]))[0]
        return np.concatenate([centred(part) @ one >= LEAST_CORRELATION for part in parts])

    return alike


class ImageLikeness:
    """The `Likeness` of images: the share of bits in which any of their hashes agree.

    A key may have several hashes. No pairs are stored, because all scans of one card form pairs with each
    other.
    """

    def __init__(
        self,
        keys: Sequence[str],
        hashes: npt.NDArray[np.bool_],
        at_least: float,
        alike: Alike | None = None,
    ) -> None:
        """Compare keys by their hashes (N, bits), then by `alike`. Later similarities are `at_least` or more.

        Without `alike` the hashes alone decide.
        """
        self.signs = hashes.astype(np.float32) * 2 - 1  # (N, bits)
        self.alike = alike
        self.rows_of: dict[str, list[int]] = {}
        for row, key in enumerate(keys):
            self.rows_of.setdefault(key, []).append(row)
        chains = dict(zip(self.rows_of, self._chains(list(self.rows_of), at_least), strict=True))
        sizes = Counter(chains.values())
        self.connected = {key for key, chain in chains.items() if sizes[chain] > 1}

    def groups(self, keys: Sequence[str], at_least: float) -> list[int]:
        """As `Likeness.groups`."""
        distinct = list(dict.fromkeys(keys))
        numbers = dict(zip(distinct, self._chains(distinct, at_least), strict=True))
        return [numbers[key] for key in keys]

    def known(self, at_least: float) -> Known:
        """As `Likeness.known`."""
        return _KnownImages(self, at_least)

    def agreement(self, ours: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> Shares:
        """The shares of bits that agree, (A, B), of signs (A, bits) and (B, bits)."""
        bits = self.signs.shape[1]
        shares: Shares = np.rint((ours @ others.T + bits) / 2).astype(np.float64) / bits
        return shares

    def _chains(self, keys: Sequence[str], at_least: float) -> list[int]:
        rows = np.array([row for key in keys for row in self.rows_of[key]], dtype=np.int64)
        numbers = np.repeat(np.arange(len(keys)), [len(self.rows_of[key]) for key in keys])
        signs, chains = self.signs[rows], np.arange(len(keys))
        bits = signs.shape[1]
        enough = np.arange(bits + 1) / bits >= at_least
        product = 2 * int(enough.argmax()) - bits if enough.any() else bits + 1  # of signs, if so many agree
        for start in range(0, len(rows), BLOCK):
            near = signs[start : start + BLOCK] @ signs[start:].T >= product
            near[np.arange(len(near)), np.arange(len(near))] = False
            for offset in np.flatnonzero(near.any(axis=1)).tolist():
                own = chains[numbers[start + offset]]
                others = start + np.flatnonzero(near[offset])
                others = others[chains[numbers[others]] != own]
                if self.alike is not None and len(others):
                    others = others[self.alike(int(rows[start + offset]), rows[others])]
                joined = np.unique(chains[numbers[others]])
                if len(joined):
                    chains[np.isin(chains, joined)] = own
        return [int(chain) for chain in chains]


class _KnownImages:
    """Images that another image can be compared with. Those without any similar image are left out."""

    def __init__(self, likeness: ImageLikeness, at_least: float) -> None:
        self._likeness, self._at_least = likeness, at_least
        self._keys: list[str] = []
        self._rows: list[int] = []

    def add(self, key: str) -> None:
        if key in self._likeness.connected:
            rows = self._likeness.rows_of[key]
            self._rows += rows
            self._keys += [key] * len(rows)

    def find(self, key: str) -> tuple[str, float] | None:
        if key not in self._likeness.connected or not self._rows:
            return None
        signs, own = self._likeness.signs, self._likeness.rows_of[key]
        shares = self._likeness.agreement(signs[self._rows], signs[own]).max(axis=1)
        near = [at for at in np.flatnonzero(shares >= self._at_least).tolist() if self._keys[at] != key]
        if self._likeness.alike is not None and near:
            kept = self._likeness.alike(own[0], np.array([self._rows[at] for at in near]))
            near = [at for at, is_alike in zip(near, kept, strict=True) if is_alike]
        if not near:
            return None
        other = self._keys[near[0]]
        return other, float(max(shares[at] for at in near if self._keys[at] == other))
