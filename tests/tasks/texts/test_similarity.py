from __future__ import annotations

import random
import tracemalloc
from itertools import combinations

import numpy as np
import polars as pl
import pytest

from gauntlet.components.validate_data.duplicates import Doubles, Ints
from gauntlet.components.validate_data.text import normalise
from gauntlet.tasks.texts.similarity import COMPARED_CHARS, TextLikeness, all_words

TEMPLATE = (
    "your order {} has left our house today and will be with you in two or three working days thank you"
)


def _alike(texts: list[str], at_least: float) -> dict[tuple[str, str], float]:
    """All pairs both ways, found by comparing everything."""
    sets = {text: set(text.split()) for text in texts}
    found = {}
    for one, other in combinations(texts, 2):
        similarity = len(sets[one] & sets[other]) / len(sets[one] | sets[other])
        if similarity >= at_least:
            found[one, other] = found[other, one] = similarity
    return found


def _chains(texts: list[str], pairs: dict[tuple[str, str], float]) -> set[frozenset[str]]:
    chain_of = {text: {text} for text in texts}
    for one, other in pairs:
        if chain_of[one] is not chain_of[other]:
            chain_of[one] |= chain_of[other]
            for text in chain_of[one]:
                chain_of[text] = chain_of[one]
    return {frozenset(chain) for chain in chain_of.values()}


def _rows(doubles: Doubles) -> list[tuple[int, int, float]]:
    columns = (doubles.rows, doubles.others, doubles.similarities)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _grouped(texts: list[str], numbers: Ints) -> set[frozenset[str]]:
    return {
        frozenset(text for text, its in zip(texts, numbers, strict=True) if its == number)
        for number in numbers
    }


def _random_texts() -> list[str]:
    chance = random.Random(3)
    vocabulary = [f"w{number}" for number in range(30)]
    texts = [" ".join(sorted(chance.sample(vocabulary[:14], k=chance.randint(1, 14)))) for _ in range(250)]
    texts += [" ".join(vocabulary[:size]) for size in (9, 10, 19, 20, 27, 30)]
    return list(dict.fromkeys(texts))


@pytest.mark.parametrize("at_least", [0.55, 0.7, 0.8, 0.9, 1.0])
def test_chains_and_doubles_are_exactly_those_that_comparing_everything_finds(at_least: float) -> None:
    texts = _random_texts()
    likeness = TextLikeness(texts, 0.55)
    pairs = _alike(texts, at_least)
    assert bool(pairs) == (at_least < 1)
    assert _grouped(texts, likeness.groups(at_least)) == _chains(texts, pairs)
    half = np.arange(0, len(texts), 2)
    rest = np.setdiff1d(np.arange(len(texts)), half)
    doubles = likeness.doubles(rest, half, at_least)
    for row, other, similarity in _rows(doubles):
        assert pairs[texts[rest[row]], texts[half[other]]] == similarity
    for row in set(range(len(rest))) - set(doubles.rows.tolist()):
        assert not any((texts[rest[row]], texts[other]) in pairs for other in half)


@pytest.mark.parametrize("at_least", [0.55, 0.7, 0.9])
def test_a_text_is_kept_if_no_text_kept_before_it_is_similar(at_least: float) -> None:
    texts = _random_texts()
    pairs = _alike(texts, at_least)
    order = random.Random(5).choices(range(len(texts)), k=2 * len(texts))
    repeats = TextLikeness(texts, 0.55).repeats(np.array(order), at_least)
    kept = [row for row in range(len(order)) if row not in repeats.rows]
    for row in kept:
        assert not any((texts[order[row]], texts[order[other]]) in pairs for other in kept if other < row)
    assert len(repeats.rows)
    for row, other, similarity in _rows(repeats):
        assert other < row
        assert other in kept
        assert pairs[texts[order[row]], texts[order[other]]] == similarity


def test_nine_of_ten_words_is_a_similarity_of_nine_tenths() -> None:
    ten, nine, eight = ("a b c d e f g h i j"[:size] for size in (19, 17, 15))
    likeness = TextLikeness([ten, nine, eight], 0.9)
    assert _grouped([ten, nine, eight], likeness.groups(0.9)) == {frozenset([ten, nine]), frozenset([eight])}
    assert _rows(likeness.doubles(np.array([1, 2]), np.array([0]), 0.9)) == [(0, 0, 0.9)]


def test_only_the_beginning_of_an_endless_text_is_compared() -> None:
    endless = " ".join(f"word{number}" for number in range(2_000_000))
    assert len(endless) > 10_000_000
    beginning = endless[:COMPARED_CHARS]
    first, second = TextLikeness([endless, beginning], 0.9).groups(0.9)
    assert first == second


def test_memory_grows_with_the_rows_of_a_template_and_not_with_their_pairs() -> None:
    peaks = []
    for rows in (500, 4_000):
        texts = [TEMPLATE.format(100_000 + row) for row in range(rows)]
        tracemalloc.start()
        likeness = TextLikeness(texts, 0.9)
        assert len(set(likeness.groups(0.9))) == 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * 8 * peaks[0]  # pairs: 64 times as many


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("two words", ["two", "words"]),
        ("这家餐厅", ["这家", "家餐", "餐厅"]),
        ("好", ["好"]),
        ("我买了iphone手机 ok", ["我买", "买了", "iphone", "手机", "ok"]),
        ("とてもいい", ["とて", "ても", "もい", "いい"]),
        ("บริการดี", ["บริ", "ริก", "ิกา", "การ", "ารด", "รดี"]),
        ("서비스가 좋아요", ["서비스가", "좋아요"]),
    ],
)
def test_words_of_scripts_without_spaces_are_shingles(text: str, units: list[str]) -> None:
    rows, words = all_words(pl.Series(["before", text, "after"]))
    assert [word for row, word in zip(rows.tolist(), words, strict=True) if row == 1] == units


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("这家餐厅的服务非常好，菜也很好吃，价格也很合理，我们全家都很满意，下次还会再来。编号一", "编号二"),
        ("ร้านนี้บริการดีมาก อาหารอร่อย ราคาไม่แพง ครอบครัวของเราพอใจมาก และจะกลับมาอีกแน่นอน หมายเลขก", "หมายเลขข"),
        ("この店のサービスはとても良くて料理もおいしかったのでまた家族と来たいと思います番号一", "番号二"),
        ("ហាងនេះមានសេវាកម្មល្អណាស់ម្ហូបឆ្ងាញ់តម្លៃសមរម្យគ្រួសារយើងពេញចិត្តណាស់លេខក", "លេខខ"),
        (
            "我昨天买的 iPhone 15 Pro 手机 电池只能用三个小时 屏幕也有划痕 希望你们尽快给我退款 订单甲",
            "订单乙",
        ),
    ],
)
def test_texts_without_spaces_that_differ_in_one_sign_are_near_duplicates(one: str, other: str) -> None:
    keys = [
        normalise(one),
        normalise(one[: -len(other)] + other),
        normalise("完全不同的一句话，说的是别的事情"),
    ]
    first, second, third = TextLikeness(keys, 0.9).groups(0.9)
    assert first == second != third
