"""What `text.py` says of one text, found for all texts of a column by polars.

A few texts need what polars does not have: a joiner between two emoji, or a character that is newer than the
Unicode of this Python. These alone are left to the function of one text.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import groupby

import polars as pl

from gauntlet.components.validate_data.text import (
    CONTROLS,
    FORMATS,
    PUNCTUATION,
    SHOWN_AS_NOTHING,
    TATWEEL,
    normalise,
)

NOT_PLAIN = "[^ -~]"
FAULT = r"[\x{00}-\x{08}\x{0b}\x{0c}\x{0e}-\x{1f}\x{7f}-\x{9f}\x{fffd}]"
"""As in `text.py`, without surrogates, which columns cannot have."""

INVISIBLE = f"{SHOWN_AS_NOTHING}{CONTROLS}{FORMATS}"
KEEPING = "\u200d\U0001f3f4"
"""Characters that may stay themselves, or keep those after them, though they are invisible."""

PRIVATE_USE = r"\x{e000}-\x{f8ff}\x{f0000}-\x{ffffd}\x{100000}-\x{10fffd}"


def normalise_all(texts: pl.Series) -> pl.Series:
    """`normalise` of each text; none is missing."""
    exotic = texts.str.contains(NOT_PLAIN)
    others = texts.filter(exotic)
    visible = others.str.replace_all(f"[{INVISIBLE}]", "").str.normalize("NFKC")
    folded = merged(texts, exotic, visible).str.replace_many(_folds())
    keys = folded.str.replace_all("  +", " ").str.strip_chars(" ")
    special = keys == ""
    special |= merged(special, exotic, others.str.contains(_exceptional()))
    left = [normalise(text) for text in texts.filter(special)]
    return merged(keys, special, pl.Series(left, dtype=pl.String))


def are_blank(texts: pl.Series) -> pl.Series:
    """`is_blank` of each text; null where it is missing."""
    return texts.str.contains(f"^[{_spaces()}{INVISIBLE}]*$")


def are_faulty(texts: pl.Series) -> pl.Series:
    """Whether `find_fault` finds a fault in each text; null where it is missing."""
    return texts.str.contains(FAULT)


def as_json(texts: pl.Series) -> pl.Series:
    """Each text as `json.dumps(text, ensure_ascii=False)` writes it."""
    return ('"' + texts.str.replace_many(_escapes()) + '"').rename(texts.name)


def merged(column: pl.Series, where: pl.Series, others: pl.Series) -> pl.Series:
    """The column with the values `others`, in their order, in the places of a mask."""
    if others.is_empty():
        return column
    frame = pl.DataFrame({"where": where}).select(
        pl.when("where").then(pl.col("where").cum_sum() + (len(column) - 1)).otherwise(pl.int_range(pl.len()))
    )
    return pl.concat([column, others.cast(column.dtype)]).gather(frame.to_series())


@cache
def _folds() -> dict[str, str]:
    """What casefolding and the rules for punctuation make of each character that they change."""
    folds = {}
    for character in _characters():
        folded = character.casefold().replace(TATWEEL, "").translate(PUNCTUATION)
        folded = "".join(" " if one.isspace() else one for one in folded)
        if folded != character:
            folds[character] = folded
    return folds


@cache
def _escapes() -> dict[str, str]:
    return {one: json.dumps(one)[1:-1] for one in [*map(chr, range(0x20)), '"', "\\"]}


@cache
def _spaces() -> str:
    return "".join(character for character in _characters() if character.isspace())


@cache
def _exceptional() -> str:
    """A class of all characters but those that this Python knows and that are not in `KEEPING`."""
    known = "".join(character for character in _characters() if character not in KEEPING)
    return f"[^{''.join(_ranges(known))}{PRIVATE_USE}]"


@cache
def _characters() -> str:
    """The characters that this Python's Unicode names, without those for private use."""
    return "".join(
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(character) not in ("Cn", "Co", "Cs")
    )


def _ranges(characters: str) -> Iterator[str]:
    """Ranges of a regular expression for characters in the order of their codes."""
    runs = groupby(enumerate(map(ord, characters)), key=lambda pair: pair[1] - pair[0])
    for _, run in runs:
        codes = [code for _, code in run]
        yield rf"\x{{{codes[0]:x}}}-\x{{{codes[-1]:x}}}"
