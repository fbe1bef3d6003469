"""The commands that work on this machine: manifests, runs and what is left of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from gauntlet import manifests
from gauntlet.backends.prices import over_budget, prices_source
from gauntlet.components.step import read_json
from gauntlet.components.write_report.collect import DONE_FILE
from gauntlet.manifests.errors import Fault, ManifestError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import SECTIONS, Manifest
from gauntlet.pipelines.checks import (
    command_line,
    load_affordable,
    require_data,
    require_vocabulary,
    resume_here,
    run_here,
    without_price,
)
from gauntlet.pipelines.home import ARGUMENTS_FILE, MANIFEST_FILE, Home, RunRecord, gauntlet_home
from gauntlet.pipelines.local.processes import remove_abandoned
from gauntlet.pipelines.local.pruning import of_run, old_cache, old_runs, remove
from gauntlet.pipelines.local.run import job_folder
from gauntlet.pipelines.resolution import margin_note
from gauntlet.pipelines.terminal import NAME_COLUMN, console, errors, plain
from gauntlet.pipelines.training import steps_of

app = typer.Typer()
HERE = "On this machine"
CHANGEABLE = ("evaluation", "gates", "registration")
JUDGING = "evaluate-model"

ManifestPath = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest, YAML or JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, VALUE in YAML; may be repeated."),
]


@app.command(rich_help_panel=HERE)
def check(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MANIFEST", help="Manifests; by default the packaged ones."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Report every fault of every manifest, and the most that a run may cost.

    If `dataset.size` is set, also report which margin against the champion the test split can show.
    """
    faults: list[Fault] = []
    notes: list[str] = []
    table = Table("manifest", "system", "task", "at most", "sha256", box=None, pad_edge=False)
    for path in paths or _packaged_manifests():
        try:
            manifest = load_affordable(path, overrides)
            require_data(manifest, path)
            require_vocabulary(manifest, path)
        except ManifestError as error:
            faults += error.faults
            continue
        resources = manifest.training.resources
        limit = f"{resources.max_hours:g} h, {resources.max_cost_usd:g} USD"
        table.add_row(str(path), manifest.name, manifest.task, limit, manifest.sha256[:12])
        notes += filter(None, [margin_note(manifest)])
    if table.row_count:
        console.print(table)
    for note in notes:
        console.print(plain(note), soft_wrap=True, highlight=False)
    if faults:
        raise ManifestError(faults)


