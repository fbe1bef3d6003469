"""A column of texts has, text by text, what the function of one text says: over all of Unicode."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pytest

from gauntlet.components.validate_data.columns import are_blank, are_faulty, as_json, normalise_all
from gauntlet.components.validate_data.text import find_fault, is_blank, normalise

CHARACTERS = [one for one in map(chr, range(sys.maxunicode + 1)) if not "\ud800" <= one <= "\udfff"]
# Those that meet in the rules: joiners, selectors, tags, accents, jamo, final sigmas, apostrophes, spaces.
MEETING = list(
    "\u200d\ufe0f🏴\U000e0067\U000e007f\u0301\u0327\u0345 \t\n\x1c!?'’\u0640\u00ad\u1100\u1161\u11a8"
)
MEETING += list("❤🔥ΣσςAaİß")
PAIRS: list[tuple[Callable[[pl.Series], pl.Series], Callable[[str], Any]]] = [
    (normalise_all, normalise),
    (are_blank, is_blank),
    (are_faulty, lambda text: find_fault(text) is not None),
    (as_json, lambda text: json.dumps(text, ensure_ascii=False)),
]


def _random_texts(number: int) -> list[str]:
    draw = random.Random(7)
    return [
        "".join(
            draw.choice(MEETING if draw.random() < 0.7 else CHARACTERS) for _ in range(draw.randint(0, 9))
        )
        for _ in range(number)
    ]


@pytest.mark.parametrize(("of_column", "of_text"), PAIRS)
@pytest.mark.parametrize(
    "texts", [CHARACTERS, [f"a{one}b {one}" for one in CHARACTERS], _random_texts(50_000)]
)
def test_a_column_has_for_each_text_what_the_function_of_one_text_finds(
    texts: Sequence[str], of_column: Callable[[pl.Series], pl.Series], of_text: Callable[[str], Any]
) -> None:
    found = of_column(pl.Series(texts, dtype=pl.String)).to_list()
    assert [ascii(text) for text, one in zip(texts, found, strict=True) if one != of_text(text)] == []


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Don’t — STOP!", "dont stop"),
        ("ﬁne  CAFE\u0301", "fine café"),
        ("Straße\u00a0\tﬃ", "strasse ffi"),
        ("!!!", "!!!"),
        ("👨\u200d👩 سـلام", "👨\u200d👩 سلام"),
    ],
)
def test_normal_forms_are_those_of_the_documentation(text: str, key: str) -> None:
    assert normalise_all(pl.Series([text])).to_list() == [key]


def test_a_column_without_texts_stays_empty() -> None:
    assert normalise_all(pl.Series([], dtype=pl.String)).to_list() == []
