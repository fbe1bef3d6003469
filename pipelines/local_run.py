"""A run on this machine: compile, execute through kfp.local in a process of its own, read how it ended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from backends.registry import open_registry
from backends.vertex_place import VertexPlace
from components.write_report.collect import collect
from components.write_report.outcome import Outcome, outcome
from components.write_report.record import RunRecord as CollectedRun
from components.write_report.render import render
from manifests.errors import UsageError
from manifests.loading import save_manifest
from manifests.managed import is_managed
from manifests.schema import Manifest
from pipelines.compiling import compile_manifest
from pipelines.home import (
    ARGUMENTS_FILE,
    MANIFEST_FILE,
    PIPELINE_FILE,
    REPORT_FILE,
    STEPS_FOLDER,
    Home,
    RunRecord,
)
from pipelines.interruption import EXIT_CODE, Interrupted, end_group, ending, interruptible
from pipelines.live import RunView
from pipelines.safe_path import safe_environment
from pipelines.terminal import plain, styled
from pipelines.training import STEPS, parameters, steps_of

RUN_LOG = "run.log"
NO_IMAGE = "none: this machine's Python"
PLACE_VARIABLES = ("GAUNTLET_PROJECT", "GAUNTLET_REGION", "GAUNTLET_ROOT")
SECONDS_BETWEEN_LINES = 15.0  # of progress where there is no terminal


@dataclass(frozen=True)
class FinishedRun:
    """How a run ended and where its files lie."""

    record: RunRecord
    folder: Path
    collected: CollectedRun
    outcome: Outcome

    @property
    def report(self) -> Path:
        """The run's page."""
        return self.folder / REPORT_FILE


def run_locally(
    manifest: Manifest, home: Home, registry_uri: str, tracking_uri: str, console: Console
) -> FinishedRun:
    """Run a manifest's DAG here and show it while it runs.

    Raises:
        UsageError: The home folder cannot be written, or the registry is none that is supported.
        Interrupted: By Ctrl-C, SIGTERM or a closed terminal, after every process of the run has ended and its
            record says so.
    """
    open_registry(registry_uri)  # refused now, and not after the training
    record = home.create_run(manifest.name)
    folder = home.run_folder(record.run_id)
    save_manifest(manifest, folder / MANIFEST_FILE)
    compile_manifest(manifest, folder / PIPELINE_FILE, "local", image=NO_IMAGE)
    arguments = parameters(manifest) | {
        "run_id": record.run_id,
        "registry_uri": registry_uri,
        "tracking_uri": tracking_uri,
    }
    (folder / ARGUMENTS_FILE).write_text(json.dumps(arguments, indent=2), encoding="utf-8")
    console.print(styled("run [bold]{}[/]: {}", record.run_id, manifest.description), soft_wrap=True)
    try:
        _execute(folder, RunView(steps_of(manifest), folder / "logs"), console)
    except Interrupted:
        home.finish(record, "interrupted", EXIT_CODE, "interrupted")
        raise Interrupted(_registered(folder)) from None
    return _conclude(record, folder, home)


def tracking_uri(manifest: Manifest, home: Home) -> str:
    """Where training is tracked: here, but for a managed model, which is tuned and tracked on Vertex AI.

    Raises:
        UsageError: It is managed, and the environment does not say where it is to be tuned.
    """
    if not is_managed(manifest.training):
        return home.store_uri
    found = {variable: os.environ.get(variable, "") for variable in PLACE_VARIABLES}
    missing = [variable for variable, value in found.items() if not value]
    if missing:
        raise UsageError(
            f"{', '.join(missing)}: found nothing, expected where a managed model is to be tuned: a project "
            "of Google Cloud's, a region, and gs://BUCKET/FOLDER for its rows. Set them, or submit it."
        )
    project, region, root = found.values()
    return VertexPlace(project, region, staging=root.rstrip("/")).uri


def _registered(folder: Path) -> str:
    """What a run that was stopped may have left in the registry."""
    if any((folder / STEPS_FOLDER).glob(f"*/{STEPS[-2]}")):
        return f"{STEPS[-2]} had begun: see by `gauntlet registry` whether there is a new version."
    return "nothing was registered; run it again."


def _execute(folder: Path, view: RunView, console: Console) -> None:
    """Run the executor process to its end, feeding its output to the view and to `run.log`."""
    command = [sys.executable, "-m", "pipelines.execute", str(folder)]
    environment = safe_environment() | {"PYTHONUNBUFFERED": "1", "GAUNTLET_GIT_COMMIT": git_commit()}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        start_new_session=True,  # one group to stop, which Ctrl-C does not reach behind our back
    )
    assert process.stdout is not None
    shown = Live(view, console=console, refresh_per_second=4) if console.is_terminal else nullcontext()
    with interruptible(), ending([process]), (folder / RUN_LOG).open("w", encoding="utf-8") as log, shown:
        printed = time.monotonic()
        for line in process.stdout:
            log.write(line)
            changed = view.feed(line)
            if view.running and line.startswith("    warning: "):  # the next line would wipe it from the view
                warning = f"{view.running.name}: {plain(line.strip())}"
                console.print(warning, highlight=False, soft_wrap=True)
                printed = time.monotonic()
            if console.is_terminal:
                continue
            if changed:
                took = f" after {changed.seconds():.1f} s" if changed.ended else ""
                console.print(f"{changed.name}: {changed.state}{took}", highlight=False)
            elif view.running and time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                console.print(
                    f"{view.running.name}: {plain(view.running.line)}", highlight=False, soft_wrap=True
                )
            else:
                continue
            printed = time.monotonic()
        if process.wait() < 0:  # killed from outside: the step that it was running must not go on alone
            end_group(process)
        view.close()


def _conclude(record: RunRecord, folder: Path, home: Home) -> FinishedRun:
    """Read what the steps left, put the report where it is looked for, and record the outcome."""
    steps = folder / STEPS_FOLDER
    job = next((path.name for path in sorted(steps.glob("*"))), "")
    collected = collect(str(steps), job)
    ended = outcome(collected)
    written = steps / job / "write-report" / "report"
    if written.is_file():
        shutil.copyfile(written, folder / REPORT_FILE)
    else:  # the exit handler died or never ran: the page is made here from the same artifacts
        manifest_sha256 = json.loads((folder / ARGUMENTS_FILE).read_text())["manifest_sha256"]
        page = render(collected, name=record.name, manifest_sha256=manifest_sha256, run_id=record.run_id)
        (folder / REPORT_FILE).write_text(page, encoding="utf-8")
    finished = home.finish(record, "finished", ended.exit_code, ended.headline)
    return FinishedRun(finished, folder, collected, ended)


def git_commit() -> str:
    """The commit of the checkout this package runs from, `-dirty` with changes; else that of the image."""
    in_image = os.environ.get("GAUNTLET_GIT_COMMIT", "unknown")
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty"]
    command += ["--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return in_image
    return done.stdout.strip() or in_image
