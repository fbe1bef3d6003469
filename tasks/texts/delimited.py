"""Split comma-, semicolon-, tab- or bar-separated text into rows.

If RFC 4180 reads a file without a fault, with as many fields in each row as in the first, the file is read
that way: fields in quotes may hold separators and line ends, and a quote in them is doubled. Files with a
backslash before such quotes instead, as MySQL and Spark write them, are read too.

In other files quotes are part of the text: a sentence may begin with a quote, and a lenient CSV reader would
merge all rows up to the next quote. In these files each line is one row. If a line could also begin a
quoted text of several lines, the file is refused, because the two cases cannot be told apart.
"""

from __future__ import annotations

import csv
import io
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gauntlet.manifests.errors import DataError

if TYPE_CHECKING:
    from _csv import Reader

COMMA, SEMICOLON, TAB, BAR = ",", ";", "\t", "|"
DELIMITER_NAMES = {COMMA: "comma", SEMICOLON: "semicolon", TAB: "tab", BAR: "bar"}
SHOWN_LINES = 3
QUOTE = '"'
ESCAPED = re.compile(r'(\\+)"')
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[ \t]*(?:\r\n|\r|\n|$)', re.IGNORECASE)
PRIVATE_USE = range(0xE000, 0xF8FF)


class QuoteError(DataError):
    """A quote that may be text, or may open a text of several lines."""


@dataclass(frozen=True)
class Row:
    """The fields of one row and the line, from 1, that it starts on."""

    line: int
    fields: tuple[str, ...]


def take_separator(content: str, where: str) -> tuple[str | None, str]:
    """The separator that a first line such as `sep=;`, which Excel reads, names, and the text without it.

    The line is left blank, so that the lines after it keep their numbers.

    Raises:
        DataError: The separator is not one of `DELIMITER_NAMES`.
    """
    found = SEPARATOR_LINE.match(content)
    if found is None:
        return None, content
    if found[1] not in DELIMITER_NAMES:
        raise DataError(
            f"{where} line 1: found {found[0].strip()}, expected sep= and one of "
            f"{', '.join(DELIMITER_NAMES.values())}. Save the file with one of these separators"
        )
    return found[1], "\n" + content[found.end() :]


def split_rows(content: str, delimiter: str, where: str) -> list[Row]:
    """All rows that are not blank, the header included; each has as many fields as the first.

    Lines end in LF, CR LF or, in old files of the Mac, CR.

    Raises:
        DataError: Rows have different numbers of fields, or a quote is never closed.
    """
    try:
        rows = list(_read(content, delimiter))
        problems = _uneven(rows)
    except csv.Error as error:
        rows, problems = [], [str(error)]
    if not problems:
        return rows
    if QUOTE not in content:
        by_line = list(_rows_by_line(_lines(content), delimiter))
        if _uneven(by_line):
            raise _refusal(where, by_line, delimiter)
        return by_line
    return _read_escaped(content, delimiter) or _guess(content, delimiter, where, problems[0])


def read_header(content: str, delimiter: str) -> list[str]:
    """The `names_of` the first row, which may have line ends in quotes."""
    try:
        return names_of(next(_read(content, delimiter)))
    except csv.Error:
        return names_of(next(_rows_by_line(_lines(content), delimiter)))


def names_of(header: Row) -> list[str]:
    """The row with each field stripped of spaces and in NFC, in which `é` is one character."""
    return [unicodedata.normalize("NFC", field.strip()) for field in header.fields]


def _read(content: str, delimiter: str) -> Iterator[Row]:
    """The rows as RFC 4180 reads them. Line ends in quotes become LF.

    Raises:
        csv.Error: It is not well-formed.
    """
    reader = csv_reader(io.StringIO(content, newline=""), delimiter)
    start = 1
    try:
        for fields in reader:
            if len(fields) > 1 or any(field.strip(" ") for field in fields):
                yield Row(start, tuple(field.replace("\r\n", "\n").replace("\r", "\n") for field in fields))
            start = reader.line_num + 1
    except csv.Error as error:
        if "end of data" in str(error):
            raise csv.Error(f"the quote that opens in line {start} is never closed") from None
        raise csv.Error(f"line {reader.line_num} has text after a closing quote") from None


