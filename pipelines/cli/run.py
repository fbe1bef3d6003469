"""The commands that run something on this machine, and those that show, compare and remove its runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.cli.options import (
    HERE,
    AsJson,
    FromCheckpoint,
    FromOnnx,
    GraphLabels,
    ManifestPath,
    ManifestPaths,
    Overrides,
    Quiet,
)
from gauntlet.pipelines.home import (
    ARGUMENTS_FILE,
    MANIFEST_FILE,
    REPORT_FILE,
    RunRecord,
    gauntlet_home,
    most_bytes,
)
from gauntlet.pipelines.local.processes import EXIT_CODE, Interrupted, remove_abandoned
from gauntlet.pipelines.terminal import NAME_COLUMN, borderless, console, errors, plain, print_json

if TYPE_CHECKING:
    from gauntlet.contracts.training import Origin
    from gauntlet.manifests.schema import Manifest
    from gauntlet.pipelines.local.pruning import Removal
    from gauntlet.pipelines.local.run import FinishedRun

app = typer.Typer()

Yes = Annotated[bool, typer.Option("--yes", help="Remove; otherwise only list what can be removed.")]


@app.command(rich_help_panel=HERE)
def run(
    path: Annotated[Path | None, typer.Argument(metavar="MANIFEST", help="A manifest, YAML or JSON.")] = None,
    overrides: Overrides = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Run every step; reuse nothing from earlier runs.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Resume this interrupted run, or `latest`, instead of a manifest."),
    ] = None,
    from_checkpoint: FromCheckpoint = None,
    from_onnx: FromOnnx = None,
    labels: GraphLabels = None,
    _quiet: Quiet = False,
) -> None:
    """Run a manifest on this machine, from data to a promoted or rejected model.

    Example: `gauntlet run tickets.yaml --set training.epochs=2`
    """
    if (path is None) == (resume is None):
        raise UsageError("found both or neither of MANIFEST and --resume, expected one of them.")
    if resume is not None:
        if overrides or no_cache or from_checkpoint or from_onnx or labels:
            raise UsageError("--resume: a run is resumed with its own settings. Leave the other options out.")
        from gauntlet.pipelines.local.run import resume_locally

        _conclude(lambda: resume_locally(resume, gauntlet_home(), console))
    assert path is not None
    from gauntlet.pipelines.checks import command_line, load_affordable, require_data

    manifest = load_affordable(path, overrides)
    require_data(manifest, path)
    origin, options = origin_given(manifest, from_checkpoint, from_onnx, labels)
    command = command_line("run", path, overrides, options)
    run_here(manifest, cache=not no_cache, source=path, command=command, origin=origin)


@app.command(rich_help_panel=HERE)
def gate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run on this machine, or `latest`.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of gates, evaluation, registration."),
    ] = None,
    _quiet: Quiet = False,
) -> None:
    """Judge a run's model again: evaluate, gate, register and report, in a new run.

    Example: `gauntlet gate latest --set gates.min_macro_f1=0.6`
    """
    from gauntlet.contracts.document import read_json
    from gauntlet.pipelines.checks import load_affordable
    from gauntlet.pipelines.local.run import origin_in, require_judgeable

    home = gauntlet_home()
    record = home.find_run(run)
    folder = home.run_folder(record.run_id)
    if home.is_running(record):
        raise UsageError(f"run {record.run_id}: it is running. Wait until it ends.")
    manifest = load_affordable(folder / MANIFEST_FILE, overrides)
    require_judgeable(manifest, load_affordable(folder / MANIFEST_FILE, None), record, home)
    run_here(
        manifest,
        tracking_uri=read_json(folder / ARGUMENTS_FILE)["tracking_uri"],
        source=Path(record.manifest) if record.manifest else None,
        judged=record,
        origin=origin_in(folder),
    )


@app.command(rich_help_panel=HERE)
def tune(
    path: ManifestPath,
    trials: Annotated[int, typer.Option(min=1, help="Finished trials in all, including earlier ones.")] = 20,
    timeout: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Start no trial after this time: 90s, 30m or 2h.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at the same time.")] = 1,
    output: Annotated[
        Path | None, typer.Option(help="The tuned manifest. Default: best.yaml in the study's folder.")
    ] = None,
    then_run: Annotated[bool, typer.Option("--run", help="Run the tuned manifest at the end.")] = False,
    spec: Annotated[
        Path | None, typer.Option("--compile", help="Write a Vertex AI tuning job instead; needs --staging.")
    ] = None,
    staging: Annotated[str, typer.Option(metavar="URI", help="gs:// folder for that job's files.")] = "",
    overrides: Overrides = None,
    _quiet: Quiet = False,
) -> None:
    """Search the best values of a manifest's `training.search`; resume an interrupted study.

    Example: `gauntlet tune tickets.yaml --trials 20 --timeout 2h`
    """
    from gauntlet.pipelines.checks import command_line, load_affordable, require_data
    from gauntlet.pipelines.tuning.run import compile_study, tune_here, tuning_of

    manifest = load_affordable(path, overrides)
    require_data(manifest, path)
    tuning = tuning_of(path, overrides or (), manifest, trials, timeout, jobs, output)
    try:
        if spec is not None:
            compile_study(tuning, spec, staging, gauntlet_home(), console)
            return
        tuned = tune_here(tuning, gauntlet_home(), console)
    except Interrupted as stopped:
        left = str(stopped) or "finished trials are kept; the same command resumes the study."
        errors.say(f"interrupted: {left}")
        raise typer.Exit(EXIT_CODE) from None
    if then_run:
        run_here(load_affordable(tuned, None), source=path, command=command_line("run", tuned, None))


@app.command(rich_help_panel=HERE)
def smoke(paths: ManifestPaths = None, _quiet: Quiet = False) -> None:
    """Run each system end to end with tiny settings; exit 1 when one fails before its gate has decided.

    Example: `gauntlet smoke manifests/emotion_sample.yaml`
    """
    from gauntlet.pipelines.checks import packaged_manifests
    from gauntlet.pipelines.smoke import smoke_all, smoke_table

    try:
        smokes = smoke_all(paths or packaged_manifests(), gauntlet_home(), console)
    except Interrupted:
        errors.say("interrupted: the run's processes are stopped; run it again.")
        raise typer.Exit(EXIT_CODE) from None
    console.print()
    console.print(smoke_table(smokes))
    if any(each.result == "failed" for each in smokes):
        raise typer.Exit(1)


@app.command(rich_help_panel=HERE)
def runs(as_json: AsJson = False) -> None:
    """List the runs on this machine, newest first.

    Example: `gauntlet runs`
    """
    from gauntlet.pipelines.local.pruning import disk_bytes, of_run

    home = gauntlet_home()
    records = home.runs()
    sizes = [of_run(home, record, "").bytes for record in records]
    if as_json:
        print_json(
            asdict(record) | {"outcome": record.shown_state(), "bytes": size}
            for record, size in zip(records, sizes, strict=True)
        )
        return
    if not records:
        start = "`gauntlet run MANIFEST` starts one. GAUNTLET_HOME sets the folder."
        console.say(f"no runs in {home.folder}: {start}")
        return
    table = borderless(NAME_COLUMN("run"), "started (UTC)", "exit", "MB", "outcome")
    for record, size in zip(records, sizes, strict=True):
        code = "" if record.exit_code is None else str(record.exit_code)
        started = record.started[:19].replace("T", " ")
        table.add_row(record.run_id, started, code, f"{size / 1e6:,.1f}", record.shown_state())
    console.print(table)
    bound = most_bytes()
    allowed = (
        f"of {bound / 1e9:g} GB that GAUNTLET_HOME_GB allows" if bound else "`gauntlet prune` frees some"
    )
    console.say(f"runs and the cache they share files with take {disk_bytes(home) / 1e6:,.1f} MB; {allowed}")


@app.command(rich_help_panel=HERE)
def report(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run, or `latest`.")] = "latest",
) -> None:
    """Open a run's report in the browser and print its path.

    Example: `gauntlet report latest`
    """
    home = gauntlet_home()
    record = home.find_run(run_id)
    page = home.run_folder(record.run_id) / REPORT_FILE
    if not page.is_file():
        raise UsageError(f"{page}: no such file; the run is {record.shown_state()}. Run it again.")
    console.say(page)
    if console.is_terminal:
        typer.launch(page.as_uri())


@app.command(rich_help_panel=HERE)
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run, or `latest`: A.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another run of the same task: B.")],
    as_json: AsJson = False,
) -> None:
    """Compare two runs, here and on a page with charts.

    Example: `gauntlet compare tickets-20261201-101500 latest`
    """
    from gauntlet.pipelines.comparison import compare_runs

    page = compare_runs(gauntlet_home(), first, second, console, as_json)
    if console.is_terminal and not as_json:
        typer.launch(page.as_uri())


@app.command(rich_help_panel=HERE)
def rm(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Runs on this machine.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove runs with all their files. Registered models are kept.

    Example: `gauntlet rm tickets-20261201-101500 --yes`
    """
    from gauntlet.pipelines.local.pruning import of_run

    home = gauntlet_home()
    records = [home.find_run(run) for run in dict.fromkeys(runs)]
    running = [record.run_id for record in records if home.is_running(record)]
    if running:
        raise UsageError(f"{', '.join(running)}: running. Stop it with Ctrl-C first.")
    _remove([of_run(home, record, "asked for") for record in records], yes, as_json)


