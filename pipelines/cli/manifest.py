"""The commands that read manifests and train nothing: new, check, cost, compile, validate, tasks, schema."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import TypeAdapter, ValidationError

from gauntlet.manifests.errors import DataError, Fault, ManifestError, UsageError
from gauntlet.pipelines.cli.options import HERE, AsJson, ManifestPath, ManifestPaths, Overrides
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.pipelines.terminal import borderless, console, errors, print_json

app = typer.Typer()
CHECKS_FILE, PAGE_FILE = "checks.json", "report.html"


@app.command(rich_help_panel=HERE)
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The system's name, such as tickets.")],
    data: Annotated[str, typer.Option(help="A file or folder of rows or images, here or in a bucket.")],
    task: Annotated[
        str | None, typer.Option(help="The task kind. Default: the one that the data suit best.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="What the system is for.")] = None,
    output: Annotated[Path | None, typer.Option(help="The manifest's file. Default: NAME.yaml.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Look at data, and write a manifest for them; then check both. Exit 4 when a check of the data fails.

    Example: `gauntlet new tickets --data tickets.csv`
    """
    from gauntlet.contracts.data import Checks
    from gauntlet.manifests.section import Name
    from gauntlet.pipelines.scaffold import add_bounds, manifest_text, propose

    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        cause = error.errors()[0]["msg"]
        raise UsageError(f"NAME: found {name!r}, expected such as my_tickets: {cause}") from None
    file = output or Path(f"{name}.yaml")
    if file.exists() and not force:
        raise UsageError(f"{file}: found a file, expected none. Give --output or --force")
    proposed = propose(data, task)
    text = manifest_text(name, data, file, proposed, description)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    console.say(f"wrote {file}: task {proposed.task}, since {proposed.proposal.why}")
    check([file])
    try:
        validate(file)
    except DataError:
        checks = gauntlet_home().validation_folder(name) / CHECKS_FILE
        if checks.is_file() and add_bounds(file, Checks.read(checks)):
            console.say(f"The bounds are at the end of {file} too, as comments.")
        raise
    console.say(f"next: gauntlet run {file}")


