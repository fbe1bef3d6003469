"""Decode the text of a file: by the manifest's encoding, a byte order mark, or as UTF-8."""

from __future__ import annotations

import codecs

from gauntlet.manifests.errors import DataError

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""The longer ones first: that of UTF-32 begins like that of UTF-16."""
EXAMINED_BYTES = 1_000
MARK = "\ufeff"


def decode(data: bytes, name: str, encoding: str | None = None) -> str:
    """The text, without a byte order mark. In a UTF-8 file, an invalid byte becomes a lone surrogate.

    Raises:
        DataError: The bytes are not text in the declared `encoding` or in that of the mark, or they look like
            UTF-16 and have no mark.
    """
    declared = encoding or next((known for mark, known in MARKS.items() if data.startswith(mark)), None)
    if declared is None or codecs.lookup(declared).name in ("utf-8", "utf-8-sig"):
        _require_no_wide(data, name)
        return data.decode("utf-8-sig", errors="surrogateescape")
    try:
        return data.decode(declared).removeprefix(MARK)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(declared, errors="ignore").count("\n") + 1
        found = " ".join(f"0x{byte:02x}" for byte in data[error.start : error.end])
        said = "Correct dataset.encoding" if encoding else "Set dataset.encoding"
        raise DataError(
            f"{name} line {line}: found the bytes {found}, expected {declared} text. {said}, or the file"
        ) from None


def _require_no_wide(data: bytes, name: str) -> None:
    """Every other byte of Western text in UTF-16 is zero."""
    examined = data[:EXAMINED_BYTES]
    for start, order in ((1, "le"), (0, "be")):
        if examined[start::2].count(0) > len(examined) // 4:
            raise DataError(
                f"{name}: found a zero in every other byte, as in UTF-16, expected UTF-8. "
                f"Set dataset.encoding: utf-16-{order}"
            )
