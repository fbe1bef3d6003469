"""A run on this machine: compile, execute by kfp.local in a process of its own, and read the outcome."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.live import Live

from gauntlet.backends.factory import open_registry
from gauntlet.backends.google.location import VertexLocation
from gauntlet.backends.processes import TOKENS_VARIABLE
from gauntlet.components.step import MANIFEST_COMMIT_VARIABLE
from gauntlet.components.write_report.collect import DONE_FILE, collect
from gauntlet.components.write_report.record import CollectedRun, Outcome, outcome
from gauntlet.components.write_report.report import render
from gauntlet.contracts.document import write_text
from gauntlet.contracts.training import Origin
from gauntlet.manifests.errors import RejectedError, UsageError
from gauntlet.manifests.loading import load_manifest, save_manifest
from gauntlet.manifests.own_code import MODULES_VARIABLE
from gauntlet.manifests.schema import SECTIONS, Manifest
from gauntlet.pipelines.home import (
    ARGUMENTS_FILE,
    LOGS_FOLDER,
    MANIFEST_FILE,
    PIPELINE_FILE,
    REPORT_FILE,
    SECTIONS_FOLDER,
    STATES_FOLDER,
    STEPS_FOLDER,
    Home,
    RunRecord,
    gauntlet_home,
)
from gauntlet.pipelines.live import RunView
from gauntlet.pipelines.local.processes import (
    EXIT_CODE,
    Interrupted,
    end_group,
    ending,
    interruptible,
    safe_environment,
    temporary_folder,
)
from gauntlet.pipelines.local.step_cache import CACHE_VARIABLE, JUDGED_VARIABLE, RUN_VARIABLE
from gauntlet.pipelines.terminal import LiteralConsole, console, styled
from gauntlet.pipelines.training import compile_manifest, keep_large_sections, parameters, steps_of

RUN_LOG = "run.log"
JUDGING_SECTIONS = ("evaluation", "gates", "registration", "deployment")
"""What `gauntlet gate` may change: no step that makes the model reads them."""
NO_IMAGE = "none: this machine's Python"
PLACE_VARIABLES = ("GAUNTLET_PROJECT", "GAUNTLET_REGION", "GAUNTLET_ROOT")
STATES_VARIABLE = "AIP_CHECKPOINT_DIR"
SECONDS_BETWEEN_LINES = 15.0  # of progress where there is no terminal


@dataclass(frozen=True)
class FinishedRun:
    """The outcome of a run, and its files."""

    record: RunRecord
    folder: Path
    collected: CollectedRun
    outcome: Outcome

    @property
    def report(self) -> Path:
        """The run's page."""
        return self.folder / REPORT_FILE


def run(manifest: Manifest, home: Path | None = None) -> FinishedRun:
    """Run a manifest on this machine, as `gauntlet run` does: the result says how it ended.

    Args:
        manifest: Of `load_manifest`.
        home: The folder of the run and of the registry; by default `GAUNTLET_HOME`, or `.gauntlet`.

    Raises:
        ManifestError: Data or a pretrained model are missing here, or the run may cost more than its budget.
        UsageError: The home folder cannot be written.
        Interrupted: By Ctrl-C or SIGTERM.
    """
    from gauntlet.pipelines.checks import require_affordable, require_data

    require_affordable(manifest, manifest.name)
    require_data(manifest, Path(manifest.name))
    at = Home(home) if home else gauntlet_home()
    return run_locally(manifest, at, at.registry_uri, tracking_uri(manifest, at), console)


def run_locally(
    manifest: Manifest,
    home: Home,
    registry_uri: str,
    tracking_uri: str,
    console: LiteralConsole,
    cache: bool = True,
    source: Path | None = None,
    judged: RunRecord | None = None,
    origin: Origin | None = None,
) -> FinishedRun:
    """Run a manifest's DAG here and show it while it runs.

    Args:
        manifest: What to run.
        home: Where the run's files go.
        registry_uri: Where the model is registered.
        tracking_uri: Where training is tracked.
        console: Where it is shown.
        cache: Whether steps may be reused from earlier runs.
        source: The file that the manifest was read from.
        judged: A finished run of the manifest. Its outputs of the steps before evaluate-model are reused.
        origin: Of a model that was trained elsewhere and takes the place of a training.

    Raises:
        UsageError: The home folder cannot be written, or the registry is not supported.
        Interrupted: By Ctrl-C, SIGTERM or a closed terminal, after every process of the run has ended and its
            record says so.
    """
    open_registry(registry_uri)  # refuse it now, rather than after the training
    record = replace(
        home.create_run(manifest.name),
        cache=cache,
        judged_run=judged.run_id if judged else "",
        manifest=str(source.resolve()) if source else "",
        manifest_commit=commit_of(source.resolve().parent) if source else "",
    )
    home.save(record)
    folder = home.run_folder(record.run_id)
    save_manifest(manifest, folder / MANIFEST_FILE)
    sections = str(folder / SECTIONS_FOLDER)
    arguments = parameters(manifest, sections, origin) | {
        "run_id": record.run_id,
        "registry_uri": registry_uri,
        "tracking_uri": tracking_uri,
    }
    with home.working_on(record) as lock:
        keep_large_sections(manifest, sections)
        write_arguments(folder, arguments)
        return _run(manifest, record, home, console, lock)


