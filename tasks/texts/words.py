"""Cut a normalised text into the units that the checks compare and the statistics count.

A unit is the text between two spaces. In scripts without spaces between words a whole sentence would be one
unit, so a run of their characters is cut into shingles instead: every sequence of two or three neighbouring
characters. Two are enough where a character is a syllable or more (Chinese, Japanese). Alphabets (Thai, Lao,
Khmer, Burmese …) need three, or long texts would have most shingles in common.
"""

from __future__ import annotations

import re

# Han with its extensions, kana and Bopomofo.
_SYLLABIC = (
    "々〆〇\u3041-\u30ff\u3105-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
# Thai, Lao, Burmese, Khmer, Tai Le, New Tai Lue, Tai Tham, Balinese, Javanese, Tai Viet, Burmese extended.
_ALPHABETIC = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aad\u1b00-\u1b7f"
    "\ua980-\ua9ff\uaa60-\uaadf"
)
_RUN = re.compile(
    f"(?P<syllabic>[{_SYLLABIC}]+)|(?P<alphabetic>[{_ALPHABETIC}]+)|[^{_SYLLABIC}{_ALPHABETIC}]+"
)
_UNSPACED = re.compile(f"[{_SYLLABIC}{_ALPHABETIC}]")
SYLLABIC_SIGNS, ALPHABETIC_SIGNS = 2, 3


def words_of(text: str) -> list[str]:
    """The units of a text in order, repeated as often as they occur."""
    if text.isascii() or not _UNSPACED.search(text):
        return text.split()
    return [unit for word in text.split() for unit in _units(word)]


def _units(word: str) -> list[str]:
    units = []
    for run in _RUN.finditer(word):
        signs = {"syllabic": SYLLABIC_SIGNS, "alphabetic": ALPHABETIC_SIGNS}.get(run.lastgroup or "", 0)
        piece = run.group()
        if not signs or len(piece) <= signs:
            units.append(piece)
        else:
            units += [piece[start : start + signs] for start in range(len(piece) - signs + 1)]
    return units
