"""What a text is to the checks: its faults, its normal form, and the piece of it that is shown."""

from __future__ import annotations

import re
import unicodedata

KEY_FORM = "normal form 1"
"""What `normalise` makes. Count it up when a text gets another normal form, as fingerprints then differ."""

EXCERPT_CHARS = 120
EXCERPT_LEAD = 40
REPLACEMENT = "\ufffd"

# Lone surrogates stand for bytes that were not UTF-8 (errors="surrogateescape"), U+FFFD for bytes that
# somebody lost before. Tab and line ends are text; every other C0 and C1 control character is not.
_FAULT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE_SPACE = re.compile("[ \t\r\n]+")
_APOSTROPHES = "'’‘ʼ"


class _Punctuation(dict[int, str]):
    """A table for `str.translate` that learns each character when it first meets it."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character in _APOSTROPHES:
            replacement = ""
        elif unicodedata.category(character).startswith("P"):
            replacement = " "
        else:
            replacement = character
        self[code] = replacement
        return replacement


_PUNCTUATION = _Punctuation()


def normalise(text: str) -> str:
    """The form in which texts are compared: NFKC, casefolded, without punctuation, single spaces.

    An apostrophe vanishes ("don't" is "dont"), other punctuation separates words. Symbols and emoji stay,
    for they carry meaning. A text of nothing but punctuation keeps it, or all such texts would be alike.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_PUNCTUATION).split()) or " ".join(folded.split())


def find_fault(text: str) -> str | None:
    """The first encoding fault in words, with its position in characters from 1, or None."""
    match = _FAULT.search(text)
    if match is None:
        return None
    character = match.group()
    return f"{_fault_name(character)} at character {match.start() + 1}: {excerpt(text, around=match.start())}"


def repair(text: str) -> str:
    """The text with U+FFFD for every byte that was not UTF-8, so that it can be written again."""
    return _SURROGATE.sub(REPLACEMENT, text)


def excerpt(text: str, around: int = 0) -> str:
    """At most about 120 printable characters, in quotes; control characters are shown as escapes."""
    start = max(0, around - EXCERPT_LEAD)
    piece = _LINE_SPACE.sub(" ", text[start : start + EXCERPT_CHARS])
    shown = "".join(c if c.isprintable() else _escape(c) for c in piece)
    return f"“{'…' if start else ''}{shown}{'…' if start + EXCERPT_CHARS < len(text) else ''}”"


def _fault_name(character: str) -> str:
    if character == REPLACEMENT:
        return "replacement character U+FFFD"
    if "\udc80" <= character <= "\udcff":
        return f"byte 0x{ord(character) - 0xDC00:02x}, which is not UTF-8,"
    if "\ud800" <= character <= "\udfff":
        return f"half a surrogate pair U+{ord(character):04X}"
    return f"control character U+{ord(character):04X}"


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
