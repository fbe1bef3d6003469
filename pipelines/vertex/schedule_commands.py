"""The commands about schedules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from gauntlet.pipelines.terminal import NAME_COLUMN, console, plain
from gauntlet.pipelines.vertex.commands import (
    Project,
    Region,
    RegistryUri,
    Root,
    ServiceAccount,
    TrackingUri,
    TrainingAccount,
)

SchedulesFile = Annotated[Path, typer.Argument(metavar="FILE", help="Schedules, YAML: see docs/vertex.md.")]

schedule = typer.Typer(help="Run manifests again and again.", no_args_is_help=True)


@schedule.command("apply")
def apply_(
    path: SchedulesFile,
    project: Project,
    region: Region,
    root: Root,
    registry: RegistryUri,
    tracking: TrackingUri = None,
    service_account: ServiceAccount = None,
    training_account: TrainingAccount = None,
    diff: Annotated[bool, typer.Option("--diff", help="Say what would change, change nothing.")] = False,
) -> None:
    """Make the schedules on Vertex AI what the file says."""
    from gauntlet.backends.google.jobs import CONTENT_LABEL, PipelineSchedules
    from gauntlet.pipelines.vertex.applying import apply, plan
    from gauntlet.pipelines.vertex.schedules import read_schedules
    from gauntlet.pipelines.vertex.submission import Destination

    destination = Destination.of(project, region, root, registry, tracking, service_account, training_account)
    wanted = read_schedules(path)
    schedules = PipelineSchedules(destination.place)
    plans = [plan(one, destination, schedules) for one in wanted]  # all, before any is changed
    table = Table(NAME_COLUMN("schedule"), "key", "there", "in the file", box=None, pad_edge=False)
    for one in plans:
        for change in one.changes:
            table.add_row(one.schedule.name, *map(plain, (change.key, change.found, change.wanted)))
    if table.row_count:
        console.print(table)
    names = {one.name for one in wanted}
    for other in schedules.all():
        if (
            other.display_name not in names
            and CONTENT_LABEL in other.create_pipeline_job_request.pipeline_job.labels
        ):
            console.print(
                f"{plain(other.display_name)} is not in the file, and stays as it is", highlight=False
            )
    if diff:
        console.print("nothing was changed" if table.row_count else "nothing would change")
        return
    for one in plans:
        apply(one, schedules)
    console.print(
        f"as the file says: {plain(', '.join(one.schedule.name for one in plans))}", highlight=False
    )


@schedule.command()
def render(
    path: SchedulesFile,
    project: Project,
    region: Region,
    root: Root,
    registry: RegistryUri,
    service_account: ServiceAccount = None,
    training_account: TrainingAccount = None,
    tracking: TrackingUri = None,
    output: Annotated[Path, typer.Option(help="A folder for one file per schedule.")] = Path("scheduler"),
) -> None:
    """Write the schedules as Cloud Scheduler jobs instead, as its API takes them."""
    from gauntlet.pipelines.vertex.applying import cloud_scheduler_job
    from gauntlet.pipelines.vertex.schedules import read_schedules
    from gauntlet.pipelines.vertex.submission import Destination

    destination = Destination.of(project, region, root, registry, tracking, service_account, training_account)
    jobs = {one.name: cloud_scheduler_job(one, destination) for one in read_schedules(path)}
    output.mkdir(parents=True, exist_ok=True)
    for name, job in jobs.items():
        file = output / f"{name}.json"
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(job, indent=2) + "\n", encoding="utf-8")
        temporary.replace(file)
        console.print(f"wrote {plain(file)}", soft_wrap=True, highlight=False)
