from __future__ import annotations

import tracemalloc
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from gauntlet.tasks.images.hashing import ImageLikeness

BITS = 40


def _hashes(cards: int) -> npt.NDArray[np.bool_]:
    """Three scans of each card, in which up to four bits are changed."""
    generator = np.random.default_rng(0)
    hashes = np.repeat(generator.random((cards, BITS)) < 0.5, 3, axis=0)
    for row in hashes:
        row[generator.integers(0, BITS, generator.integers(0, 5))] ^= True
    return hashes


@pytest.mark.parametrize("at_least", [0.8, 0.9, 0.95, 1.0])
def test_chains_and_doubles_are_those_that_comparing_every_two_scans_finds(at_least: float) -> None:
    hashes = _hashes(40)
    keys = np.arange(len(hashes)) % 90  # some cards have two scans
    likeness = ImageLikeness(keys, hashes, 0.8)
    scores: dict[tuple[int, int], float] = {}
    for one, other in combinations(range(len(keys)), 2):
        score = float((hashes[one] == hashes[other]).mean())
        if keys[one] != keys[other] and score >= at_least:
            for pair in ((keys[one], keys[other]), (keys[other], keys[one])):
                scores[pair] = max(score, scores.get(pair, 0.0))
    assert scores
    chains = {key: {key} for key in range(90)}
    for one, other in scores:
        if chains[one] is not chains[other]:
            chains[one] |= chains[other]
            chains |= dict.fromkeys(chains[one], chains[one])
    groups = likeness.groups(at_least)
    for one, other in combinations(range(90), 2):
        assert (groups[one] == groups[other]) == (other in chains[one])
    doubles = likeness.doubles(np.arange(45, 90), np.arange(45), at_least)
    found = dict(zip(doubles.rows + 45, zip(doubles.others, doubles.similarities, strict=True), strict=True))
    for key in range(45, 90):
        others = [other for other in range(45) if (key, other) in scores]
        assert (key in found) == bool(others)
        if others:
            assert found[key][0] == others[0]
            assert found[key][1] == pytest.approx(scores[key, others[0]], abs=1e-6)


def test_memory_grows_with_the_scans_of_one_card_and_not_with_their_pairs() -> None:
    peaks = []
    for scans in (300, 1_200):
        hashes = np.ones((scans, BITS), dtype=np.bool_)
        tracemalloc.start()
        likeness = ImageLikeness(np.arange(scans), hashes, 0.9)
        assert len(set(likeness.groups(0.9))) == 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * 4 * peaks[0]  # pairs: 16 times as many
