"""Find every pair of texts whose word sets are alike, exactly.

The measure is Jaccard similarity: shared words over all words of the two. The pairs are found by prefix
filtering (Chaudhuri et al., "A Primitive Operator for Similarity Joins in Data Cleaning", ICDE 2006, and
Bayardo et al., "Scaling Up All Pairs Similarity Search", WWW 2007): two sets of similarity t or more must
share one of their few rarest words, so an index of those words holds every candidate. Unlike MinHash with
LSH it misses no pair, and on sentences it is faster.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from components.validate_data.duplicates import Likeness

COMPARED_CHARS = 20_000
ROUNDING = 1e-9  # 0.7 × 10 is a little over 7 in binary


@dataclass(frozen=True)
class Pair:
    """Two alike texts by position, `first < second`."""

    first: int
    second: int
    similarity: float


def similar_pairs(texts: Sequence[str], at_least: float) -> list[Pair]:
    """All pairs of Jaccard similarity `at_least` or more, in order of position.

    Args:
        texts: Normalised and distinct; words are what spaces separate. Only the first 20,000 characters
            count, so that one endless row cannot hold up the rest.
        at_least: Over 0 and at most 1.
    """
    words = _words_by_rarity(texts)
    sets = [frozenset(ids) for ids in words]
    rows_with: defaultdict[int, list[int]] = defaultdict(list)
    pairs: list[Pair] = []
    for row in sorted(range(len(texts)), key=lambda position: len(words[position])):
        size = len(words[row])
        # Sets come smallest first, so an earlier one is no larger, and needs at least this many words.
        smallest = math.ceil(at_least * size - ROUNDING)
        candidates: set[int] = set()
        for word in words[row][: size - smallest + 1]:
            candidates.update(other for other in rows_with[word] if len(words[other]) >= smallest)
            rows_with[word].append(row)
        for other in candidates:
            shared = len(sets[row] & sets[other])
            similarity = shared / (size + len(words[other]) - shared)
            if similarity >= at_least:
                pairs.append(Pair(min(row, other), max(row, other), similarity))
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))


def _words_by_rarity(texts: Sequence[str]) -> list[list[int]]:
    """The distinct words of each text as numbers that grow with the number of texts that hold the word."""
    split = [set(text[:COMPARED_CHARS].split()) for text in texts]
    frequencies = Counter(word for words in split for word in words)
    by_rarity = sorted(frequencies, key=lambda word: (frequencies[word], word))
    numbers = {word: number for number, word in enumerate(by_rarity)}
    return [sorted(numbers[word] for word in words) for words in split]


def likeness_among(keys: Sequence[str], at_least: float) -> Likeness:
    """Compare distinct keys; pairs below `at_least` are not kept."""
    neighbours: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
    for pair in similar_pairs(keys, at_least):
        first, second = keys[pair.first], keys[pair.second]
        neighbours[first].append((second, pair.similarity))
        neighbours[second].append((first, pair.similarity))
    return Likeness(dict(neighbours))
