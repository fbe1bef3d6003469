from __future__ import annotations

import pytest

from gauntlet.tasks.therapy.phrases import phrases, sentences, without_quotes

SAD = phrases(deniable=["sad"], fixed=["never glad"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I am sad.", True),
        ("SAD", True),
        ("I am not sad.", False),
        ("I’m not sad", False),
        ("I am never really very much sad.", False),
        ("I am not glad, but sad.", True),
        ("I was not there. I am sad.", True),
        ("I can't stop being sad.", True),
        ("Not sad, sad!", True),
        ("A crusader.", False),
        ("I was never glad.", True),
        ("", False),
    ],
)
def test_a_phrase_is_found_unless_its_clause_denies_it(text: str, found: bool) -> None:
    assert SAD.found_in(text) is found


def test_sentences_keep_their_marks_and_marks_alone_are_none() -> None:
    assert sentences("How are you?! Fine.\n- \n42. It is 3 o'clock\nBye") == [
        "How are you?!",
        "Fine.",
        "It is 3 o'clock",
        "Bye",
    ]


def test_what_is_quoted_is_left_out() -> None:
    assert without_quotes('He said "get out" and “now”.').split() == ["He", "said", "and", "."]
