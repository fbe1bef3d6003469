from __future__ import annotations

import math
import random
import tracemalloc
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import polars as pl
import pytest

from gauntlet.components.validate_data.duplicates import Doubles, Ints
from gauntlet.components.validate_data.text import normalise
from gauntlet.tasks.texts.similarity import COMPARED_CHARS, TextLikeness
from gauntlet.tasks.texts.words import all_words

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


class Comparison:
    """The first similar text, by comparing everything.

    Of the texts with the rarest word in common, those come first of whose kind one was known first; a kind is
    the number of words and that word's place among them. Of these the one that was known first.
    """

    def __init__(self, texts: Sequence[str], at_least: float, least: float) -> None:
        counts = Counter(word for text in texts for word in set(text.split()))
        self.words = {
            text: sorted(set(text.split()), key=lambda word: (counts[word], word)) for text in texts
        }
        self.at_least = at_least
        pairs = [(one, other) for one, other in combinations(texts, 2) if self.score(one, other) >= least]
        self.compared = {text for pair in pairs for text in pair}

    def score(self, one: str, other: str) -> float:
        """Shared words over all words."""
        both = {*self.words[one], *self.words[other]}
        return len(set(self.words[one]) & set(self.words[other])) / max(1, len(both))

    def kind(self, text: str, word: str) -> tuple[str, int, int]:
        """The size of the text and the place of the word."""
        return word, len(self.words[text]), self.words[text].index(word)

    def first(self, text: str, known: Mapping[str, int]) -> tuple[int, float] | None:
        """The number of the first of the known texts, and its similarity."""
        first_of_kind: dict[tuple[str, int, int], int] = {}
        for other, number in known.items():
            rare = len(self.words[other]) - math.ceil(self.at_least * len(self.words[other]) - 1e-9) + 1
            for word in self.words[other][:rare] if other in self.compared else ():
                first_of_kind.setdefault(self.kind(other, word), number)
        found = []
        for other, number in known.items():
            if (score := self.score(text, other)) >= self.at_least:
                word = next(word for word in self.words[text] if word in self.words[other])
                order = self.words[text].index(word), first_of_kind[self.kind(other, word)], number
                found.append((order, (number, score)))
        return min(found)[1] if found else None


def _hostile_texts(seed: int) -> list[str]:
    """Ties, templates, words in another order, texts of one word, no word, or very many."""
    chance = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(chance.choice([4, 12, 40]))]
    template = chance.choices(vocabulary, k=chance.choice([3, 10, 25]))
    endless = [f"long{number}" for number in range(1_000)]
    texts = ["", "!", "one", "one one", " ".join(endless), " ".join([*endless[20:], "end"])]
    for _ in range(50):
        changed = list(template)
        for _ in range(chance.randint(0, 2)):
            changed[chance.randrange(len(changed))] = chance.choice([*vocabulary, f"u{chance.randrange(9)}"])
        texts.append(" ".join(changed))
        texts.append(" ".join(chance.choices(vocabulary, k=chance.randint(1, 12))))
    chance.shuffle(texts)
    return list(dict.fromkeys(texts))


@pytest.mark.parametrize("at_once", [1, 20, 1 << 18])
@pytest.mark.parametrize(
    ("seed", "at_least", "least"), [(1, 0.6, 0.6), (2, 0.75, 0.7), (3, 0.9, 0.8), (4, 1, 0.9)]
)
def test_partners_are_those_that_comparing_everything_in_order_finds(
    seed: int, at_least: float, least: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("PAIRS_AT_ONCE", "ENTRIES_AT_ONCE", "WORDS_AT_ONCE", "MOST_DECIDED", "TEXTS_AT_ONCE"):
        monkeypatch.setattr(f"gauntlet.tasks.texts.similarity.{limit}", at_once)
    texts = _hostile_texts(seed)
    likeness, comparison = TextLikeness(texts, least), Comparison(texts, at_least, least)
    order = random.Random(seed).choices(range(len(texts)), k=2 * len(texts))
    known: dict[str, int] = {}
    expected = []
    for row, number in enumerate(order):
        if texts[number] not in known:
            if (found := comparison.first(texts[number], known)) is None:
                known[texts[number]] = row
            else:
                expected.append((row, *found))
    assert expected
    assert _rows(likeness.repeats(np.array(order), at_least)) == expected
    others = {texts[number]: at for at, number in enumerate(range(1, len(texts), 2))}
    found_of = [comparison.first(text, others) for text in texts[::2]]
    doubles = likeness.doubles(np.arange(0, len(texts), 2), np.arange(1, len(texts), 2), at_least)
    assert _rows(doubles) == [(row, *found) for row, found in enumerate(found_of) if found is not None]


def test_a_template_with_many_rows_is_one_chain_of_which_one_row_is_kept() -> None:
    texts = [TEMPLATE.format(number) for number in range(20_000)]
    likeness = TextLikeness(texts, 0.8)
    assert len(set(likeness.groups(0.9).tolist())) == 1
    assert likeness.repeats(np.arange(len(texts)), 0.9).rows.tolist() == list(range(1, len(texts)))
    doubles = likeness.doubles(np.arange(10_000), np.arange(10_000, 20_000), 0.9)
    assert doubles.rows.tolist() == list(range(10_000))


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
