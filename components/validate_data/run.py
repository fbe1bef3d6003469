"""validate-data: read, check, report, and write the splits when every check passes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gauntlet.components.training_rows import write_fingerprints
from gauntlet.components.validate_data.checks import CheckedTable, Examination
from gauntlet.components.validate_data.rejected import write_rejected
from gauntlet.components.validate_data.report import page
from gauntlet.contracts.data import CheckResult, Checks
from gauntlet.contracts.document import replacing, write_text
from gauntlet.contracts.names import REJECTED_FILE, STATISTICS_FILE
from gauntlet.manifests.dataset import SPLITS, Dataset
from gauntlet.manifests.errors import DataError
from gauntlet.manifests.kinds import task_kind

LOG_WIDTH = 140  # columns of the table where no terminal has a width


def run(
    task: str,
    section: Dataset,
    splits_path: Path,
    checks_path: Path,
    report_path: Path,
    rejected_path: Path | None = None,
    show_checks: bool = False,
) -> None:
    """Validate a dataset and split it.

    The checks, the report and the rejected rows are written in any case, the splits only when no check fails.

    Args:
        task: The name of the task kind.
        section: The section of the manifest.
        splits_path: A folder for the splits.
        checks_path: A file for the results of the checks, as JSON.
        report_path: A file for the page.
        rejected_path: A file for the rejected rows; by default `rejected.csv` in the folder of the checks.
        show_checks: Print the table of checks even if no check fails.

    Raises:
        DataError: The data cannot be read or have another size, or a check failed; the message names all
            failed checks.
        UsageError: `section` asks for what cannot be read.
        GauntletError: The store that holds the data is unavailable.
    """
    kind = task_kind(task)
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
    (splits_path / STATISTICS_FILE).unlink(missing_ok=True)  # its presence says that the splits are complete
    write_fingerprints(splits_path, examined.fingerprints, checked.rows, checked.groups)
    _write_splits(splits_path, examined)
    counts = ", ".join(f"{rows:,} {split}" for split, rows in examined.statistics.rows.items())
    print(f"{section.name} {section.version}: {checked.rows_read:,} rows read, kept {counts}", flush=True)
    print(examined.resolution, flush=True)


def _write_splits(folder: Path, examined: Examination) -> None:
    """Write each file whole or not at all, and `statistics.json` last, which says that all are there."""
    for split in SPLITS:
        rows = examined.content(split)
        suffix = "npz" if isinstance(rows, Mapping) else "parquet"
        with replacing(folder / f"{split}.{suffix}") as temporary, temporary.open("wb") as file:
            if isinstance(rows, Mapping):
                np.savez(file, allow_pickle=False, **rows)
            else:
                pq.write_table(rows, file)
    examined.statistics.write(folder / STATISTICS_FILE)


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
