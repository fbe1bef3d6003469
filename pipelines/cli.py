"""The `gauntlet` command.

Exit codes: 0 done (of a run: promoted), 1 failure, 2 bad usage, 3 rejected by a gate, 4 bad data,
130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from gauntlet import manifests
from gauntlet.backends.prices import over_budget, prices_source
from gauntlet.manifests.errors import Fault, GauntletError, ManifestError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.pipelines.bundle_commands import bundle
from gauntlet.pipelines.doctor.command import doctor
from gauntlet.pipelines.gate_command import gate
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.pipelines.pruning import prune, rm
from gauntlet.pipelines.registry_commands import predict, promote, registry, rollback
from gauntlet.pipelines.resolution import margin_note
from gauntlet.pipelines.run_command import (
    command_line,
    load_affordable,
    require_data,
    require_vocabulary,
    resume_here,
    run_here,
    without_price,
)
from gauntlet.pipelines.terminal import NAME_COLUMN, console, errors, plain, print_any_text, styled
from gauntlet.pipelines.vertex.commands import cancel, logs, status, submit, upload
from gauntlet.pipelines.vertex.schedule_commands import schedule
from gauntlet.serving.bundle import BundleError

app = typer.Typer(
    help="Retrain a model; ship it only after it has run the gauntlet.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Environment: GAUNTLET_HOME, where runs and models are kept (default `.gauntlet` in the working "
    "folder); GAUNTLET_REGISTRY, another registry than that in it; GAUNTLET_PRICES, a file of prices. "
    "Exit codes: 0 done, 1 failure, 2 bad usage, 3 rejected by a gate, 4 bad data, 130 interrupted.",
)
HERE, MODELS, CLOUD = "On this machine", "Models", "On Google Cloud"

ManifestPath = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest, YAML or JSON.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, VALUE in YAML; may be repeated."),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code; a mistake of the user's never shows a traceback."""
    print_any_text()
    try:
        app(args=list(arguments) if arguments is not None else None)
    except ManifestError as error:
        _print_faults(error.faults)
        sys.exit(error.exit_code)
    except GauntletError as error:
        _print_error(error)
        sys.exit(error.exit_code)
    except BundleError as error:
        _print_error(error)
        sys.exit(1)
    except OSError as error:
        cause = f"{error.filename or gauntlet_home().folder}: {error.strerror or error}"
        _print_error(cause)
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"gauntlet {metadata.version('gauntlet')}", highlight=False)
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Retrain a model; ship it only after it has run the gauntlet."""


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
    from gauntlet.pipelines.interruption import EXIT_CODE, Interrupted
    from gauntlet.pipelines.tuning.command import compile_study, tune_here, tuning_of

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
    from gauntlet.pipelines.interruption import EXIT_CODE, Interrupted
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


PANELS: Mapping[str, Sequence[Callable[..., None]]] = {
    HERE: (gate, rm, prune),
    MODELS: (registry, predict, promote, rollback),
    CLOUD: (submit, status, cancel, logs, upload),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(bundle, name="bundle", rich_help_panel=MODELS)
app.add_typer(schedule, name="schedule", rich_help_panel=CLOUD)
app.command(rich_help_panel=CLOUD)(doctor)


def _packaged_manifests() -> list[Path]:
    return sorted(Path(manifests.__path__[0]).glob("*.yaml"))


def _print_error(error: object) -> None:
    errors.print(styled("[red]error:[/] {}", error), soft_wrap=True, highlight=False)


def _print_faults(faults: Iterable[Fault]) -> None:
    for fault in faults:
        errors.print(
            styled("[red]{}: [bold]{}[/][/]", fault.file, fault.key), soft_wrap=True, highlight=False
        )
        for name, text in (("found", fault.found), ("expected", fault.expected), ("do", fault.action)):
            errors.print(f"  {name:8} {plain(text)}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
