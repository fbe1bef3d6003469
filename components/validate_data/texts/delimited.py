"""Split comma-, semicolon-, tab- or bar-separated text into rows, surviving stray quotes.

A quote at the start of a field is ambiguous: it opens a quoted field, which may run over several lines, or
it belongs to a sentence nobody quoted. A lenient CSV reader takes it for the first and swallows rows up to
the next quote. Here each line is tried as a row of its own first, and a quote counts as text where that
gives the right number of fields; only a file in which some line cannot be a row is read as one that has
line ends inside quotes.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manifests.errors import DataError

if TYPE_CHECKING:
    from _csv import Reader

COMMA, SEMICOLON, TAB, BAR = ",", ";", "\t", "|"
DELIMITER_NAMES = {COMMA: "comma", SEMICOLON: "semicolon", TAB: "tab", BAR: "bar"}
SHOWN_LINES = 3
QUOTE = '"'


@dataclass(frozen=True)
class Row:
    """The fields of one row and the line, from 1, that it starts on."""

    line: int
    fields: tuple[str, ...]


def split_rows(content: str, delimiter: str, where: str) -> list[Row]:
    """All rows that are not blank, the header included; each has as many fields as the first.

    Raises:
        DataError: Rows have different numbers of fields, or a quote is never closed.
    """
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    rows = list(_rows_by_line(lines, delimiter))
    problems = _uneven(rows)
    if problems and QUOTE in content:
        try:
            rows_by_quote = list(_rows_by_quote(lines, delimiter))
        except csv.Error as error:
            problems.append(f"read with line ends inside quotes: {error}")
        else:
            rows, problems = rows_by_quote, _uneven(rows_by_quote)
    if problems:
        shown = "; ".join(problems[:SHOWN_LINES])
        raise DataError(
            f"{where}: {len(problems)} rows do not have the {len(rows[0].fields)} fields of the first, "
            f"separated by {DELIMITER_NAMES[delimiter]}: {shown}. Quote fields that hold the separator"
        )
    return rows


def split_line(line: str, delimiter: str) -> tuple[str, ...]:
    """The fields of a line that is a row of its own; a quote that is not well-formed is text."""
    if QUOTE in line:
        try:
            return tuple(next(_csv_reader([line], delimiter)))
        except csv.Error:
            pass
    return tuple(line.split(delimiter))


def _rows_by_line(lines: Iterable[str], delimiter: str) -> Iterator[Row]:
    width = None
    for number, line in enumerate(lines, start=1):
        if not line.strip(" "):
            continue
        fields = split_line(line, delimiter)
        width = width or len(fields)
        if len(fields) != width and line.count(delimiter) == width - 1:
            fields = tuple(line.split(delimiter))
        yield Row(number, fields)


def _rows_by_quote(lines: Iterable[str], delimiter: str) -> Iterator[Row]:
    reader = _csv_reader((line + "\n" for line in lines), delimiter)
    start = 1
    for fields in reader:
        if fields:
            yield Row(start, tuple(fields))
        start = reader.line_num + 1


def _uneven(rows: list[Row]) -> list[str]:
    return [
        f"line {row.line} has {len(row.fields)}" for row in rows if len(row.fields) != len(rows[0].fields)
    ]


def _csv_reader(lines: Iterable[str], delimiter: str) -> Reader:
    csv.field_size_limit(sys.maxsize)  # the default cuts a run off at a text of 131,072 characters
    return csv.reader(lines, delimiter=delimiter, strict=True)
