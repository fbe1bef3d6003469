from __future__ import annotations

import random
from itertools import combinations

import pytest

from components.validate_data.texts.similarity import COMPARED_CHARS, Pair, similar_pairs


def _brute_force(texts: list[str], at_least: float) -> list[Pair]:
    sets = [set(text.split()) for text in texts]
    scores = {
        (i, j): len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in combinations(range(len(texts)), 2)
    }
    return [Pair(i, j, score) for (i, j), score in scores.items() if score >= at_least]


@pytest.mark.parametrize("at_least", [0.55, 0.7, 0.8, 0.9, 1.0])
def test_the_pairs_are_exactly_those_that_comparing_everything_finds(at_least: float) -> None:
    chance = random.Random(3)
    vocabulary = [f"w{number}" for number in range(30)]
    texts = list(
        dict.fromkeys(" ".join(chance.choices(vocabulary[:12], k=chance.randint(1, 12))) for _ in range(300))
    )
    texts += [" ".join(vocabulary[:size]) for size in (9, 10, 19, 20, 27, 30)]
    expected = _brute_force(texts, at_least)
    assert expected
    assert similar_pairs(texts, at_least) == expected


def test_nine_of_ten_words_is_a_similarity_of_nine_tenths() -> None:
    ten = "a b c d e f g h i j"
    assert similar_pairs([ten, "a b c d e f g h i"], 0.9) == [Pair(0, 1, 0.9)]
    assert similar_pairs([ten, "a b c d e f g h"], 0.9) == []


def test_only_the_beginning_of_an_endless_text_is_compared() -> None:
    words = [f"word{number}" for number in range(2_000_000)]
    endless = " ".join(words)
    assert len(endless) > 10_000_000
    beginning = endless[:COMPARED_CHARS]
    assert similar_pairs([endless, beginning], 0.9) == [Pair(0, 1, 1.0)]