def resume_locally(run_id: str, home: Home, console: LiteralConsole) -> FinishedRun:
    """Resume a run that was interrupted or failed: finished steps are reused, training continues from its
    state.

    Raises:
        UsageError: There is no such run, it is running, it has ended, or it was stopped before it began.
        Interrupted: As by `run_locally`.
    """
    record = home.find_run(run_id)
    folder = home.run_folder(record.run_id)
    with home.working_on(record) as lock:
        if record.state == "submitted":
            raise UsageError(
                f"run {record.run_id}: it runs on Vertex AI. See `gauntlet status {record.run_id}`."
            )
        if record.exit_code in (0, RejectedError.exit_code):
            raise UsageError(
                f"run {record.run_id}: it has ended: {record.outcome}. `gauntlet gate {record.run_id}` "
                "judges its model again."
            )
        if not (folder / ARGUMENTS_FILE).is_file():
            raise UsageError(f"run {record.run_id}: it was stopped before it began. Start a new one.")
        manifest = load_manifest(folder / MANIFEST_FILE)
        open_registry(json.loads((folder / ARGUMENTS_FILE).read_text(encoding="utf-8"))["registry_uri"])
        for old in (folder / STEPS_FOLDER, folder / LOGS_FOLDER):
            shutil.rmtree(old, ignore_errors=True)
        record = replace(record, state="running", pid=os.getpid(), finished=None, exit_code=None, outcome="")
        home.save(record)
        return _run(manifest, record, home, console, lock)


def require_judgeable(manifest: Manifest, before: Manifest, record: RunRecord, home: Home) -> None:
    """Refuse to judge a run's model again under settings that would make another model, or without a model.

    `manifest` is that of the run with the new settings, and `before` as it was.

    Raises:
        UsageError: A key outside `JUDGING_SECTIONS` differs, or a step before the evaluation has not
            succeeded on this machine.
    """
    for key in ("name", "task", "seed", *SECTIONS):
        if key not in JUDGING_SECTIONS and getattr(manifest, key) != getattr(before, key):
            raise UsageError(
                f"--set {key}: the run's model was made with another value, expected keys of "
                f"{', '.join(JUDGING_SECTIONS)}. `gauntlet run` makes another model."
            )
    steps = steps_of(manifest)
    job = job_folder(home.run_folder(record.run_id))
    for step in steps[: steps.index("evaluate-model")]:
        if not (job / step / DONE_FILE).is_file():
            raise UsageError(
                f"run {record.run_id}: {step} has left no result on this machine, so there is no model to "
                f"judge. Finish it with `gauntlet run --resume {record.run_id}`."
            )


def write_arguments(folder: Path, arguments: Mapping[str, Any]) -> None:
    """Write the pipeline's arguments; a run that has this file can be resumed."""
    write_text(folder / ARGUMENTS_FILE, json.dumps(arguments, indent=2))


def _run(
    manifest: Manifest, record: RunRecord, home: Home, console: LiteralConsole, lock: int
) -> FinishedRun:
    """Compile and execute a run whose folder is ready and locked, and record its outcome."""
    folder = home.run_folder(record.run_id)
    with temporary_folder() as temporary:
        sections = str(folder / SECTIONS_FOLDER)
        pipeline = folder / PIPELINE_FILE
        compile_manifest(manifest, pipeline, "local", NO_IMAGE, sections, origin_in(folder))
        console.progress(styled("run [bold]{}[/]: {}", record.run_id, manifest.description))
        view = RunView(steps_of(manifest), folder / LOGS_FOLDER)
        environment = temporary.environment() | environment_of(record, home)
        try:
            execute(folder, view, console, environment, (lock, temporary.lock))
        except Interrupted:
            home.finish(record, "interrupted", EXIT_CODE, "interrupted")
            raise Interrupted(_registered(folder, record)) from None
    return _conclude(record, folder, home)


def environment_of(record: RunRecord, home: Home) -> dict[str, str]:
    """Environment variables of a run's steps: where states and the user's modules are, what may be reused."""
    variables = {
        RUN_VARIABLE: record.run_id,
        "GAUNTLET_GIT_COMMIT": git_commit(),
        MANIFEST_COMMIT_VARIABLE: record.manifest_commit,
        STATES_VARIABLE: os.environ.get(STATES_VARIABLE, str(home.run_folder(record.run_id) / STATES_FOLDER)),
    }
    if record.manifest:
        variables[MODULES_VARIABLE] = str(Path(record.manifest).parent)
    if record.cache:
        variables[CACHE_VARIABLE] = str(home.cache_folder)
        variables[TOKENS_VARIABLE] = str(home.token_folder)
    if record.judged_run:
        variables[JUDGED_VARIABLE] = str(job_folder(home.run_folder(record.judged_run)))
    return variables


def job_folder(folder: Path) -> Path:
    """The folder of the steps' outputs; before kfp.local has created it, the folder above."""
    return max((folder / STEPS_FOLDER).glob("*"), default=folder / STEPS_FOLDER)


