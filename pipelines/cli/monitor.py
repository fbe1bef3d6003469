"""The command about a model in production: compare what it was asked with what it knows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.cli.options import HERE, Overrides
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.pipelines.local.processes import EXIT_CODE, Interrupted
from gauntlet.pipelines.terminal import borderless, console, errors, plain, print_json, styled

if TYPE_CHECKING:
    from gauntlet.components.detect_drift.reference import Reference
    from gauntlet.components.detect_drift.rows import Parts
    from gauntlet.contracts.drift import DriftRecord
    from gauntlet.manifests.schema import Manifest

LONGEST_SLEEP = 60.0

app = typer.Typer()


@app.command(rich_help_panel=HERE)
def monitor(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="MANIFEST", help="Monitor the champion as its section `monitoring` says, and act."
        ),
    ] = None,
    overrides: Overrides = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on: judge each window when it is whole. Ends with Ctrl-C.")
    ] = False,
    at: Annotated[
        str, typer.Option(metavar="TIME", help="Judge the last whole window before this time. Default: now.")
    ] = "",
    log: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Without MANIFEST: a window, files of a log, of one bundle."),
    ] = None,
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

    With MANIFEST it remembers the windows before, and starts the training if one is asked for. The options
    from --log on are for a single window without MANIFEST.

    Example: `gauntlet monitor --log log/2026-12-01 --reference log/2026-11-24`
    """
    if (path is None) == (log is None):
        raise UsageError("found both or neither of MANIFEST and --log, expected one of them.")
    if path is not None:
        _monitor(path, overrides or (), watch, at, as_json)
        return
    assert log is not None
    if watch or at or overrides:
        raise UsageError("--watch, --at, --set: they go with MANIFEST. Leave them out, or name one.")
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


def _monitor(path: Path, overrides: Sequence[str], watch: bool, at: str, as_json: bool) -> None:
    """Judge the window, act on it, and with `watch` go on with the next one."""
    from gauntlet.components.collect_window.log import SETTLED, last_window
    from gauntlet.components.collect_window.run import scheduled_time
    from gauntlet.manifests.loading import load_manifest

    manifest = load_manifest(path, overrides)
    hours = manifest.monitoring.window_hours
    scheduled = scheduled_time(at)
    try:
        while True:
            _judge(manifest, path, overrides, scheduled, as_json)
            if not watch:
                return
            scheduled = last_window(scheduled, hours)[1] + timedelta(hours=hours) + SETTLED
            console.say(f"the next window is whole at {scheduled:%Y-%m-%d %H:%M} UTC")
            while (left := (scheduled - datetime.now(UTC)).total_seconds()) > 0:
                time.sleep(min(left, LONGEST_SLEEP))
    except (KeyboardInterrupt, Interrupted):
        errors.say("interrupted: what was judged is recorded; the same command goes on.")
        raise typer.Exit(EXIT_CODE) from None


def _judge(
    manifest: Manifest, path: Path, overrides: Sequence[str], scheduled: datetime, as_json: bool
) -> None:
    from gauntlet.components.request_training.run import said
    from gauntlet.pipelines.local.monitoring import monitor_locally, roll_back, take_request

    home = gauntlet_home()
    found = monitor_locally(manifest, home, scheduled, console)
    if as_json:
        print_json([found.drift.as_json()])
    else:
        _print_changes(found.drift)
        console.say(said(found.record, found.drift))
        console.print(styled("[dim]{}[/]", found.page))
        if found.to_label is not None:
            console.say(f"rows to label: {found.to_label}; then `gauntlet label import FILE {path}`")
    if found.drift.outcome == "roll back":
        roll_back(manifest, found.drift, home, console)
    if found.event is None or manifest.monitoring.receiver is not None:
        return
    outcome = take_request(found.event, path, overrides, home, console)
    if outcome == "submitted":  # the new champion on the alarm's window
        again = monitor_locally(manifest, home, scheduled, console)
        console.say(said(again.record, again.drift))


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
    _print_changes(record)
    console.say(f"{record.outcome}: {record.reason}. {record.next_step}")


def _print_changes(record: DriftRecord) -> None:
    table = borderless("family", "column", "difference", "smallest detectable", "p", "p of the family")
    for one in record.changes:
        of_family = f"{record.families[one.family]:.2g}" + (
            " changed" if one.family in record.changed else ""
        )
        detectable = "" if one.detectable is None else f"{one.detectable:.3f}"
        cells = (one.family, one.column, f"{one.statistic} {one.effect:.3f}", detectable)
        table.add_row(*map(plain, (*cells, f"{one.p_value:.2g}", of_family)))
    console.print(table)
