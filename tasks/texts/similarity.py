"""Find texts with similar sets of words, exactly, in memory that is linear in the texts.

The measure is Jaccard similarity: shared words over all words of the two (`all_words`). Candidates are found
by prefix filtering (Chaudhuri et al., "A Primitive Operator for Similarity Joins in Data Cleaning", ICDE
2006, and Bayardo et al., "Scaling Up All Pairs Similarity Search", WWW 2007): two sets of similarity t or
more must share one of their few rarest words, and n words of a few more (Wang et al., "Can We Beat the Prefix
Filtering?", SIGMOD 2012). So texts that share one of their rarest words are in a bucket, and a large bucket
is divided by the next word that they share, until the buckets are small. The places of the shared words in
both sets rule out most of the rest (Xiao et al., "Efficient Similarity Joins for Near Duplicate Detection",
WWW 2008), and so do signatures of the sets. Unlike MinHash with LSH this misses no pair.

Pairs are never stored, because all rows of one template form pairs with each other, 200 million for 20,000
rows. The checks need less: which texts a chain of pairs connects, and the first text that is similar.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from tempfile import TemporaryFile
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gauntlet.components.validate_data.duplicates import NONE, Doubles, Flags, Floats, Ints, Numbers
from gauntlet.tasks.texts.threads import in_order
from gauntlet.tasks.texts.words import NO_WORD, NumberedWords, Words, all_words

COMPARED_CHARS = 20_000
ROUNDING = 1e-9  # 0.7 × 10 is a little over 7 in binary

# What is in memory at once.
TEXTS_AT_ONCE, BYTES_AT_ONCE = 50_000, 1 << 24
ENTRIES_AT_ONCE, PAIRS_AT_ONCE, WORDS_AT_ONCE = 1 << 19, 1 << 18, 1 << 18
CHILDREN_AT_ONCE, MOST_CHILDREN, BLOCK = 1 << 21, 1 << 24, 1 << 22

MOST_PARTS = 80  # in which the words are gone through
LEVELS = 4  # words by which a bucket is divided
SMALL = 8  # texts of a bucket that is not divided
MOST_DECIDED = 1 << 16  # pairs of which it is decided one after the other which text is kept
COMPARED = 64  # texts of a bucket, at most, that are compared to find those without any candidate
SIGNED_WORDS, MAX_SIGNATURE = 32, 16  # words for each 64 bits of a signature, and most of these
WORD = np.uint64(0xFFFF_FFFF)

Hashes: TypeAlias = npt.NDArray[np.uint64]
Sizes: TypeAlias = npt.NDArray[np.int32]
Pairs: TypeAlias = tuple[Ints, Ints]


class Chunked(Protocol):
    """Strings in pieces, as a `pyarrow.ChunkedArray` or a file on disk has them."""

    @property
    def chunks(self) -> Iterable[pa.Array]:
        """The pieces, in their order."""

    def __len__(self) -> int:
        """How many strings there are."""


class TextLikeness:
    """The `Likeness` of normalised texts.

    Only the first 20,000 characters of a text count, so that one very long row cannot delay the rest.
    """

    def __init__(self, keys: Chunked | Sequence[str], at_least: float) -> None:
        """Compare distinct keys (K,). Later similarities are `at_least` or more, over 0 and at most 1.

        The words of all texts are in a temporary file until it is known which texts have no similar text; the
        words of the others stay in memory.
        """
        texts = pa.chunked_array([keys], type=pa.large_string()) if isinstance(keys, Sequence) else keys
        self._keys = len(texts)
        with TemporaryFile() as file:
            stored = _Stored(file.fileno())
            heads = _read(texts, at_least, stored)
            members = np.flatnonzero(_with_candidates(heads, at_least))
            sets = stored.take(members, heads)
        del heads
        chains = _chains(sets, at_least)
        connected = np.flatnonzero(np.bincount(chains, minlength=len(chains))[chains] > 1)
        self._members = members[connected]
        self._sets = sets if len(connected) == len(members) else sets.take(connected)

    def groups(self, at_least: float) -> Ints:
        """As `Likeness.groups`."""
        groups = np.arange(self._keys)
        groups[self._members] = self._members[_chains(self._sets, at_least)]
        return groups

    def repeats(self, keys: Numbers, at_least: float) -> Doubles:
        """As `Likeness.repeats`. See `_Index.first` for the order."""
        rows, members = self._connected(keys)
        distinct, first, local = np.unique(members, return_index=True, return_inverse=True)
        order = np.argsort(first)  # of the members by their first rows
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        index = _Index(self._sets.take(distinct[order]), at_least)
        kept = index.kept()
        left = np.flatnonzero(~kept[place[local]])
        return index.first(place[local[left]], rows[left], np.where(kept, rows[first[order]], NONE))

    def doubles(self, keys: Numbers, others: Numbers, at_least: float) -> Doubles:
        """As `Likeness.doubles`. See `_Index.first` for the order."""
        rows, members = self._connected(keys)
        places, known = self._connected(others)
        index = _Index(self._sets.take(np.concatenate([known, members])), at_least)
        added = np.concatenate([places, np.full(len(members), NONE)])
        return index.first(len(known) + np.arange(len(members)), rows, added, only_earlier=False)

    def _connected(self, keys: Numbers) -> tuple[Ints, Ints]:
        """The positions of the keys that have a similar key, and their numbers in `_sets`."""
        connected = np.zeros(self._keys, dtype=np.bool_)
        connected[self._members] = True
        rows = np.flatnonzero(connected[keys])
        return rows, np.searchsorted(self._members, keys[rows])


# --- sets of words -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sets:
    """M sets of words, which are numbered from the rarest on.

    Attributes:
        words: Those of all sets, one set after the other, ascending in each; of heads only the first few.
        starts: Where the words of each set start, (M + 1,).
        sizes: How many words each set has, (M,).
        signatures: For each set, (M, S), bits that k different words change in at most k places.
    """

    words: Words
    starts: Numbers
    sizes: Sizes
    signatures: Hashes

    def take(self, rows: Ints) -> _Sets:
        """These sets."""
        words, starts = self._first_words(rows, self.sizes[rows])
        return _Sets(words, starts, self.sizes[rows], self.signatures[rows])

    def heads(self, at_least: float) -> _Sets:
        """The sets with only as many words as buckets need."""
        counts = np.minimum(self.sizes, prefixes(self.sizes, at_least) + LEVELS - 1)
        words, starts = self._first_words(np.arange(len(counts)), counts)
        return _Sets(words, starts, self.sizes, self.signatures)

    def _first_words(self, rows: Ints, counts: Sizes) -> tuple[Words, Ints]:
        """So many words of each of these sets, and where they start."""
        starts = offsets(counts)
        words = np.empty(starts[-1], dtype=np.uint32)
        for some in _slices(counts, WORDS_AT_ONCE):
            end = starts[some.stop]
            words[starts[some.start] : end] = self.words[ranges(self.starts[rows[some]], counts[some])]
        return words, starts


def prefixes(sizes: Sizes, at_least: float) -> Sizes:
    """How many of the rarest words are needed so that every similar set has one of them."""
    every = np.arange(int(sizes.max(initial=0)) + 1, dtype=np.int32)
    prefix = every - np.ceil(at_least * every - ROUNDING).astype(np.int32) + 1
    of_set: Sizes = np.minimum(prefix, every)[sizes]
    return of_set


def offsets(counts: Numbers) -> Ints:
    """Where pieces of so many items start when one follows the other, and where the last one ends."""
    starts = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def ranges(starts: Numbers, counts: Numbers) -> Ints:
    """The numbers from each start on, so many as `counts` says, one range after the other."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))


