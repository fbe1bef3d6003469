"""Write every row that a check found to one CSV file (RFC 4180), so that people can correct the rows.

A spreadsheet runs a cell that begins like a formula, and the cells come from the data, so such a cell gets an
apostrophe before it: https://owasp.org/www-community/attacks/CSV_Injection
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from gauntlet.components.validate_data.checks import CheckedTable, Finding
from gauntlet.components.validate_data.text import excerpt
from gauntlet.contracts.document import replacing

HEADER = ("file", "line", "check", "verdict", "value", "reason")
TEXT_COLUMNS = ("text", "opening", "shown")  # the first of these that a table has represents its rows
ROWS_AT_ONCE = 10_000
_LINE = re.compile(r"(?P<file>.+) line (?P<line>\d+)")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write_rejected(path: Path, table: pd.DataFrame, checked: CheckedTable) -> int:
    """Write the rows of every check that did not pass, and return the number of lines.

    A row that several checks found has a line for each. `line` is a number if the file has lines, else the
    place as the report shows it, such as `row 3`. Values are the beginnings of what the row holds.

    Args:
        path: The file.
        table: The table as it was read, with the column `place`.
        checked: The results of all checks, and the rows that they found. Checks on classes find no rows.
    """
    lines = 0
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for result in checked.results:
            if result.verdict != "pass" and (finding := checked.findings.get(result.check)):
                for name, number, value, reason in _lines(table, finding):
                    cells = (name, number, result.check, result.verdict, value, reason)
                    writer.writerow(map(harmless, cells))
                    lines += 1
    return lines


def harmless(cell: str) -> str:
    """The cell, with an apostrophe before it if a spreadsheet would run it as a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell


def _lines(table: pd.DataFrame, finding: Finding) -> Iterator[tuple[str, str, str, str]]:
    """File, line, value and reason of each row that a check found."""
    column = finding.column or next((name for name in TEXT_COLUMNS if name in table.columns), "place")
    for start in range(0, len(finding.affected), ROWS_AT_ONCE):
        rows = finding.affected[start : start + ROWS_AT_ONCE]
        places, values = table.loc[rows, "place"].tolist(), table.loc[rows, column].tolist()
        reasons = finding.reasons(table, rows) if finding.reasons else [""] * len(rows)
        for place, value, reason in zip(places, values, reasons, strict=True):
            yield (*_place(place), _shown(value), reason)


def _place(place: str) -> tuple[str, str]:
    """File and line of a place like `train.csv line 12`; else the words after the file name as the line.

    A place that ends in the suffix of a file is that file.
    """
    if match := _LINE.fullmatch(place):
        return match["file"], match["line"]
    if PurePosixPath(place).suffix:
        return place, ""
    file, _, rest = place.rpartition(" ")
    if rest.isdecimal():
        file, _, unit = file.rpartition(" ")
        rest = f"{unit} {rest}"
    return file, rest


def _shown(value: Any) -> str:
    return "" if pd.isna(value) else excerpt(str(value))[1:-1]
