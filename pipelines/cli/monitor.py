"""The command about a model in production: compare what it was asked with what it knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gauntlet.pipelines.cli.options import HERE
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.pipelines.terminal import borderless, console, plain, print_json, styled

if TYPE_CHECKING:
    from gauntlet.components.detect_drift.reference import Reference
    from gauntlet.components.detect_drift.rows import Parts
    from gauntlet.contracts.drift import DriftRecord

app = typer.Typer()


@app.command(rich_help_panel=HERE)
def monitor(
    log: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The window: files of a request log, of one bundle.")
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The bundle with the baseline. Default: the registry's."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Rows from when all was well, instead of the bundle's baseline."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels by event_id: Parquet or CSV."),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where drift.json and drift.html are written.")
    ] = Path("drift"),
    alpha: Annotated[
        float, typer.Option(min=1e-9, max=0.5, help="At most this share of clean windows has a change.")
    ] = 0.001,
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The smallest difference of a column that counts.")
    ] = 0.05,
    run_length: Annotated[
        float, typer.Option(min=100, help="Labelled rows to a false alarm of harm, at least.")
    ] = 1e6,
    min_rows: Annotated[int, typer.Option(min=1, help="Answered rows that a window needs.")] = 200,
    min_new_rows: Annotated[int, typer.Option(min=1, help="Labelled rows that a retraining needs.")] = 500,
    min_class_rows: Annotated[int, typer.Option(min=1, help="And of each class.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print drift.json and no table.")] = False,
) -> None:
    """Say whether a window of the request log has drifted, whether that harms, and what to do.

    Example: `gauntlet monitor --log log/2026-12-01 --reference log/2026-11-24`
    """
    from gauntlet.components.detect_drift.counts import count_rows
    from gauntlet.components.detect_drift.decision import Rules
    from gauntlet.components.detect_drift.report import drift_page
    from gauntlet.components.detect_drift.rows import Parts, read_labels
    from gauntlet.components.detect_drift.run import Settings, detect
    from gauntlet.contracts.document import write_text

    given = None if labels is None else read_labels(labels)
    parts = Parts.below(log)
    known = _reference(parts, bundle, reference, given)
    window = count_rows(log, parts, known.arrays.edges, known.baseline.energy_bound, given)
    rules = Rules(min_rows, min_new_rows, min_class_rows)
    settings = Settings(alpha=alpha, tolerance=tolerance, run_length=run_length, rules=rules)
    record = detect(known, window, settings)
    record.write(output / "drift.json")
    write_text(output / "drift.html", drift_page(record, known, window))
    if as_json:
        print_json([record.as_json()])
        return
    _print(record)
    console.print(styled("[dim]{}[/]", output / "drift.html"))


def _reference(
    parts: Parts, bundle: Path | None, reference: Path | None, labels: Mapping[str, str] | None
) -> Reference:
    """The bundle's baseline, or reference rows with what the bundle promises if they have no labels."""
    from gauntlet.components.detect_drift.reference import (
        bundle_reference,
        log_reference,
        registered_reference,
    )
    from gauntlet.components.detect_drift.rows import Parts

    of_bundle = None if bundle is None else bundle_reference(bundle)
    if reference is None:
        return of_bundle or registered_reference(*parts.served(), gauntlet_home().registry_uri)
    known = log_reference(reference, Parts.below(reference), labels)
    return known if of_bundle is None else known.with_promise_of(of_bundle)


def _print(record: DriftRecord) -> None:
    table = borderless("family", "column", "difference", "smallest detectable", "p", "p of the family")
    for one in record.changes:
        of_family = f"{record.families[one.family]:.2g}" + (
            " changed" if one.family in record.changed else ""
        )
        detectable = "" if one.detectable is None else f"{one.detectable:.3f}"
        cells = (one.family, one.column, f"{one.statistic} {one.effect:.3f}", detectable)
        table.add_row(*map(plain, (*cells, f"{one.p_value:.2g}", of_family)))
    console.print(table)
    console.say(f"{record.outcome}: {record.reason}. {record.next_step}")
