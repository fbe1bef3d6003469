"""`gauntlet gate`: judge a finished run's model again with other gates, without training it again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gauntlet.components.step import read_json
from gauntlet.components.write_report.collect import DONE_FILE
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.schema import SECTIONS, Manifest
from gauntlet.pipelines.home import ARGUMENTS_FILE, MANIFEST_FILE, Home, RunRecord, gauntlet_home
from gauntlet.pipelines.local_run import job_folder
from gauntlet.pipelines.run_command import load_affordable, run_here
from gauntlet.pipelines.training import steps_of

CHANGEABLE = ("evaluation", "gates", "registration")
JUDGING = "evaluate-model"


def gate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run on this machine, or `latest`.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of gates, evaluation, registration."),
    ] = None,
) -> None:
    """Judge a run's model again: evaluate, gate, register and report, in a new run."""
    home = gauntlet_home()
    record = home.find_run(run)
    folder = home.run_folder(record.run_id)
    if home.is_running(record):
        raise UsageError(f"run {record.run_id}: it is running. Wait until it ends.")
    manifest = load_affordable(folder / MANIFEST_FILE, overrides)
    require_same_model(manifest, load_affordable(folder / MANIFEST_FILE, None))
    require_made(manifest, record, home)
    run_here(
        manifest,
        tracking_uri=read_json(folder / ARGUMENTS_FILE)["tracking_uri"],
        source=Path(record.manifest) if record.manifest else None,
        judged=record,
    )


def require_same_model(manifest: Manifest, before: Manifest) -> None:
    """Refuse overrides of keys that would make another model.

    Raises:
        UsageError: There is such an override.
    """
    for key in ("name", "task", "seed", *SECTIONS):
        if key not in CHANGEABLE and getattr(manifest, key) != getattr(before, key):
            raise UsageError(
                f"--set {key}: the run's model was made with another value, expected keys of "
                f"{', '.join(CHANGEABLE)}. `gauntlet run` makes another model."
            )


def require_made(manifest: Manifest, record: RunRecord, home: Home) -> None:
    """Refuse a run in which a step before the evaluation has not succeeded on this machine.

    Raises:
        UsageError: There is such a step.
    """
    steps = steps_of(manifest)
    job = job_folder(home.run_folder(record.run_id))
    for step in steps[: steps.index(JUDGING)]:
        if not (job / step / DONE_FILE).is_file():
            raise UsageError(
                f"run {record.run_id}: {step} has left no result on this machine, so there is no model to "
                f"judge. Finish it with `gauntlet run --resume {record.run_id}`."
            )