@app.command(rich_help_panel=HERE)
def prune(
    keep: Annotated[int, typer.Option(min=0, help="How many of each system's newest runs to keep.")] = 5,
    days: Annotated[float, typer.Option(min=0, help="Remove cached steps not used for this many days.")] = 30,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove old runs and old cached steps. Registered models and running runs are kept.

    Example: `gauntlet prune --keep 3 --yes`
    """
    from gauntlet.pipelines.local.pruning import old_cache, old_runs

    home = gauntlet_home()
    if yes:
        remove_abandoned()
    _remove([*old_runs(home, keep), *old_cache(home, days)], yes, as_json)


def run_here(
    manifest: Manifest,
    registry_uri: str | None = None,
    tracking_uri: str | None = None,
    cache: bool = True,
    source: Path | None = None,
    judged: RunRecord | None = None,
    command: str | None = None,
    origin: Origin | None = None,
) -> NoReturn:
    """Run a manifest as `run_locally` does, by default with this machine's URIs, and exit with its code.

    `command` is the command that the run's advice repeats.

    Raises:
        UsageError: The manifest asks for conversion on a GPU, and this machine has none.
    """
    from gauntlet.components.write_report.collect import RUN_COMMAND_VARIABLE
    from gauntlet.pipelines.local.run import run_locally
    from gauntlet.pipelines.local.run import tracking_uri as usual_tracking_uri

    if manifest.conversion.device == "gpu" and judged is None:
        from gauntlet.components.convert_to_onnx.processor import require_device

        require_device("gpu")  # now, rather than after the model is trained
    home = gauntlet_home()
    uris = registry_uri or home.registry_uri, tracking_uri or usual_tracking_uri(manifest, home)
    if command:
        os.environ[RUN_COMMAND_VARIABLE] = command
    try:
        _conclude(lambda: run_locally(manifest, home, *uris, console, cache, source, judged, origin))
    finally:
        os.environ.pop(RUN_COMMAND_VARIABLE, None)


def origin_given(
    manifest: Manifest, from_checkpoint: str | None, from_onnx: str | None, labels: str | None
) -> tuple[Origin | None, list[str]]:
    """The origin of the model that options name, None without them, and the options for a command line.

    Raises:
        UsageError: They do not go together, or there is no such model.
    """
    if from_checkpoint is not None and from_onnx is not None:
        raise UsageError("found both --from-checkpoint and --from-onnx, expected one of them.")
    if labels is not None and from_onnx is None:
        raise UsageError("--labels: these are the classes of an ONNX graph, and there is no --from-onnx.")
    if from_checkpoint is None and from_onnx is None:
        return None, []
    from gauntlet.components.train_model.imported import origin_of

    if from_checkpoint is not None:
        return origin_of(manifest, "checkpoint", from_checkpoint), ["--from-checkpoint", from_checkpoint]
    assert from_onnx is not None
    names = [name.strip() for name in (labels or "").split(",") if name.strip()]
    options = ["--from-onnx", from_onnx, *(["--labels", labels] if labels else [])]
    return origin_of(manifest, "onnx", from_onnx, names), options


def _conclude(start: Callable[[], FinishedRun]) -> NoReturn:
    """Run to the end, print how it ended, and exit with its code."""
    from gauntlet.pipelines.local.pruning import freed_bytes, over_bound, remove
    from gauntlet.pipelines.summary import print_summary

    bound = most_bytes()
    try:
        finished = start()
    except Interrupted as stopped:
        errors.say(f"interrupted: the run's processes are stopped and {stopped}")
        raise typer.Exit(EXIT_CODE) from None
    print_summary(finished, console)
    if bound is not None and (removals := over_bound(gauntlet_home(), bound)):
        what = ", ".join(one.name for one in removals)
        free = freed_bytes(removals)
        remove(removals)
        console.say(f"GAUNTLET_HOME_GB: removed {what}; {free / 1e6:,.1f} MB are free again")
    raise typer.Exit(finished.outcome.exit_code)


def _remove(removals: list[Removal], yes: bool, as_json: bool) -> None:
    from gauntlet.pipelines.local.pruning import freed_bytes, remove

    folder, free = gauntlet_home().folder, freed_bytes(removals)
    if as_json:
        print_json({"what": one.name, "why": one.why, "bytes": one.bytes, "removed": yes} for one in removals)
    elif removals:
        table = borderless(NAME_COLUMN("what"), "why", "MB")
        for one in removals:
            table.add_row(plain(one.name), plain(one.why), f"{one.bytes / 1e6:,.1f}")
        console.print(table)
    if yes:
        remove(removals)
    if as_json:
        return
    megabytes = f"{free / 1e6:,.1f} MB"
    shared = "Runs and the cache share files."
    if not removals:
        console.say(f"nothing to remove in {folder}")
    elif yes:
        console.say(f"removed from {folder}: {megabytes} are free again. {shared}")
    else:
        console.say(f"nothing was removed from {folder}: add --yes to free {megabytes}. {shared}")