def _signatures(words: Words, starts: Ints, width: int) -> Hashes:
    """Bits of each set, (M, width): a word changes one of them, so its hash says which."""
    mixed = words * np.uint32(0x9E3779B1)
    bits = np.uint64(1) << (mixed >> np.uint32(26)).astype(np.uint64)
    signatures = np.zeros((len(starts) - 1, width), dtype=np.uint64)
    filled = np.flatnonzero(np.diff(starts))
    if len(filled):
        for part in range(width):
            of_part = bits if width == 1 else np.where((mixed >> 8) % width == part, bits, 0)
            signatures[filled, part] = np.bitwise_xor.reduceat(of_part, starts[filled])
    return signatures


class _Stored:
    """The words of sets in a file, in pieces of some sets each."""

    def __init__(self, file: int) -> None:
        """`file` is the descriptor of an empty file."""
        self._file = file
        self._sizes = [np.empty(0, dtype=np.int32)]
        self._starts: dict[int, int] = {}  # in words, by the number of the piece's first set
        self.pieces: list[slice] = []
        self.words = 0

    def add(self, sizes: Ints, words: Words) -> None:
        """Write another piece: sets of these sizes, with the words of all."""
        first = self.pieces[-1].stop if self.pieces else 0
        self._sizes.append(sizes.astype(np.int32))
        self._starts[first] = self.words
        self.pieces.append(slice(first, first + len(sizes)))
        self.words += len(words)
        self.write(self.pieces[-1], words)

    def write(self, piece: slice, words: Words) -> None:
        """Write the words of a piece again."""
        left, at = memoryview(words.tobytes()), words.itemsize * self._starts[piece.start]
        while left:  # on a disk that is nearly full the first call writes less, and the next one raises
            written = os.pwrite(self._file, left, at)
            left, at = left[written:], at + written

    def read(self, piece: slice) -> Words:
        """The words of a piece."""
        start, size = self._starts[piece.start], np.dtype(np.uint32).itemsize
        count = self._starts.get(piece.stop, self.words) - start
        return np.frombuffer(os.pread(self._file, size * count, size * start), np.uint32)

    @property
    def sizes(self) -> Sizes:
        """How many words each set has."""
        self._sizes = [np.concatenate(self._sizes)]
        return self._sizes[0]

    def take(self, rows: Ints, heads: _Sets) -> _Sets:
        """These sets, ascending, whole; `heads` are of all sets."""
        sizes = heads.sizes[rows]
        starts = offsets(sizes)
        words = np.empty(starts[-1], dtype=np.uint32)
        for piece in self.pieces:
            start, end = np.searchsorted(rows, (piece.start, piece.stop))
            if start < end:
                at = offsets(heads.sizes[piece])[rows[start:end] - piece.start]
                words[starts[start] : starts[end]] = self.read(piece)[ranges(at, sizes[start:end])]
        return _Sets(words, starts, sizes, heads.signatures[rows])