@app.command(rich_help_panel=HERE)
def check(paths: ManifestPaths = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Report every fault of every manifest, and the most that a run may cost.

    If `dataset.size` is set, also report which margin against the champion the test split can show.

    Example: `gauntlet check manifests/emotion_sample.yaml`
    """
    from gauntlet.pipelines import checks

    faults: list[Fault] = []
    rows, notes = [], []
    table = borderless("manifest", "system", "task", "at most", "sha256")
    for path in paths or checks.packaged_manifests():
        try:
            manifest = checks.load_affordable(path, overrides)
            checks.require_data(manifest, path)
            manifest.require_vocabulary(str(path))
        except ManifestError as error:
            faults += error.faults
            continue
        resources = manifest.training.resources
        limit = f"{resources.max_hours:g} h, {resources.max_cost_usd:g} USD"
        table.add_row(str(path), manifest.name, manifest.task, limit, manifest.sha256[:12])
        note = checks.margin_note(manifest)
        notes += [note] if note else []
        row = {"manifest": str(path), "system": manifest.name, "task": manifest.task}
        limits = {"max_hours": resources.max_hours, "max_cost_usd": resources.max_cost_usd}
        rows.append({**row, **limits, "sha256": manifest.sha256, "note": note})
    if as_json:
        print_json(rows)
    elif table.row_count:
        console.print(table)
        for note in notes:
            console.say(note)
    if faults:
        raise ManifestError(faults)


@app.command(rich_help_panel=HERE)
def cost(paths: ManifestPaths = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print what training may cost at most, how that is computed, and whether it fits the budget.

    Example: `gauntlet cost manifests/gemini_lm.yaml`
    """
    from gauntlet.backends.prices import over_budget, prices_source
    from gauntlet.manifests.loading import load_manifest
    from gauntlet.pipelines import checks

    costs: list[checks.Cost] = []
    faults: list[Fault] = []
    for path in paths or checks.packaged_manifests():
        try:
            manifest = load_manifest(path, overrides or ())
            costs.append(checks.training_cost(manifest))
        except ManifestError as error:
            faults += error.faults
        except UsageError as error:
            faults.append(checks.without_price(str(path), error))
        else:
            faults += filter(None, [over_budget(manifest.training.resources, str(path))])
    if as_json:
        print_json(one.as_json() for one in costs)
    elif costs:
        console.print(checks.cost_table(costs))
        for note in filter(None, (one.note for one in costs)):
            console.say(note)
        console.say(prices_source(), style="dim")
    if faults:
        raise ManifestError(tuple(dict.fromkeys(faults)))  # a price file has the same fault for each


@app.command("compile", rich_help_panel=HERE)
def compile_(
    paths: Annotated[list[Path], typer.Argument(metavar="MANIFEST...", help="Manifests, YAML or JSON.")],
    platform: Annotated[
        Literal["vertex", "kubeflow", "both"],
        typer.Option(help="Vertex AI Pipelines, Kubeflow Pipelines, or both."),
    ] = "vertex",
    output: Annotated[
        Path | None,
        typer.Option(help="The file; with several manifests or platforms, a folder instead of compiled/."),
    ] = None,
    sections: Annotated[
        str | None,
        typer.Option(metavar="URI", help="A folder for sections that are too large for a parameter."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Compile manifests to KFP pipeline specs, by default compiled/MANIFEST.yaml and compiled/kubeflow/….

    Example: `gauntlet compile manifests/emotion_sample.yaml --platform kubeflow`
    """
    from gauntlet.pipelines.checks import load_affordable, load_all
    from gauntlet.pipelines.monitoring import compile_monitoring, is_monitored, monitoring_file
    from gauntlet.pipelines.platforms import Platform, notes
    from gauntlet.pipelines.training import compile_manifest, compiled_file, keep_large_sections

    platforms: tuple[Platform, ...] = ("vertex", "kubeflow") if platform == "both" else (platform,)
    manifests = load_all(paths, lambda path: load_affordable(path, overrides))
    is_file = len(paths) == len(platforms) == 1
    for path, manifest in manifests:
        for each in platforms:
            target = compiled_file(path, each, output or Path("compiled"))
            if output is not None and is_file:
                target = output
            compile_manifest(manifest, target, each, sections=sections)
            console.say(f"compiled {path} to {target}")
            if is_monitored(manifest):
                watching = monitoring_file(
                    path, each, target.parent if is_file else output or Path("compiled")
                )
                compile_monitoring(manifest, watching, each)
                console.say(f"compiled {path} to {watching}")
            for note in notes(each, manifest):
                console.say(note)
        if sections is not None:
            keep_large_sections(manifest, sections)


@app.command(rich_help_panel=HERE)
def validate(
    path: ManifestPath,
    output: Annotated[
        Path | None,
        typer.Option(help="The folder for the files. Default: validation/NAME in GAUNTLET_HOME."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Read and check a manifest's data without a run; list every faulty row. Exit 4 when a check fails.

    Example: `gauntlet validate tickets.yaml`
    """
    from gauntlet.components.validate_data.run import run
    from gauntlet.components.write_report.next_steps import refusal_advice
    from gauntlet.contracts.data import REJECTED_FILE, Checks
    from gauntlet.manifests.loading import load_manifest
    from gauntlet.pipelines.checks import command_line, require_data
    from gauntlet.pipelines.summary import print_steps

    manifest = load_manifest(path, overrides or ())
    require_data(manifest, path)
    command = command_line("validate", path, overrides, ["--output", str(output)] if output else ())
    folder = output or gauntlet_home().validation_folder(manifest.name)
    checks, page, rejected = files = [folder / name for name in (CHECKS_FILE, PAGE_FILE, REJECTED_FILE)]
    for file in files:
        file.unlink(missing_ok=True)
    try:
        # Some faults are found only while the splits are made; these are deleted.
        with tempfile.TemporaryDirectory(prefix="gauntlet-validate-") as splits:
            run(manifest.task, manifest.dataset, Path(splits), checks, page, rejected, show_checks=True)
    except DataError:
        if checks.is_file() and not (found := Checks.read(checks)).passed:
            print_steps(refusal_advice(found, command, str(rejected) if found.rejected else None), console)
        raise
    finally:
        for name, file in zip(("checks", "report", "rejected"), files, strict=True):
            if file.is_file():
                console.say(f"{name + ':':10}{file!s}")


@app.command(rich_help_panel=HERE)
def tasks(as_json: AsJson = False) -> None:
    """List the task kinds that are built in or installed; exit 1 when one cannot be used.

    Example: `gauntlet tasks --json`
    """
    from gauntlet.manifests.kinds import installed_kinds

    found = installed_kinds()
    if as_json:
        print_json(
            {
                "task": one.name,
                "title": one.kind.title if one.kind else None,
                "metrics": [metric.name for metric in one.kind.metrics] if one.kind else [],
                "distribution": one.distribution,
                "fault": one.fault,
            }
            for one in found
        )
    else:
        table = borderless("task", "title", "metrics", "from")
        for one in found:
            if one.kind is not None:
                metrics = ", ".join(metric.title for metric in one.kind.metrics)
                table.add_row(one.name, one.kind.title, metrics, one.distribution)
        console.print(table)
    faulty = [one for one in found if one.fault is not None]
    for one in faulty:
        errors.say(f"task kind {one.name} of {one.distribution}: {one.fault}")
    if faulty:
        raise typer.Exit(1)


@app.command(rich_help_panel=HERE)
def schema(
    output: Annotated[
        Path | None, typer.Option(help="The file to write; without it the schema is printed.")
    ] = None,
) -> None:
    """Print the JSON Schema of manifests, by which editors complete and check keys.

    Example: `gauntlet schema --output manifest.schema.json`
    """
    from gauntlet.manifests.json_schema import manifest_schema_text

    text = manifest_schema_text()
    if output is None:
        console.out(text, end="", highlight=False)
    else:
        output.write_text(text, encoding="utf-8")
        console.say(f"wrote {output}")
