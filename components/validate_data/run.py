"""validate-data: read, check, report, and write the splits when every check passes."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gauntlet.components.training_rows import write_fingerprints
from gauntlet.components.validate_data.checks import (
    TEXT_COLUMNS,
    CheckedTable,
    Examination,
    Finding,
    ReadTable,
)
from gauntlet.components.validate_data.memory import release_memory
from gauntlet.components.validate_data.report import page
from gauntlet.components.validate_data.text import excerpt
from gauntlet.contracts.data import REJECTED_FILE, SNAPSHOT_MARK, STATISTICS_FILE, CheckResult, Checks
from gauntlet.contracts.document import replacing, write_text
from gauntlet.manifests.dataset import SPLITS, Dataset
from gauntlet.manifests.errors import DataError
from gauntlet.manifests.kinds import task_kind

LOG_WIDTH = 140  # columns of the table where no terminal has a width

HEADER = ("file", "line", "check", "verdict", "value", "reason")
ROWS_AT_ONCE = 10_000
_LINE = re.compile(r"(?P<file>.+) line (?P<line>\d+)")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def run(
    task: str,
    section: Dataset,
    splits_path: Path,
    checks_path: Path,
    report_path: Path,
    rejected_path: Path | None = None,
    show_checks: bool = False,
    fingerprint: str = "",
) -> None:
    """Validate a dataset and split it.

    With a `fingerprint` of tables of BigQuery they are read as they were when it was taken.

    The checks, the report and the rejected rows are written in any case, the splits only when no check fails.
    `show_checks` prints the table of checks even if none fails.

    Raises:
        DataError: The data cannot be read or have another size, or a check failed; the message names all.
        UsageError: `section` asks for what cannot be read.
        GauntletError: The store that holds the data is unavailable.
    """
    kind = task_kind(task)
    section = at_fingerprint(section, fingerprint)
    examined: Examination = kind.function("data", "examine")(section)
    checked = examined.checked
    rejected_path = rejected_path or checks_path.with_name(REJECTED_FILE)
    rejected = write_rejected(rejected_path, examined.table, checked)
    checks = Checks(
        passed=not checked.failed,
        checks=tuple(checked.results),
        rejected=rejected,
        resolution=examined.resolution,
    )
    checks.write(checks_path)
    write_text(report_path, page(kind, examined))
    if section.size not in (None, checked.rows_read):
        raise DataError(
            f"dataset.size: found {checked.rows_read:,} rows in {section.uri}, expected {section.size:,}. "
            "Fetch the data again if some are missing, or correct the number."
        )
    if checked.failed or show_checks:
        _print_checks(checks)
    if rejected:
        print(f"{rejected:,} lines about faulty rows are in {rejected_path}", flush=True)
    if checked.failed:
        raise DataError(_failure(section, checked))
    if examined.fault:
        raise DataError(examined.fault)
    for result in checked.warned:
        print(f"warning: {result.check}: {', '.join((result.found, *result.examples[:1]))}", flush=True)
    release_memory()
    (splits_path / STATISTICS_FILE).unlink(missing_ok=True)  # its presence says that the splits are complete
    write_fingerprints(splits_path, examined.fingerprints, checked.rows, checked.groups)
    release_memory()
    _write_splits(splits_path, examined)
    counts = ", ".join(f"{rows:,} {split}" for split, rows in examined.statistics.rows.items())
    print(f"{section.name} {section.version}: {checked.rows_read:,} rows read, kept {counts}", flush=True)
    print(examined.resolution, flush=True)


def at_fingerprint(section: Dataset, fingerprint: str) -> Dataset:
    """The section with the time at which fingerprint-data saw its tables; unchanged where it saw files."""
    _, mark, time = fingerprint.partition(SNAPSHOT_MARK)
    return section.model_copy(update={"snapshot": datetime.fromisoformat(time)}) if mark else section


def _write_splits(folder: Path, examined: Examination) -> None:
    """Write each file whole or not at all, and `statistics.json` last, which says that all are there."""
    for split in SPLITS:
        rows = examined.content(split)
        suffix = "npz" if isinstance(rows, Mapping) else "parquet"
        with replacing(folder / f"{split}.{suffix}") as temporary, temporary.open("wb") as file:
            if isinstance(rows, Mapping):
                np.savez(file, allow_pickle=False, **rows)
            else:
                _write_table(rows, file)
    examined.statistics.write(folder / STATISTICS_FILE)


def _write_table(rows: pa.Table | pa.RecordBatchReader, file: IO[bytes]) -> None:
    """Write a table in row groups, one for each of its pieces."""
    with pq.ParquetWriter(file, rows.schema) as writer:
        for piece in rows.to_reader() if isinstance(rows, pa.Table) else rows:
            writer.write_batch(piece)


def _failure(section: Dataset, checked: CheckedTable) -> str:
    lines = [
        f"{result.check}: found {result.found}, expected {result.expected} ({result.key})"
        for result in checked.failed
    ]
    count = f"{len(lines)} of {len(checked.results)} checks"
    return "\n  ".join(
        [
            f"{section.uri}: dataset {section.name} {section.version} failed {count}. "
            "Correct the data, or change the bound or the severity in the manifest",
            *lines,
        ]
    )


def _print_checks(checks: Checks) -> None:
    """The table of checks; everything in it that comes from the data is printed literally."""
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else LOG_WIDTH, no_color=not is_terminal)
    table = Table(show_lines=True)
    table.add_column("check", no_wrap=True)
    table.add_column("verdict")
    table.add_column("rows affected", justify="right")
    table.add_column("examples", overflow="fold")
    for result in checks.checks:
        table.add_row(
            result.check, _verdict(result), f"{result.rows_affected:,}", Text("\n".join(result.examples))
        )
    console.print(table)


def _verdict(result: CheckResult) -> Text:
    styles = {"pass": "green", "drop": "cyan", "warn": "yellow", "fail": "bold red"}
    return Text(result.verdict, style=styles[result.verdict])


def write_rejected(path: Path, table: ReadTable, checked: CheckedTable) -> int:
    """Write the rows of every check that did not pass, and return the number of lines.

    A row has a line for each check that found it. `line` is a number if the file has lines, else the place,
    such as `row 3`. A spreadsheet would run a cell that begins like a formula, so such a cell gets an
    apostrophe: https://owasp.org/www-community/attacks/CSV_Injection
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


def _lines(table: ReadTable, finding: Finding) -> Iterator[tuple[str, str, str, str]]:
    column = finding.column or next((name for name in TEXT_COLUMNS if name in table.columns), "place")
    for start in range(0, len(finding.affected), ROWS_AT_ONCE):
        rows = finding.affected[start : start + ROWS_AT_ONCE]
        some = table.loc[rows]
        reasons = finding.reasons(table, rows) if finding.reasons else [""] * len(rows)
        for place, value, reason in zip(some["place"], some[column].tolist(), reasons, strict=True):
            yield (*_place(place), _shown(value), reason)


def _place(place: str) -> tuple[str, str]:
    """File and line of a place like `train.csv line 12`; else the words after the file name as the line.

    A place that ends in the suffix of a file is that file.
    """
    if match := _LINE.fullmatch(place):
        return match["file"], match["line"]
    suffix = PurePosixPath(place).suffix
    if suffix and " " not in suffix:  # `images.gz image 2` is no file
        return place, ""
    file, _, rest = place.rpartition(" ")
    if rest.isdecimal():
        file, _, unit = file.rpartition(" ")
        rest = f"{unit} {rest}"
    return file, rest


def _shown(value: Any) -> str:
    return "" if pd.isna(value) else excerpt(str(value))[1:-1]
