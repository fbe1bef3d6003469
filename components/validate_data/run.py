"""validate-data: read, check, report, and write the splits when every check passes."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gauntlet.components.step import write_json, write_text
from gauntlet.components.training_rows import write_fingerprints
from gauntlet.components.validate_data.advice import with_settings
from gauntlet.components.validate_data.examination import Examination
from gauntlet.components.validate_data.findings import CheckResult
from gauntlet.components.validate_data.inspection import Inspection
from gauntlet.components.validate_data.outputs import STATISTICS_FILE
from gauntlet.components.validate_data.rejected import REJECTED_FILE, write_rejected
from gauntlet.manifests.dataset import Dataset
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.image_classification.data import examine as examine_images
from gauntlet.tasks.image_classification.manifest import ImageDataset
from gauntlet.tasks.language.manifest import ConversationDataset
from gauntlet.tasks.ordinal_grading.data import examine as examine_cards
from gauntlet.tasks.ordinal_grading.manifest import CardDataset
from gauntlet.tasks.text_classification.data import examine as examine_texts
from gauntlet.tasks.text_classification.manifest import TextDataset

LOG_WIDTH = 140  # columns of the table where there is no terminal to ask


def run(
    section: Dataset,
    seed: int,  # noqa: ARG001
    splits_path: Path,
    checks_path: Path,
    report_path: Path,
    rejected_path: Path | None = None,
    show_checks: bool = False,
) -> None:
    """Validate a dataset and split it.

    The checks, the report and the rejected rows are written whatever is found, the splits only when no check
    fails.

    Args:
        section: The section of the manifest. seed: The run's seed, which every step gets. No row's split
        depends on it, so a model trained with another
            seed is compared on the same test rows.
        splits_path: A folder for the splits.
        checks_path: A file for the results of the checks, as JSON.
        report_path: A file for the page.
        rejected_path: A file for the rejected rows; by default `rejected.csv` beside the checks.
        show_checks: Print the table of checks always, not only when one fails.

    Raises:
        DataError: The data cannot be read or have another size, or a check failed; the message names all
            failed checks.
        UsageError: `section` asks for what cannot be read.
        GauntletError: The store that holds the data is out of reach.
    """
    examined = _examine(section)
    inspection = examined.inspection
    rejected_path = rejected_path or checks_path.with_name(REJECTED_FILE)
    rejected = write_rejected(rejected_path, examined.table, inspection.results)
    write_json(
        checks_path,
        {
            "passed": not inspection.failed,
            "checks": [result.as_json() for result in with_settings(inspection, section)],
            "rejected": rejected,
            "resolution": examined.resolution,
        },
    )
    write_text(report_path, examined.report)
    if section.size not in (None, examined.rows_read):
        raise DataError(
            f"dataset.size: found {examined.rows_read:,} rows in {section.uri}, expected {section.size:,}. "
            "Fetch the data again if some are missing, or correct the number."
        )
    if inspection.failed or show_checks:
        _print_checks(inspection)
    if rejected:
        print(f"{rejected:,} lines about faulty rows are in {rejected_path}", flush=True)
    if inspection.failed:
        raise DataError(_failure(section, inspection))
    examined.require_enough()
    for result in inspection.warned:
        print(f"warning: {result.check}: {', '.join((result.found, *result.examples[:1]))}", flush=True)
    (splits_path / STATISTICS_FILE).unlink(missing_ok=True)  # its presence says that all splits are there
    write_fingerprints(splits_path, examined.fingerprints, inspection.table, inspection.groups)
    examined.write_splits(splits_path)
    counts = ", ".join(f"{rows:,} {split}" for split, rows in examined.rows.items())
    print(f"{section.name} {section.version}: {examined.rows_read:,} rows read, kept {counts}", flush=True)
    print(examined.resolution, flush=True)


def _examine(section: Dataset) -> Examination:
    if isinstance(section, ImageDataset):
        return examine_images(section)
    if isinstance(section, CardDataset):
        return examine_cards(section)
    if isinstance(section, ConversationDataset):
        from gauntlet.tasks.language.data import (
            examine as examine_conversations,
        )

        return examine_conversations(section)  # it loads transformers, which the others do without
    assert isinstance(section, TextDataset)
    return examine_texts(section)


def _failure(section: Dataset, inspection: Inspection) -> str:
    lines = [
        f"{result.check}: found {result.found}, expected {result.expected} ({result.key})"
        for result in inspection.failed
    ]
    count = f"{len(lines)} of {len(inspection.results)} checks"
    return "\n  ".join(
        [
            f"{section.uri}: dataset {section.name} {section.version} failed {count}. "
            "Correct the data, or change the bound or the severity in the manifest",
            *lines,
        ]
    )


def _print_checks(inspection: Inspection) -> None:
    """The table of checks; everything in it that comes from the data is printed literally."""
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else LOG_WIDTH, no_color=not is_terminal)
    table = Table(show_lines=True)
    table.add_column("check", no_wrap=True)
    table.add_column("verdict")
    table.add_column("rows affected", justify="right")
    table.add_column("examples", overflow="fold")
    for result in inspection.results:
        table.add_row(
            result.check, _verdict(result), f"{result.rows_affected:,}", Text("\n".join(result.examples))
        )
    console.print(table)


def _verdict(result: CheckResult) -> Text:
    styles = {"pass": "green", "drop": "cyan", "warn": "yellow", "fail": "bold red"}
    return Text(result.verdict, style=styles[result.verdict])
