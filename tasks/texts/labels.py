"""Labels of texts: the name that a value of a file means, and the names that it may have meant."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

from gauntlet.components.validate_data.text import excerpt, is_blank
from gauntlet.tasks.texts.data import is_missing

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
MAX_DIGITS = 18
SHOWN_LABELS = 10


def resolve_label(value: Any, labels: Sequence[str]) -> str | None:
    """The label's name; the value as text if it is not one of `labels`; None if it is missing.

    A value that is one of `labels`, as text, is that label in every file format: the integer 1 and the
    boolean true are the labels `1` and `true` if these are labels. If no label is a number, a whole number is
    an index into `labels`, as in files of the Hugging Face hub. Labels are compared in NFC: `é` may be one
    character or two.
    """
    if is_missing(value):
        return None
    if isinstance(value, str):
        spellings = [value.strip()]
    else:
        spellings = [json.dumps(value, ensure_ascii=False, default=str), str(value)]
        if isinstance(value, float) and value.is_integer():  # an integer column with gaps arrives as floats
            spellings.insert(0, str(int(value)))
        elif isinstance(value, int) and not isinstance(value, bool):  # JSON has 1 for 1.0 in a float column
            spellings.append(f"{value}.0")
    known = _by_form(tuple(labels))
    for spelling in spellings:
        if (form := unicodedata.normalize("NFC", spelling)) in known:
            return known[form]
    found = unicodedata.normalize("NFC", spellings[0])
    if found.isascii() and found.isdecimal() and not any(map(NUMBER.fullmatch, labels)):
        index = int(found[:MAX_DIGITS])
        if index < len(labels):
            return labels[index]
    return None if is_blank(found) else found


@cache
def _by_form(labels: tuple[str, ...]) -> dict[str, str]:
    return {unicodedata.normalize("NFC", label): label for label in labels}


def describe_unknown(found: Iterable[str], labels: Sequence[str]) -> list[str]:
    """A line for each label that the manifest lacks, the most frequent first, with the nearest one."""
    counts = Counter(found).most_common()
    by_case = {label.casefold(): label for label in labels}
    lines = []
    for label, count in counts[:SHOWN_LABELS]:
        nearest = get_close_matches(label.casefold(), by_case, n=1)
        meant = f", nearest: {by_case[nearest[0]]}" if nearest else ""
        lines.append(f"label {excerpt(label)}: {count:,} row{'' if count == 1 else 's'}{meant}")
    more = len(counts) - SHOWN_LABELS
    return lines + ([f"and {more} more labels"] if more > 0 else [])
