"""Texts in checks: their encoding faults, their normal form, and the excerpt that is shown."""

from __future__ import annotations

import re
import sys
import unicodedata

KEY_FORM = "normal form 1"
"""The version of `normalise`. Increase it when the normal form changes, since fingerprints then change."""

EXCERPT_CHARS = 120
EXCERPT_LEAD = 40
REPLACEMENT = "\ufffd"

# Lone surrogates stand for bytes that were not UTF-8 (errors="surrogateescape"), U+FFFD for bytes that were
# lost before. Tab and line ends are text; every other C0 and C1 control character is a fault.
_FAULT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE_SPACE = re.compile("[ \t\r\n]+")
_APOSTROPHES = "'’‘ʼ"

# Invisible characters that are not format characters: joiners of accents, Hangul fillers, vowels of Khmer
# that are never written, variation selectors, the blank of Braille.
SHOWN_AS_NOTHING = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\uffa0\ufe00-\ufe0f\ufff0-\ufff8"
    "\U000e0100-\U000e01ef"
)
CONTROLS = "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # without those that are white space
FORMATS = "".join(
    character for character in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(character) == "Cf"
)
TATWEEL = "\u0640"
_PICTURE = (
    "\u2190-\u21ff\u2300-\u23ff\u2460-\u24ff\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff\U0001f000-\U0001faff"
)
# A joiner between two emoji, and the tags after a black flag, make another emoji, so they stay.
_INVISIBLE = re.compile(
    f"(?P<kept>(?<=[{_PICTURE}\ufe0f])\u200d(?=[{_PICTURE}])|\U0001f3f4[\U000e0020-\U000e007f]+)"
    f"|[{SHOWN_AS_NOTHING}{CONTROLS}{re.escape(FORMATS)}]"
)


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


PUNCTUATION = _Punctuation()


def normalise(text: str) -> str:
    """The form in which texts are compared: NFKC, casefolded, without punctuation, single spaces.

    "don't" is "dont"; other punctuation separates words. Symbols and emoji stay. Invisible characters are
    removed, because BERT's tokenizers drop them, and so is tatweel, which only stretches an Arabic word. A
    text without anything else keeps its punctuation, or all such texts would be equal.
    """
    folded = unicodedata.normalize("NFKC", without_invisible(text)).casefold().replace(TATWEEL, "")
    return " ".join(folded.translate(PUNCTUATION).split()) or " ".join(folded.split()) or text


def without_invisible(text: str) -> str:
    """The text without invisible characters such as soft hyphens; what joins several emoji to one stays."""
    if text.isascii() and text.isprintable():
        return text
    return _INVISIBLE.sub(lambda found: found["kept"] or "", text)


def is_blank(text: str) -> bool:
    """Whether a text consists only of white space and invisible characters."""
    return not without_invisible(text).strip()


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
    shown = piece if piece.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in piece)
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
