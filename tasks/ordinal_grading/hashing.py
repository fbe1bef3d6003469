"""Find scans that look alike: perceptual hashes, and the share of their bits that agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from gauntlet.components.validate_data.duplicates import Known

SAMPLES = 64  # pixels along a side of what is hashed
WAVES = 16  # along either axis
BITS = WAVES * WAVES - 1
BLOCK = 256  # rows that are compared with all others at once

Shares = npt.NDArray[np.float64]

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


class CardLikeness:
    """The `Likeness` of cards: the share of bits in which any of their hashes agree.

    A key may have several hashes. No pairs are stored, because all scans of one card form pairs with each
    other.
    """

    def __init__(self, keys: Sequence[str], hashes: npt.NDArray[np.bool_], at_least: float) -> None:
        """Compare keys by their hashes (N, bits). Later similarities are `at_least` or more."""
        self.signs = hashes.astype(np.float32) * 2 - 1  # (N, bits)
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
        return _KnownCards(self, at_least)

    def agreement(self, ours: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> Shares:
        """The shares of bits that agree, (A, B), of signs (A, bits) and (B, bits)."""
        bits = self.signs.shape[1]
        shares: Shares = np.rint((ours @ others.T + bits) / 2).astype(np.float64) / bits
        return shares

    def _chains(self, keys: Sequence[str], at_least: float) -> list[int]:
        rows = [row for key in keys for row in self.rows_of[key]]
        numbers = np.repeat(np.arange(len(keys)), [len(self.rows_of[key]) for key in keys])
        signs, chains = self.signs[rows], np.arange(len(keys))
        for start in range(0, len(rows), BLOCK):
            for offset, alike in enumerate(self.agreement(signs[start : start + BLOCK], signs) >= at_least):
                joined = np.unique(chains[numbers[alike]])
                if len(joined) > 1:
                    chains[np.isin(chains, joined)] = chains[numbers[start + offset]]
        return [int(chain) for chain in chains]


class _KnownCards:
    """Cards that another card can be compared with. Cards without any similar card are left out."""

    def __init__(self, likeness: CardLikeness, at_least: float) -> None:
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
        signs = self._likeness.signs
        shares = self._likeness.agreement(signs[self._rows], signs[self._likeness.rows_of[key]]).max(axis=1)
        near = [at for at in np.flatnonzero(shares >= self._at_least).tolist() if self._keys[at] != key]
        if not near:
            return None
        other = self._keys[near[0]]
        return other, float(max(shares[at] for at in near if self._keys[at] == other))
