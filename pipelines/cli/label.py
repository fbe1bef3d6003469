"""The commands about labels of what a model in production was asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.cli.options import HERE, AsJson, ManifestPath, Overrides
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.pipelines.terminal import console, print_json

app = typer.Typer()
label = typer.Typer(help="Labels of logged requests, which say whether the model is right.")
app.add_typer(label, name="label", rich_help_panel=HERE)
SHOWN = 5


@label.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="event_id, label and, if known, labelled_at and source."),
    ],
    path: ManifestPath,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Add labels of logged requests to the manifest's table of labels.

    The newest label of an event counts. The same labels again change nothing.
    """
    from dataclasses import asdict
    from datetime import datetime

    from gauntlet.backends.rollouts import open_monitoring
    from gauntlet.components.collect_window.labels import add_labels, now, read_label_file
    from gauntlet.components.collect_window.log import parts_of, times_of
    from gauntlet.manifests.loading import load_manifest

    manifest = load_manifest(path, overrides or ())
    log, folder = manifest.monitoring.log, manifest.monitoring.labels
    if log is None or folder is None:
        raise UsageError(
            f"{path}: monitoring.{'log' if log is None else 'labels'}: found none, expected a folder. Add it "
            "to the manifest."
        )
    classes = getattr(manifest.dataset, "labels", ())
    table = read_label_file(file, classes, now())
    record = open_monitoring(manifest.name, gauntlet_home().registry_uri).read()[0]
    ends = [datetime.fromisoformat(one.end) for one in record.windows] if record else []
    found = add_labels(table, folder, times_of(parts_of(log, manifest.name)), max(ends, default=None))
    if as_json:
        print_json([asdict(found)])
        return
    console.say(
        f"{folder}: {found.new:,} new labels, {found.changed:,} changed, {found.repeated:,} known before; "
        f"{found.late:,} are of windows that were judged before"
    )
    if found.unknown:
        shown = ", ".join(found.unknown[:SHOWN]) + (", …" if len(found.unknown) > SHOWN else "")
        console.say(f"{len(found.unknown):,} events are not in {log}, or not yet: {shown}")
