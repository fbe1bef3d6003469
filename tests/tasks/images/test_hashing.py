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
    keys = [f"cert {row % 90}" for row in range(len(hashes))]  # some certificates have two scans
    likeness = ImageLikeness(keys, hashes, 0.8)
    scores: dict[tuple[str, str], float] = {}
    for one, other in combinations(range(len(keys)), 2):
        score = float((hashes[one] == hashes[other]).mean())
        if keys[one] != keys[other] and score >= at_least:
            for pair in ((keys[one], keys[other]), (keys[other], keys[one])):
                scores[pair] = max(score, scores.get(pair, 0.0))
    assert scores
    chains = {key: {key} for key in keys}
    for one, other in scores:
        if chains[one] is not chains[other]:
            chains[one] |= chains[other]
            chains |= dict.fromkeys(chains[one], chains[one])
    groups = dict(zip(keys, likeness.groups(keys, at_least), strict=True))
    for one, other in combinations(groups, 2):
        assert (groups[one] == groups[other]) == (other in chains[one])
    known = likeness.known(at_least)
    for key in keys[:45]:
        known.add(key)
    for key in groups:
        found = known.find(key)
        if found is None:
            assert not any((key, other) in scores for other in keys[:45])
        else:
            assert scores[key, found[0]] == pytest.approx(found[1], abs=1e-6)


def test_memory_grows_with_the_scans_of_one_card_and_not_with_their_pairs() -> None:
    peaks = []
    for scans in (300, 1_200):
        hashes = np.ones((scans, BITS), dtype=np.bool_)
        keys = [f"cert {row}" for row in range(scans)]
        tracemalloc.start()
        likeness = ImageLikeness(keys, hashes, 0.9)
        assert len(set(likeness.groups(keys, 0.9))) == 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * 4 * peaks[0]  # pairs: 16 times as many
