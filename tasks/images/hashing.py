"""Find images that look alike: the share of their perceptual hashes' bits that agree (`decoding.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gauntlet.components.validate_data.duplicates import Doubles, Ints, Numbers

BLOCK = 256  # rows that are compared with all others at once
LEAST_CORRELATION = 0.95

Shares = npt.NDArray[np.float64]
Alike = Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.bool_]]
"""Whether the image in a row is like those in other rows (M,), whose hashes agree with its own: (M,)."""


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
        keys: Numbers,
        hashes: npt.NDArray[np.bool_],
        at_least: float,
        alike: Alike | None = None,
    ) -> None:
        """Compare keys by their hashes (N, bits), then by `alike`. Later similarities are `at_least` or more.

        `keys` (N,) are the numbers of the keys that have the hashes. Without `alike` the hashes alone decide.
        """
        self.signs = hashes.astype(np.float32) * 2 - 1  # (N, bits)
        self.alike = alike
        self.rows_of: list[list[int]] = [[] for _ in range(int(keys.max(initial=-1)) + 1)]
        for row, key in enumerate(keys.tolist()):
            self.rows_of[key].append(row)
        chains = self.groups(at_least)
        self.connected = np.bincount(chains, minlength=len(chains))[chains] > 1

    def repeats(self, keys: Numbers, at_least: float) -> Doubles:
        """As `Likeness.repeats`: the first kept is the one that was kept first."""
        known = _KnownImages(self, at_least)
        kept = set()
        found = []
        for row, key in enumerate(keys.tolist()):
            if key in kept:
                continue
            if (alike := known.find(key)) is not None:
                found.append((row, *alike))
                continue
            kept.add(key)
            known.add(key, row)
        return _doubles(found)

    def doubles(self, keys: Numbers, others: Numbers, at_least: float) -> Doubles:
        """As `Likeness.doubles`: the first of the others in their order."""
        known = _KnownImages(self, at_least)
        for row, other in enumerate(others.tolist()):
            known.add(other, row)
        alike = ((row, known.find(key)) for row, key in enumerate(keys.tolist()))
        return _doubles([(row, *double) for row, double in alike if double is not None])

    def agreement(self, ours: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> Shares:
        """The shares of bits that agree, (A, B), of signs (A, bits) and (B, bits)."""
        bits = self.signs.shape[1]
        shares: Shares = np.rint((ours @ others.T + bits) / 2).astype(np.float64) / bits
        return shares

    def groups(self, at_least: float) -> Ints:
        """As `Likeness.groups`."""
        rows = np.array([row for of_key in self.rows_of for row in of_key], dtype=np.int64)
        numbers = np.repeat(np.arange(len(self.rows_of)), [len(of_key) for of_key in self.rows_of])
        signs, chains = self.signs[rows], np.arange(len(self.rows_of))
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
        return chains


def _doubles(found: Sequence[tuple[int, int, float]]) -> Doubles:
    rows, others, similarities = zip(*found, strict=True) if found else ((), (), ())
    return Doubles(np.array(rows, np.int64), np.array(others, np.int64), np.array(similarities, np.float64))


class _KnownImages:
    """Images that another image can be compared with. Those without any similar image are left out."""

    def __init__(self, likeness: ImageLikeness, at_least: float) -> None:
        self._likeness, self._at_least = likeness, at_least
        self._signs = np.empty_like(likeness.signs)
        self._images: list[int] = []  # of each hash the row of its image in `likeness`
        self._rows: list[int] = []  # of each hash the row of its key

    def add(self, key: int, row: int) -> None:
        """Add a key of a row."""
        if self._likeness.connected[key]:
            images = self._likeness.rows_of[key]
            self._signs[len(self._images) : len(self._images) + len(images)] = self._likeness.signs[images]
            self._images += images
            self._rows += [row] * len(images)

    def find(self, key: int) -> tuple[int, float] | None:
        """The row of the first key that is similar, with the similarity."""
        if not self._likeness.connected[key] or not self._rows:
            return None
        own = self._likeness.rows_of[key]
        known = self._signs[: len(self._images)]
        shares = self._likeness.agreement(known, self._likeness.signs[own]).max(axis=1)
        near = np.flatnonzero(shares >= self._at_least).tolist()
        if self._likeness.alike is not None and near:
            kept = self._likeness.alike(own[0], np.array([self._images[at] for at in near]))
            near = [at for at, is_alike in zip(near, kept, strict=True) if is_alike]
        if not near:
            return None
        row = self._rows[near[0]]
        return row, float(max(shares[at] for at in near if self._rows[at] == row))
