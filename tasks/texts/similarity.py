"""Find texts with similar sets of words, exactly, in memory that is linear in the texts.

The measure is Jaccard similarity: shared words over all words of the two (`words_of`). Candidates are
found by prefix filtering (Chaudhuri et al., "A Primitive Operator for Similarity Joins in Data Cleaning",
ICDE 2006, and Bayardo et al., "Scaling Up All Pairs Similarity Search", WWW 2007): two sets of similarity t
or more must share one of their few rarest words, so an index of those words holds every candidate. The place
of the shared word in both sets rules out most of the rest (Xiao et al., "Efficient Similarity Joins for Near
Duplicate Detection", WWW 2008). Unlike MinHash with LSH this misses no pair.

Pairs are never stored, because all rows of one template form pairs with each other, 200 million for 20,000
rows. The checks need less: which rows a chain of pairs connects (`groups`), and whether a text is similar to
any of some other texts (`known`).
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from gauntlet.components.validate_data.duplicates import Doubles, Ints, Numbers

COMPARED_CHARS = 20_000
ROUNDING = 1e-9  # 0.7 × 10 is a little over 7 in binary

# Han with its extensions, kana and Bopomofo.
_SYLLABIC = (
    "々〆〇\u3041-\u30ff\u3105-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
# Thai, Lao, Burmese, Khmer, Tai Le, New Tai Lue, Tai Tham, Balinese, Javanese, Tai Viet, Burmese extended.
_ALPHABETIC = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aad\u1b00-\u1b7f"
    "\ua980-\ua9ff\uaa60-\uaadf"
)
_RUN = re.compile(
    f"(?P<syllabic>[{_SYLLABIC}]+)|(?P<alphabetic>[{_ALPHABETIC}]+)|[^{_SYLLABIC}{_ALPHABETIC}]+"
)
NOT_ONE_WORD = f"[{_SYLLABIC}{_ALPHABETIC}]|\\s"
"""In what spaces separate, of which `words_of` may make several words."""

_UNSPACED = re.compile(f"[{_SYLLABIC}{_ALPHABETIC}]")
SYLLABIC_SIGNS, ALPHABETIC_SIGNS = 2, 3


Words: TypeAlias = "Sequence[array[int]]"
"""For each text its distinct words, as numbers in the order of how many texts contain the word."""


class TextLikeness:
    """The `Likeness` of normalised texts.

    Only the first 20,000 characters of a text count, so that one very long row cannot delay the rest.
    """

    def __init__(self, keys: pa.ChunkedArray | Sequence[str], at_least: float) -> None:
        """Compare distinct keys (K,). Later similarities are `at_least` or more, over 0 and at most 1."""
        texts = keys.to_pylist() if isinstance(keys, pa.ChunkedArray) else keys
        self._words = _words_by_rarity(texts)
        groups = _chains(self._words, at_least)
        sizes = Counter(groups)
        self._connected = [sizes[group] > 1 for group in groups]

    def groups(self, at_least: float) -> Ints:
        """As `Likeness.groups`."""
        return np.array(_chains(self._words, at_least), dtype=np.int64)

    def repeats(self, keys: Numbers, at_least: float) -> Doubles:
        """As `Likeness.repeats`."""
        known = _KnownTexts(self._words, self._connected, at_least)
        kept: dict[int, int] = {}
        found = []
        for row, key in enumerate(keys.tolist()):
            if key in kept:
                continue
            alike = known.find(key)
            if alike is None:
                kept[key] = row
                known.add(key)
            else:
                found.append((row, kept[alike[0]], alike[1]))
        return _doubles(found)

    def doubles(self, keys: Numbers, others: Numbers, at_least: float) -> Doubles:
        """As `Likeness.doubles`."""
        known = _KnownTexts(self._words, self._connected, at_least)
        for other in others.tolist():
            known.add(other)
        place = {other: at for at, other in enumerate(others.tolist())}
        alike = [(row, known.find(key)) for row, key in enumerate(keys.tolist())]
        return _doubles([(row, place[double[0]], double[1]) for row, double in alike if double is not None])


def _doubles(found: Sequence[tuple[int, int, float]]) -> Doubles:
    rows, others, similarities = zip(*found, strict=True) if found else ((), (), ())
    return Doubles(np.array(rows, np.int64), np.array(others, np.int64), np.array(similarities, np.float64))


class _KnownTexts:
    """Texts that another text can be compared with. Texts without any similar text are left out."""

    def __init__(self, words: Words, connected: Sequence[bool], at_least: float) -> None:
        self._words, self._connected, self._at_least = words, connected, at_least
        self._index: _Index[list[int]] = _Index(at_least)

    def add(self, key: int) -> None:
        if self._connected[key]:
            for bucket in self._index.of(self._words[key], list):
                bucket.append(key)

    def find(self, key: int) -> tuple[int, float] | None:
        if not self._connected[key]:
            return None
        words = self._words[key]
        distinct, compared = frozenset(words), {key}
        for bucket in self._index.candidates(words):
            for other in bucket:
                if other in compared:
                    continue
                compared.add(other)
                similarity = _similarity(distinct, self._words[other])
                if similarity >= self._at_least:
                    return other, similarity
        return None


Bucket = TypeVar("Bucket")


class _Index(Generic[Bucket]):
    """Buckets of texts by one of their rarest words, their number of words and that word's place in them."""

    def __init__(self, at_least: float) -> None:
        self._at_least = at_least
        self._buckets: defaultdict[int, dict[tuple[int, int], Bucket]] = defaultdict(dict)

    def of(self, words: Sequence[int], new: Callable[[], Bucket]) -> Iterator[Bucket]:
        """The buckets that a text belongs to."""
        for place, word in enumerate(words[: self._prefix(len(words))]):
            yield self._buckets[word].setdefault((len(words), place), new())

    def candidates(self, words: Sequence[int]) -> Iterator[Bucket]:
        """Buckets that contain every similar text, and other texts."""
        size = len(words)
        for place, word in enumerate(words[: self._prefix(size)]):
            for (other_size, other_place), bucket in self._buckets.get(word, {}).items():
                # If this is the first word that both contain, they share at most the words from it on.
                if min(size - place, other_size - other_place) >= self._shared(size + other_size):
                    yield bucket

    def _prefix(self, size: int) -> int:
        """How many of the rarest words are needed so that every similar text has one of them."""
        return size - math.ceil(self._at_least * size - ROUNDING) + 1

    def _shared(self, sizes: int) -> int:
        """The fewest words that two similar texts with so many words together must share."""
        return math.ceil(self._at_least / (1 + self._at_least) * sizes - ROUNDING)


