from __future__ import annotations

import pytest

from components.validate_data.texts.text import excerpt, find_fault, normalise, repair


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I don't know.", "i dont know"),
        ("Don’t — stop", "don't stop!"),
        ("ﬁne  café", "FINE CAFE\u0301"),
        ("Straße", "STRASSE"),
        ("end.Begin", "end, begin"),
    ],
)
def test_texts_that_differ_in_form_alone_are_the_same(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [("fine 😂", "fine 😡"), ("!!!", "???"), ("a b", "ab")])
def test_texts_that_differ_in_meaning_stay_different(one: str, other: str) -> None:
    assert normalise(one) != normalise(other) != ""


def test_tabs_line_ends_and_every_script_are_free_of_faults() -> None:
    assert find_fault("a\tb\r\nc 😂 日本語 עברית e\u0301 \u200d") is None


def test_bytes_that_are_not_utf8_become_the_replacement_character() -> None:
    assert repair("caf\udce9 \ud800") == "caf\ufffd \ufffd"


def test_an_excerpt_is_short_printable_and_shows_the_place_asked_for() -> None:
    assert excerpt("a\nb\x1b[31m\udce9") == r"“a b\x1b[31m\xe9”"
    assert len(excerpt("word " * 2_000_000)) <= 125
    assert "needle" in excerpt("hay " * 1000 + "needle" + " hay" * 1000, around=4000)