# --- reading -----------------------------------------------------------------------------------------


def _read(keys: Chunked, at_least: float, stored: _Stored) -> _Sets:
    """The heads of the sets of words of texts: the few words that an index needs. `stored` gets all words.

    The words are first numbered as they are found, then by how many texts contain them.
    """
    ranks = _store(keys, stored)
    width = int(np.clip(stored.words // max(1, len(keys)) // SIGNED_WORDS, 1, MAX_SIGNATURE))

    sizes = stored.sizes
    starts: Numbers = offsets(np.minimum(sizes, prefixes(sizes, at_least) + LEVELS - 1))
    if starts[-1] <= WORD:
        starts = starts.astype(np.uint32)  # half the memory
    heads = _Sets(
        words=np.empty(starts[-1], dtype=np.uint32),
        starts=starts,
        sizes=sizes,
        signatures=np.empty((len(sizes), width), dtype=np.uint64),
    )

    def by_rarity(piece: slice) -> None:
        words = stored.read(piece)
        words = _sorted(sizes[piece], ranks[words]).astype(np.uint32)
        stored.write(piece, words)
        whole, of_heads = offsets(sizes[piece]), starts[piece.start : piece.stop + 1]
        heads.words[of_heads[0] : of_heads[-1]] = words[
            ranges(whole[:-1], np.diff(of_heads).astype(np.int64))
        ]
        heads.signatures[piece] = _signatures(words, whole, width)

    for _ in in_order(by_rarity, stored.pieces):
        pass
    return heads


def _store(keys: Chunked, stored: _Stored) -> Words:
    """Store the words of each text by their numbers, and return the rank of each number by rarity, (V,)."""
    numbered = NumberedWords()
    frequencies = np.zeros(1, dtype=np.int64)
    for counts, words in in_order(lambda piece: _numbered(piece, numbered), _pieces(keys)):
        stored.add(counts, words)
        found = np.bincount(words, minlength=len(frequencies))
        found[: len(frequencies)] += frequencies
        frequencies = found
    return _ranks(numbered.words(np.arange(len(frequencies), dtype=np.uint32)), frequencies)


def _pieces(keys: Chunked) -> Iterator[pl.Series]:
    for chunk in keys.chunks:
        step = int(np.clip(BYTES_AT_ONCE * len(chunk) // max(1, chunk.nbytes), 1, TEXTS_AT_ONCE))
        for start in range(0, len(chunk), step):
            yield pl.Series(chunk.slice(start, step))


def _numbered(texts: pl.Series, numbered: NumberedWords) -> tuple[Ints, Words]:
    """How many different words each text has, and the numbers of all, ascending in each text."""
    if texts.str.len_bytes().max() > COMPARED_CHARS:  # type: ignore[operator]
        texts = texts.str.head(COMPARED_CHARS)
    rows, words = all_words(texts)
    packed = rows.astype(np.uint64) << np.uint64(32) | numbered.of(words)
    packed.sort()
    packed = packed[_changes(packed) & (packed & WORD != NO_WORD)]
    sizes = np.bincount((packed >> np.uint64(32)).astype(np.int64), minlength=len(texts))
    return sizes, packed.astype(np.uint32)


def _sorted(counts: Numbers, words: Words) -> Hashes:
    """The words of texts, ascending in each text, with the number of the text in the upper 32 bits."""
    packed = np.repeat(np.arange(len(counts), dtype=np.uint64) << np.uint64(32), counts)
    packed |= words
    packed.sort()
    return packed


def _changes(ordered: npt.NDArray[Any]) -> Flags:
    """Which items differ from the one before them; the first one does."""
    changes = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=changes[1:])
    return changes


def _ranks(words: pl.Series, frequencies: Ints) -> Words:
    """The place of each word, (V,), in the order of how many texts contain it, then of its characters."""
    table = pl.DataFrame({"frequency": frequencies, "word": words})
    order = table.select(pl.arg_sort_by("frequency", "word")).to_series().to_numpy()
    ranks = np.empty(len(order), dtype=np.uint32)
    ranks[order] = np.arange(len(order), dtype=np.uint32)
    return ranks


# --- candidates --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entries:
    """Sets in buckets: those of a bucket share words, and every two similar sets are in one bucket at least.

    Attributes:
        sets: The number of a set, (E,); those of a bucket follow each other.
        firsts: The place in the set of the first word that the bucket shares, (E,).
        skips: How many words of the set, up to the last word that the bucket shares, are not shared, (E,).
        buckets: The number of the bucket, ascending, (E,).
    """

    sets: Sizes
    firsts: Sizes
    skips: Sizes
    buckets: Sizes

    def take(self, entries: npt.NDArray[Any]) -> _Entries:
        """These entries."""
        return _Entries(self.sets[entries], self.firsts[entries], self.skips[entries], self.buckets[entries])


def _buckets(sets: _Sets, at_least: float) -> Iterator[_Entries]:
    """The buckets of more than one set, some at once; `sets` may be heads."""
    frequencies = np.zeros(int(sets.words.max(initial=0)) + 1, dtype=np.int64)
    for start in range(0, len(sets.words), BLOCK):
        frequencies += np.bincount(sets.words[start : start + BLOCK], minlength=len(frequencies))
    parts = min(1 + len(sets.words) // ENTRIES_AT_ONCE, MOST_PARTS)
    ends = np.searchsorted(np.cumsum(frequencies), np.arange(1, parts) * (len(sets.words) / parts)) + 1
    for low, high in pairwise([0, *sorted({*ends.tolist(), len(frequencies)})]):
        waiting = [_undivided(sets, at_least, low, high)]
        while waiting:
            entries, parents = _divided(sets, at_least, waiting.pop())
            yield entries
            waiting += parents


@dataclass(frozen=True)
class _Parents:
    """Sets of buckets that are divided by another word, P in all.

    Attributes:
        level: How many words the sets of a bucket share.
        sets: The number of a set, (P,).
        firsts: The place in the set of the first of the shared words, (P,).
        lasts: That of the last one, (P,).
        children: How many of the words after it can be the next one, (P,).
        hashes: Of the shared words, (P,). Two buckets with one hash only give more candidates.
    """

    level: int
    sets: Sizes
    firsts: Sizes
    lasts: Sizes
    children: Sizes
    hashes: Hashes


def _undivided(sets: _Sets, at_least: float, low: int, high: int) -> _Parents:
    """The sets with a word from `low` to `high` among their rarest, all in one bucket, once for each word."""
    numbers, places = [np.empty(0, dtype=np.int32)], [np.empty(0, dtype=np.int32)]
    for start in range(0, len(sets.words), BLOCK):
        words = sets.words[start : start + BLOCK]
        at = start + np.flatnonzero((words >= low) & (words < high))
        number = np.searchsorted(sets.starts, at.astype(sets.starts.dtype), side="right") - 1
        place = at - sets.starts[number]
        rare = place < prefixes(sets.sizes[number], at_least)
        numbers.append(number[rare].astype(np.int32))
        places.append(place[rare].astype(np.int32))
    firsts = np.concatenate(places)
    ones, zeros = np.ones(len(firsts), dtype=np.int32), np.zeros(len(firsts), dtype=np.uint64)
    return _Parents(0, np.concatenate(numbers), firsts, firsts - np.int32(1), ones, zeros)


def _mixed(words: Hashes) -> Hashes:
    """Hashes of numbers: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _divided(sets: _Sets, at_least: float, parents: _Parents) -> tuple[_Entries, list[_Parents]]:
    """Divide buckets by another word: those that are small now, and those that are divided again."""
    level = parents.level + 1
    again = np.repeat(np.arange(len(parents.sets)), parents.children)
    numbers, firsts = parents.sets[again], parents.firsts[again]
    lasts = ranges(parents.lasts + 1, parents.children).astype(np.int32)
    words = sets.words[sets.starts[numbers] + lasts].astype(np.uint64)
    hashes = _mixed(parents.hashes[again] + words * np.uint64(0x9E3779B97F4A7C15))

    order, buckets = _grouped(hashes)
    numbers, firsts, lasts, hashes = numbers[order], firsts[order], lasts[order], hashes[order]
    skips = lasts - (level - 1)
    least = np.minimum.reduceat(skips, np.flatnonzero(_changes(buckets)))[buckets] if len(skips) else skips
    sizes = sets.sizes[numbers]
    most = np.floor(sizes * ((1 - at_least) / at_least) + ROUNDING)  # words that it and a similar set skip
    kept = np.flatnonzero(skips + least <= most)
    kept = kept[_in_company(buckets[kept])]
    numbers, firsts, lasts, hashes = numbers[kept], firsts[kept], lasts[kept], hashes[kept]
    skips, sizes, buckets = skips[kept], sizes[kept], _numbered_runs(buckets[kept])

    entries = _Entries(numbers, firsts, skips, buckets)
    members = np.bincount(buckets)
    prefix = prefixes(sizes, at_least)
    children = np.minimum(prefix - 1 + level, sizes - 1) - lasts
    of_bucket = np.bincount(buckets, children).astype(np.int64)
    large = (members > SMALL) & (members**2 > 2 * of_bucket) & (of_bucket < MOST_CHILDREN)
    if level == LEVELS or not large.any():
        return entries, []
    # Two sets with so few words are similar without sharing another word.
    settled = entries.take(~large[buckets] | (sizes - prefix + 1 <= level))
    left = np.flatnonzero(large[buckets])
    parts = ((np.cumsum(of_bucket[large]) - of_bucket[large]) // CHILDREN_AT_ONCE).repeat(members[large])
    divided = [
        _Parents(level, numbers[some], firsts[some], lasts[some], children[some], hashes[some])
        for some in np.split(left, np.flatnonzero(np.diff(parts)) + 1)
    ]
    return settled, divided


def _numbered_runs(buckets: npt.NDArray[Any]) -> Sizes:
    """Ascending numbers from 0 on for the runs of equal items."""
    return (np.cumsum(_changes(buckets)) - 1).astype(np.int32)


def _grouped(mixed: Hashes) -> tuple[Ints, Sizes]:
    """The positions of hashes that occur more than once, with equal ones together, and a number for each."""
    low = np.uint64((1 << len(mixed).bit_length()) - 1)
    packed = (mixed & ~low) | np.arange(len(mixed), dtype=np.uint64)
    packed.sort()
    buckets = packed & ~low
    again = _in_company(buckets)
    return (packed[again] & low).astype(np.int64), _numbered_runs(buckets[again])


def _in_company(buckets: npt.NDArray[Any]) -> Flags:
    """Which items are next to an equal one."""
    changes = np.append(_changes(buckets), np.True_)
    return ~(changes[1:] & changes[:-1])


def _with_candidates(sets: _Sets, at_least: float) -> Flags:
    """The sets that may have a similar set, (M,), and few others; `sets` may be heads."""
    found = np.zeros(len(sets.sizes), dtype=np.bool_)
    for entries in _buckets(sets, at_least):
        members = np.bincount(entries.buckets)[entries.buckets]
        found[entries.sets[members > COMPARED]] = True
        some = entries.take(members <= COMPARED)
        starts, _ = _bounds(some.buckets)
        at = np.arange(len(starts))
        for pairs in _candidates(at, starts, at):
            one, other = _close(sets, some, some, pairs, at_least)
            found[some.sets[one]] = found[some.sets[other]] = True
    return found


def _bounds(buckets: Numbers) -> tuple[Ints, Ints]:
    """Where the bucket of each entry starts and ends, (E,)."""
    starts = np.flatnonzero(_changes(buckets))
    counts = np.diff(starts, append=len(buckets))
    return np.repeat(starts, counts), np.repeat(starts + counts, counts)


def _candidates(entries: Ints, starts: Ints, ends: Ints) -> Iterator[Pairs]:
    """Each entry with each of the positions from its start to its end, in order, some pairs at once."""
    counts = ends - starts
    for some in _slices(counts, PAIRS_AT_ONCE):
        yield np.repeat(entries[some], counts[some]), ranges(starts[some], counts[some])


def _slices(counts: Numbers, at_once: int) -> Iterator[slice]:
    """Slices of items whose counts together are about `at_once`."""
    cuts = np.flatnonzero(np.diff((np.cumsum(counts) - counts) // at_once, prepend=-1)).tolist()
    return map(slice, cuts, [*cuts[1:], len(counts)])


def _close(sets: _Sets, ours: _Entries, theirs: _Entries, pairs: Pairs, at_least: float) -> Pairs:
    """The pairs of entries whose sets can be similar by sizes, places of shared words and signatures."""
    one, other = pairs
    sizes = sets.sizes[ours.sets[one]], sets.sizes[theirs.sets[other]]
    both = sizes[0] + sizes[1]
    shared = np.ceil(at_least / (1 + at_least) * both - ROUNDING)  # at least, of similar sets
    differ = both - 2 * shared
    kept = np.flatnonzero((np.minimum(*sizes) >= shared) & (ours.skips[one] + theirs.skips[other] <= differ))
    one, other = one[kept], other[kept]
    bits = np.bitwise_count(sets.signatures[ours.sets[one]] ^ sets.signatures[theirs.sets[other]])
    close = np.flatnonzero(bits.sum(axis=1, dtype=np.int64) <= differ[kept])
    return one[close], other[close]


def _similarities(sets: _Sets, one: Numbers, other: Numbers) -> Floats:
    """The Jaccard similarity of each pair of sets, (P,)."""
    sizes = sets.sizes[one] + sets.sizes[other]
    shared = np.empty(len(one), dtype=np.int64)
    for some in _slices(sizes, WORDS_AT_ONCE):
        numbers = np.concatenate([one[some], other[some]])
        counts = sets.sizes[numbers]
        pairs = np.tile(np.arange(len(numbers) // 2, dtype=np.uint64) << np.uint64(32), 2)
        packed = np.repeat(pairs, counts) | sets.words[ranges(sets.starts[numbers], counts)]
        packed.sort()
        twice = packed[1:][packed[1:] == packed[:-1]]
        shared[some] = np.bincount((twice >> np.uint64(32)).astype(np.int64), minlength=len(numbers) // 2)
    similarities: Floats = shared / np.maximum(sizes - shared, 1)
    return similarities


# --- searches ----------------------------------------------------------------------------------------


def _chains(sets: _Sets, at_least: float) -> Ints:
    """A number for each set, (M,), equal for those that a chain of similar sets connects.

    Each set of a bucket is first compared with a few sets, so that those of a template soon are of one chain;
    then with all of other chains.
    """
    entries = _all_entries(sets, at_least)
    chains = np.arange(len(sets.sizes))
    for width in (1, 4, 16, None):
        of_entry = chains[entries.sets]
        entries = entries.take(np.lexsort((of_entry, entries.buckets)))
        of_entry = chains[entries.sets]
        starts, _ = _bounds(entries.buckets)
        own, _ = _bounds(np.cumsum(_changes(entries.buckets) | _changes(of_entry)))
        others = np.flatnonzero(own > starts)
        ends = own if width is None else np.minimum(own, starts + width)
        ends = own if (own - starts).sum() <= PAIRS_AT_ONCE else ends
        for left, right in _candidates(others, starts[others], ends[others]):
            apart = chains[entries.sets[left]] != chains[entries.sets[right]]
            pairs = _close(sets, entries, entries, (left[apart], right[apart]), at_least)
            one, other = _similar(sets, entries, pairs, at_least)
            chains = _linked(chains, one, other)
    return chains


def _linked(chains: Ints, one: Ints, other: Ints) -> Ints:
    """The chains when these pairs are also connected; the number of a large chain is small."""
    if not len(one):
        return chains
    count = int(chains.max()) + 1
    links = coo_array((np.ones(len(one), dtype=np.bool_), (chains[one], chains[other])), shape=(count, count))
    _, found = connected_components(links, directed=False)
    found = found[chains]
    by_size = np.empty(found.max() + 1, dtype=np.int64)
    by_size[np.argsort(-np.bincount(found))] = np.arange(len(by_size))
    linked: Ints = by_size[found]
    return linked


def _all_entries(sets: _Sets, at_least: float) -> _Entries:
    """Those of all buckets."""
    found = [entries for entries in _buckets(sets.heads(at_least), at_least) if len(entries.sets)]
    columns = [[np.empty(0, dtype=np.int32)] for _ in range(4)]
    before = 0
    for entries in found:
        buckets = entries.buckets + np.int32(before)
        for column, more in zip(columns, (entries.sets, entries.firsts, entries.skips, buckets), strict=True):
            column.append(more)
        before = int(buckets[-1]) + 1
    return _Entries(*map(np.concatenate, columns))


def _similar(sets: _Sets, entries: _Entries, pairs: Pairs, at_least: float) -> Pairs:
    """The similar sets of pairs of entries, each two once, the smaller number first; by the larger one."""
    one, other = (entries.sets[of_pair].astype(np.int64) for of_pair in pairs)
    packed = np.maximum(one, other) << 32 | np.minimum(one, other)
    packed.sort()
    packed = packed[_changes(packed)]
    one, other = packed & 0xFFFF_FFFF, packed >> 32
    alike = _similarities(sets, one, other) >= at_least
    return one[alike], other[alike]


class _Index:
    """Sets that are compared with each other, in their order."""

    def __init__(self, sets: _Sets, at_least: float) -> None:
        """Later similarities are `at_least`."""
        self._sets, self._at_least = sets, at_least
        entries = _all_entries(sets, at_least)
        self._entries = entries.take(np.lexsort((entries.sets, entries.buckets)))

    def kept(self) -> Flags:
        """Which sets have no similar set before them that is kept itself, (M,)."""
        kept = np.ones(len(self._sets.sizes), dtype=np.bool_)
        self._keep(self._entries, kept, 0, len(kept))
        return kept

    def _keep(self, entries: _Entries, kept: Flags, low: int, high: int) -> None:
        """Decide which of the sets from `low` to `high` are kept; all earlier ones are decided.

        If there are many candidates, the first half goes first, which often leaves few of the second.
        """
        entries = entries.take((entries.sets >= low) & (entries.sets < high) & kept[entries.sets])
        starts, _ = _bounds(entries.buckets)
        at = np.arange(len(starts))
        if int((at - starts).sum()) <= PAIRS_AT_ONCE:
            pairs = np.repeat(at, at - starts), ranges(starts, at - starts)
            close = _close(self._sets, entries, entries, pairs, self._at_least)
            if len(close[0]) <= MOST_DECIDED or high - low == 2:
                before, after = _similar(self._sets, entries, close, self._at_least)
                for first, second in zip(before.tolist(), after.tolist(), strict=True):
                    if kept[first]:
                        kept[second] = False
                return
        middle = (low + high) // 2
        self._keep(entries, kept, low, middle)
        left = entries.take(kept[entries.sets])
        starts, _ = _bounds(left.buckets)
        early = np.cumsum(left.sets < middle)
        ends = starts + early - (early - (left.sets < middle))[starts]
        late = np.flatnonzero(left.sets >= middle)
        hits, _ = self._first_hits(left.take(late), left, starts[late], ends[late])
        kept[left.sets[late[hits != NONE]]] = False
        self._keep(entries, kept, middle, high)

    def first(self, sets: Ints, rows: Ints, added: Ints, only_earlier: bool = True) -> Doubles:
        """For each of some sets the first similar one of those that were added.

        First come sets that share the earliest word of a set; of these, sets with whose size and place of
        that word a set was added first; of these, the set that was added first.

        Args:
            sets: What is compared, (N,).
            rows: The row of each, ascending, (N,).
            added: In which row a set was added, (M,); `NONE` if it was not.
            only_earlier: Whether a row is compared only with sets that were added in earlier rows.

        Returns:
            The rows that are like another, and in which row that one was added.
        """
        entries, is_added = self._entries, added[self._entries.sets] != NONE
        theirs = entries.take(is_added)
        made = self._made(added, theirs)
        order = np.lexsort((added[theirs.sets], made, theirs.buckets))
        theirs, made = theirs.take(order), made[order]
        priority = made * (int(added.max(initial=0)) + 1) + added[theirs.sets]

        by_set = np.argsort(sets, kind="stable")
        entry_of, of_row = np.unique(sets[by_set], return_index=True)
        at = np.searchsorted(entry_of, entries.sets).clip(max=max(0, len(entry_of) - 1))
        ours = np.flatnonzero(entry_of[at] == entries.sets) if len(entry_of) else np.empty(0, np.int64)
        counts = np.diff(of_row, append=len(sets))[at[ours]]
        probes = by_set[ranges(of_row[at[ours]], counts)]  # in `sets`
        ours = np.repeat(ours, counts)
        starts = np.searchsorted(theirs.buckets, entries.buckets[ours], side="left")
        ends = np.searchsorted(theirs.buckets, entries.buckets[ours], side="right")

        partners, similarities = np.full(len(sets), NONE), np.zeros(len(sets))
        places = entries.firsts[ours]
        for place in np.unique(places):
            some = np.flatnonzero((places == place) & (partners[probes] == NONE))
            limits = (rows[probes[some]], added[theirs.sets]) if only_earlier else None
            hits, found = self._first_hits(entries.take(ours[some]), theirs, starts[some], ends[some], limits)
            hit = np.flatnonzero(hits != NONE)
            hit = hit[np.lexsort((priority[hits[hit]], probes[some][hit]))]
            hit = hit[_changes(probes[some][hit])]
            partners[probes[some][hit]] = added[theirs.sets[hits[hit]]]
            similarities[probes[some][hit]] = found[hit]
        alike = np.flatnonzero(partners != NONE)
        return Doubles(rows[alike], partners[alike], similarities[alike])

    def _made(self, added: Ints, entries: _Entries) -> Ints:
        """For each entry, (E,), in which row the first set was added with its size and place of the word."""
        sets = self._sets
        members = np.flatnonzero(added != NONE)
        counts = prefixes(sets.sizes[members], self._at_least)
        number = np.repeat(members, counts)
        at = ranges(sets.starts[members], counts)
        columns = (sets.words[at], sets.sizes[number], at - sets.starts[number])
        order = np.lexsort((added[number], *columns))
        new = np.logical_or.reduce([_changes(column[order]) for column in columns])
        made = np.empty(len(order), dtype=np.int64)
        made[order] = added[number][order][new][np.cumsum(new) - 1]
        start = np.zeros(len(added), dtype=np.int64)
        start[members] = offsets(counts)[:-1]
        of_entries: Ints = made[start[entries.sets] + entries.firsts]
        return of_entries

    def _first_hits(
        self,
        ours: _Entries,
        theirs: _Entries,
        starts: Ints,
        ends: Ints,
        limits: tuple[Ints, Ints] | None = None,
    ) -> tuple[Ints, Floats]:
        """For each of our entries the first of theirs from its start to its end that is similar, or `NONE`.

        The second array has the similarities. With `limits`, the rows of our and of their entries, only
        those of earlier rows count.
        """
        hits, similarities = np.full(len(starts), NONE), np.zeros(len(starts))
        active, width = np.flatnonzero(ends > starts), 1
        starts = starts.copy()
        while len(active):
            stops = np.minimum(starts[active] + width, ends[active])
            for pairs in _candidates(active, starts[active], stops):
                one, other = pairs
                if limits is not None:
                    earlier = limits[1][other] < limits[0][one]
                    one, other = one[earlier], other[earlier]
                one, other = _close(self._sets, ours, theirs, (one, other), self._at_least)
                found = _similarities(self._sets, ours.sets[one], theirs.sets[other])
                alike = np.flatnonzero(found >= self._at_least)
                alike = alike[_changes(one[alike])]
                hits[one[alike]], similarities[one[alike]] = other[alike], found[alike]
            starts[active] = stops
            active = active[(hits[active] == NONE) & (stops < ends[active])]
            width *= 2
        return hits, similarities