def tracking_uri(manifest: Manifest, home: Home) -> str:
    """Where training is tracked: here, or on Vertex AI for a managed model, which is tuned there.

    Raises:
        UsageError: It is managed, and the environment does not name a project, a region and a folder.
    """
    if manifest.kind.is_converted:
        return home.store_uri
    found = {variable: os.environ.get(variable, "") for variable in PLACE_VARIABLES}
    missing = [variable for variable, value in found.items() if not value]
    if missing:
        raise UsageError(
            f"{', '.join(missing)}: found nothing, expected where to tune a managed model: a Google Cloud "
            "project, a region, and gs://BUCKET/FOLDER for its rows. Set them, or submit it."
        )
    project, region, root = found.values()
    return VertexLocation(project, region, staging=root.rstrip("/")).uri


def _registered(folder: Path, record: RunRecord) -> str:
    """What a stopped run may have registered, and how to resume it."""
    resume = f"Resume it with `gauntlet run --resume {record.run_id}`."
    step = "register-model"
    if any((folder / STEPS_FOLDER).glob(f"*/{step}")):
        return f"{step} had begun: check with `gauntlet registry` whether there is a new version. {resume}"
    return f"nothing was registered. {resume}"


def execute(
    folder: Path,
    view: RunView,
    console: LiteralConsole,
    environment: Mapping[str, str],
    locks: Sequence[int],
) -> None:
    """Run the executor process to its end, feeding its output to the view and to `run.log`.

    The process inherits the locks, so the run counts as running until the last of its processes ends.
    """
    command = [sys.executable, "-m", "gauntlet.pipelines.local.execute", str(folder)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=safe_environment() | {"PYTHONUNBUFFERED": "1", **environment},
        pass_fds=tuple(locks),
        start_new_session=True,  # a group of its own, which gets no Ctrl-C from the terminal
    )
    assert process.stdout is not None
    is_live = console.is_terminal and console.shows_progress
    shown = Live(view, console=console, refresh_per_second=4) if is_live else nullcontext()
    with interruptible(), ending([process]), (folder / RUN_LOG).open("w", encoding="utf-8") as log, shown:
        printed = time.monotonic()
        for line in process.stdout:
            log.write(line)
            changed = view.feed(line)
            if view.running and line.startswith("    warning: "):  # the next line would replace it
                console.say(f"{view.running.name}: {line.strip()}")
                printed = time.monotonic()
            if is_live:
                continue
            if changed:
                took = f" after {changed.seconds():.1f} s" if changed.ended else ""
                source = f" from {changed.reused_from}" if changed.reused_from else ""
                console.progress(f"{changed.name}: {changed.state}{source}{took}")
            elif view.running and time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                console.progress(f"{view.running.name}: {view.running.line}")
            else:
                continue
            printed = time.monotonic()
        if process.wait() < 0:  # it was killed: end the step that it was running too
            end_group(process)
        view.close()


def _conclude(record: RunRecord, folder: Path, home: Home) -> FinishedRun:
    """Read the steps' outputs, put the report into the run's folder, and record the outcome."""
    steps, job = folder / STEPS_FOLDER, job_folder(folder).name
    collected = collect(str(steps), job, task_of(folder))
    ended = outcome(collected)
    if ended.exit_code in (0, RejectedError.exit_code):  # there is nothing to resume
        shutil.rmtree(folder / STATES_FOLDER, ignore_errors=True)
    written = steps / job / "write-report" / "report"
    if written.is_file():
        shutil.copyfile(written, folder / REPORT_FILE)
    else:  # the exit handler died or never ran: render the page here
        write_page(folder, record, collected)
    finished = home.finish(record, "finished", ended.exit_code, ended.headline)
    return FinishedRun(finished, folder, collected, ended)


def write_page(folder: Path, record: RunRecord, collected: CollectedRun) -> None:
    """Write a run's report from its steps' outputs, atomically."""
    manifest_sha256 = json.loads((folder / ARGUMENTS_FILE).read_text())["manifest_sha256"]
    page = render(collected, name=record.name, manifest_sha256=manifest_sha256, run_id=record.run_id)
    write_text(folder / REPORT_FILE, page)


def origin_in(folder: Path) -> Origin | None:
    """The origin of the model that the run in a folder judges; None if the run trains one."""
    origin = json.loads((folder / ARGUMENTS_FILE).read_text(encoding="utf-8")).get("origin")
    return None if origin is None else Origin.model_validate(origin)


def task_of(folder: Path) -> str:
    """The name of the task kind of the run in a folder."""
    return str(json.loads((folder / ARGUMENTS_FILE).read_text(encoding="utf-8"))["task"])


def git_commit() -> str:
    """The commit of the checkout that this package runs from, `-dirty` with changes, or of the image."""
    return commit_of(Path(__file__).parent) or os.environ.get("GAUNTLET_GIT_COMMIT", "unknown")


def commit_of(folder: Path) -> str:
    """The commit of the git repository of a folder, `-dirty` with changes; empty if there is none."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