def _read_escaped(content: str, delimiter: str) -> list[Row] | None:
    """The rows of a file with a backslash before each quote in a quoted field; None for any other file.

    Backslashes that precede no quote are text.
    """
    if not ESCAPED.search(content):
        return None
    quote = next(chr(code) for code in PRIVATE_USE if chr(code) not in content)

    def unescaped(found: re.Match[str]) -> str:
        count = len(found[1])
        return "\\" * (count // 2) + (quote if count % 2 else QUOTE)

    try:
        rows = list(_read(ESCAPED.sub(unescaped, content), delimiter))
    except csv.Error:
        return None
    if _uneven(rows):
        return None
    return [Row(row.line, tuple(field.replace(quote, QUOTE) for field in row.fields)) for row in rows]


def _guess(content: str, delimiter: str, where: str, problem: str) -> list[Row]:
    """Each line as a row of its own.

    Raises:
        DataError: Lines have different numbers of fields.
        QuoteError: One could begin a text of several lines.
    """
    lines = _lines(content)
    rows = list(_rows_by_line(lines, delimiter))
    if _uneven(rows):
        raise _refusal(where, rows, delimiter, f"{problem}; with each line as a row of its own, ")
    for row in rows:
        last = _last_line(lines, row.line, delimiter, len(row.fields))
        if last > row.line:
            raise QuoteError(
                f"{where} line {row.line}: this quote may close in line {last}, or be part of the text. "
                f"The file as a whole is not valid CSV: {problem}. Write each quote in a quoted "
                "field twice, and quote the fields that begin with one"
            )
    return rows


def _last_line(lines: list[str], first: int, delimiter: str, width: int) -> int:
    """The line that a row of this width ends in when a quote that its first line opens may span lines."""
    line = lines[first - 1]
    if width == 1 or line.count(QUOTE) % 2 == 0:
        return first
    reader = csv_reader((text + "\n" for text in lines[first - 1 :]), delimiter)
    try:
        fields = next(reader)
    except csv.Error:
        return first
    return first + reader.line_num - 1 if len(fields) == width else first


def _refusal(where: str, rows: list[Row], delimiter: str, lead: str = "") -> DataError:
    problems = _uneven(rows)
    shown = "; ".join(problems[:SHOWN_LINES])
    return DataError(
        f"{where}: {lead}{len(problems)} rows do not have the {len(rows[0].fields)} fields of the first, "
        f"separated by {DELIMITER_NAMES[delimiter]}: {shown}. Quote fields that hold the separator"
    )


def _lines(content: str) -> list[str]:
    if "\n" not in content:
        return content.split("\r")
    return [line.removesuffix("\r") for line in content.split("\n")]


def _rows_by_line(lines: Iterable[str], delimiter: str) -> Iterator[Row]:
    width = None
    for number, line in enumerate(lines, start=1):
        if not line.strip(" "):
            continue
        fields = _split_line(line, delimiter)
        width = width or len(fields)
        if len(fields) != width and line.count(delimiter) == width - 1:
            fields = tuple(line.split(delimiter))
        yield Row(number, fields)


def _split_line(line: str, delimiter: str) -> tuple[str, ...]:
    """The fields of a line that is one row; a quote that is not valid CSV is text."""
    if QUOTE in line:
        try:
            return tuple(next(csv_reader([line], delimiter)))
        except csv.Error:
            pass
    return tuple(line.split(delimiter))


def _uneven(rows: list[Row]) -> list[str]:
    return [
        f"line {row.line} has {len(row.fields)}" for row in rows if len(row.fields) != len(rows[0].fields)
    ]


def csv_reader(lines: Iterable[str], delimiter: str) -> Reader:
    """A reader that RFC 4180 allows no deviation, nor a text any length."""
    csv.field_size_limit(sys.maxsize)  # the default fails at a text of 131,072 characters
    return csv.reader(lines, delimiter=delimiter, strict=True)