@app.command(rich_help_panel=HERE)
def cost(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MANIFEST", help="Manifests; by default the packaged ones."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print what training may cost at most, how that is reckoned, and whether it fits the budget."""
    from gauntlet.pipelines.cost import Cost, cost_table, training_cost, tuning_note

    costs: list[Cost] = []
    notes: list[str] = []
    faults: list[Fault] = []
    for path in paths or _packaged_manifests():
        try:
            manifest = load_manifest(path, overrides or ())
            costs.append(training_cost(manifest))
            notes += filter(None, [tuning_note(manifest)])
        except ManifestError as error:
            faults += error.faults
        except UsageError as error:
            faults.append(without_price(str(path), error))
        else:
            faults += filter(None, [over_budget(manifest.training.resources, str(path))])
    if costs:
        console.print(cost_table(costs))
        for note in notes:
            console.print(plain(note), soft_wrap=True, highlight=False)
        console.print(plain(prices_source()), soft_wrap=True, highlight=False, style="dim")
    if faults:
        raise ManifestError(tuple(dict.fromkeys(faults)))  # a price file has the same fault for each


@app.command("compile", rich_help_panel=HERE)
def compile_(
    path: ManifestPath,
    platform: Annotated[
        Literal["vertex", "kubeflow"], typer.Option(help="Vertex AI Pipelines, or Kubeflow Pipelines.")
    ] = "vertex",
    output: Annotated[
        Path | None,
        typer.Option(help="Default: compiled/<manifest>.yaml, or compiled/kubeflow/<manifest>.yaml."),
    ] = None,
    sections: Annotated[
        str | None,
        typer.Option(metavar="URI", help="A folder for sections that are too large for a parameter."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Compile a manifest to a KFP pipeline spec."""
    from gauntlet.pipelines.compiling import compile_manifest, compiled_file
    from gauntlet.pipelines.platforms import notes
    from gauntlet.pipelines.training import keep_large_sections

    target = output or compiled_file(path, platform)
    manifest = load_affordable(path, overrides)
    compile_manifest(manifest, target, platform, sections=sections)
    if sections is not None:
        keep_large_sections(manifest, sections)
    console.print(f"compiled {path} to {target}", highlight=False)
    for note in notes(platform, manifest):
        console.print(plain(note), soft_wrap=True, highlight=False)


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
) -> None:
    """Run a manifest on this machine, from data to a promoted or rejected model."""
    if (path is None) == (resume is None):
        raise UsageError("found both or neither of MANIFEST and --resume, expected one of them.")
    if resume is not None:
        if overrides or no_cache:
            raise UsageError("--resume: a run is resumed with its own settings. Leave the other options out.")
        resume_here(resume)
    assert path is not None
    manifest = load_affordable(path, overrides)
    require_data(manifest, path)
    run_here(manifest, cache=not no_cache, source=path, command=command_line("run", path, overrides))


@app.command(rich_help_panel=HERE)
def validate(
    path: ManifestPath,
    output: Annotated[
        Path | None,
        typer.Option(help="The folder for the files. Default: validation/NAME in GAUNTLET_HOME."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Read and check a manifest's data without a run; list every faulty row. Exit 4 when a check fails."""
    from gauntlet.pipelines.validation import validate_data

    manifest = load_manifest(path, overrides or ())
    require_data(manifest, path)
    validate_data(
        manifest,
        output or gauntlet_home().validation_folder(manifest.name),
        command_line("validate", path, overrides, ["--output", str(output)] if output else ()),
        console,
    )


@app.command(rich_help_panel=HERE)
def tune(
    path: ManifestPath,
    trials: Annotated[int, typer.Option(min=1, help="Finished trials in all, earlier ones counted.")] = 20,
    timeout: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Begin no trial after it: 90s, 30m or 2h.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at the same time.")] = 1,
    output: Annotated[
        Path | None, typer.Option(help="The tuned manifest. Default: best.yaml beside the study.")
    ] = None,
    then_run: Annotated[bool, typer.Option("--run", help="Run the tuned manifest at the end.")] = False,
    spec: Annotated[
        Path | None, typer.Option("--compile", help="Write a Vertex AI tuning job instead; needs --staging.")
    ] = None,
    staging: Annotated[str, typer.Option(metavar="URI", help="gs:// folder for that job's files.")] = "",
    overrides: Overrides = None,
) -> None:
    """Search the best values of a manifest's `training.search`; resume an interrupted study."""
    from gauntlet.pipelines.local.processes import EXIT_CODE, Interrupted
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
        errors.print(f"interrupted: {left}", soft_wrap=True, highlight=False)
        raise typer.Exit(EXIT_CODE) from None
    if then_run:
        run_here(load_affordable(tuned.manifest, None), command=command_line("run", tuned.manifest, None))


@app.command(rich_help_panel=HERE)
def runs() -> None:
    """List the runs on this machine, newest first."""
    home = gauntlet_home()
    records = home.runs()
    if not records:
        message = f"no runs in {home.folder}: `gauntlet run MANIFEST` makes one, GAUNTLET_HOME names another."
        console.print(plain(message), soft_wrap=True, highlight=False)
        return
    table = Table(NAME_COLUMN("run"), "started (UTC)", "exit", "outcome", box=None, pad_edge=False)
    for record in records:
        code = "" if record.exit_code is None else str(record.exit_code)
        table.add_row(record.run_id, record.started[:19].replace("T", " "), code, record.shown_state())
    console.print(table)


@app.command(rich_help_panel=HERE)
def report(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run, or `latest`.")] = "latest",
) -> None:
    """Open a run's report in the browser and print where it lies."""
    from gauntlet.pipelines.home import REPORT_FILE

    home = gauntlet_home()
    record = home.find_run(run_id)
    page = home.run_folder(record.run_id) / REPORT_FILE
    if not page.is_file():
        raise UsageError(f"{page}: no such file; the run is {record.shown_state()}. Run it again.")
    console.print(plain(page), soft_wrap=True, highlight=False)
    if console.is_terminal:
        typer.launch(page.as_uri())


@app.command(rich_help_panel=HERE)
def compare(
    first: Annotated[str, typer.Argument(metavar="RUN", help="A run, or `latest`: A.")],
    second: Annotated[str, typer.Argument(metavar="RUN", help="Another run of the same task: B.")],
) -> None:
    """Hold two runs side by side, here and on a page with pictures."""
    from gauntlet.pipelines.comparison.command import compare_runs

    page = compare_runs(gauntlet_home(), first, second, console)
    if console.is_terminal:
        typer.launch(page.as_uri())


@app.command(rich_help_panel=HERE)
def smoke(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MANIFEST", help="Manifests; by default the packaged ones."),
    ] = None,
) -> None:
    """Run each system end to end with tiny settings; exit 1 when one does not reach its gate's decision."""
    from gauntlet.pipelines.local.processes import EXIT_CODE, Interrupted
    from gauntlet.pipelines.smoke.run import smoke_all, smoke_table

    try:
        smokes = smoke_all(paths or _packaged_manifests(), gauntlet_home(), console)
    except Interrupted:
        errors.print("interrupted: the run's processes are stopped; run it again.", soft_wrap=True)
        raise typer.Exit(EXIT_CODE) from None
    console.print()
    console.print(smoke_table(smokes))
    if any(each.result == "failed" for each in smokes):
        raise typer.Exit(1)


@app.command(rich_help_panel=HERE)
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


@app.command(rich_help_panel=HERE)
def rm(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Runs on this machine.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove; without this option only list what can be removed.")
    ] = False,
) -> None:
    """Remove runs with all their files. Registered models are kept."""
    home = gauntlet_home()
    records = [home.find_run(run) for run in dict.fromkeys(runs)]
    running = [record.run_id for record in records if home.is_running(record)]
    if running:
        raise UsageError(f"{', '.join(running)}: running. Stop it with Ctrl-C first.")
    remove([of_run(home, record, "asked for") for record in records], yes, home)


@app.command(rich_help_panel=HERE)
def prune(
    keep: Annotated[int, typer.Option(min=0, help="How many of each system's newest runs to keep.")] = 5,
    days: Annotated[float, typer.Option(min=0, help="Remove cached steps not used for so many days.")] = 30,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove; without this option only list what can be removed.")
    ] = False,
) -> None:
    """Remove old runs and old cached steps. Registered models and running runs are kept."""
    home = gauntlet_home()
    if yes:
        remove_abandoned()
    remove([*old_runs(home, keep), *old_cache(home, days)], yes, home)


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


def _packaged_manifests() -> list[Path]:
    return sorted(Path(manifests.__path__[0]).glob("*.yaml"))