class Groups:
    """Union-find: positions from 0 on, each in its own group until groups are joined."""

    def __init__(self, size: int) -> None:
        """Start with as many groups as positions."""
        self._parents = list(range(size))

    def of(self, position: int) -> int:
        """The number of the position's group, which is a position in it."""
        parents = self._parents
        while parents[position] != position:
            parents[position] = parents[parents[position]]
            position = parents[position]
        return position

    def join(self, one: int, other: int) -> None:
        """Make one group of two."""
        self._parents[self.of(one)] = self.of(other)


def _chains(words: Words, at_least: float) -> list[int]:
    """For each text a number, equal for texts that a chain of similar texts connects.

    A text is compared with the members of a chain until one is similar. The index keeps the members of a
    chain together, so that most of a large chain is skipped.
    """
    groups = Groups(len(words))
    index: _Index[dict[int, list[int]]] = _Index(at_least)
    for row in sorted(range(len(words)), key=lambda row: len(words[row])):
        distinct = frozenset(words[row])
        compared: set[int] = set()
        for bucket in index.candidates(words[row]):
            _merge(bucket, groups)
            for chain, members in bucket.items():
                if groups.of(row) == groups.of(chain):
                    continue
                for other in members:
                    if other in compared:
                        continue
                    compared.add(other)
                    if _similarity(distinct, words[other]) >= at_least:
                        groups.join(row, other)
                        break
        for bucket in index.of(words[row], dict):
            bucket.setdefault(groups.of(row), []).append(row)
    return [groups.of(row) for row in range(len(words))]


def _merge(bucket: dict[int, list[int]], groups: Groups) -> None:
    """Put the members of chains that have been joined in the meantime under one number."""
    for chain in [chain for chain in bucket if groups.of(chain) != chain]:
        members = bucket.pop(chain)
        others = bucket.get(groups.of(chain), [])
        short, long = sorted((members, others), key=len)
        long.extend(short)
        bucket[groups.of(chain)] = long


def _similarity(words: frozenset[int], others: array[int]) -> float:
    shared = len(words.intersection(others))
    return shared / (len(words) + len(others) - shared)


def _words_by_rarity(texts: Sequence[str]) -> list[array[int]]:
    frequencies = Counter(word for text in texts for word in set(words_of(text[:COMPARED_CHARS])))
    by_rarity = sorted(frequencies, key=lambda word: (frequencies[word], word))
    numbers = {word: number for number, word in enumerate(by_rarity)}
    return [array("I", sorted({numbers[word] for word in words_of(text[:COMPARED_CHARS])})) for text in texts]


def words_of(text: str) -> list[str]:
    """The units of a text in order, repeated as often as they occur."""
    if text.isascii() or not _UNSPACED.search(text):
        return text.split()
    return [unit for word in text.split() for unit in _units(word)]


def _units(word: str) -> list[str]:
    units = []
    for run in _RUN.finditer(word):
        signs = {"syllabic": SYLLABIC_SIGNS, "alphabetic": ALPHABETIC_SIGNS}.get(run.lastgroup or "", 0)
        piece = run.group()
        if not signs or len(piece) <= signs:
            units.append(piece)
        else:
            units += [piece[start : start + signs] for start in range(len(piece) - signs + 1)]
    return units
