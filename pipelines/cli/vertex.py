"""The commands about Google Cloud: runs on Vertex AI, templates, schedules, and doctor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.pipelines.cli.options import (
    CLOUD,
    AsJson,
    FromCheckpoint,
    FromOnnx,
    GraphLabels,
    Overrides,
    Project,
    Region,
    RegistryUri,
    Root,
    ServiceAccount,
    TrackingUri,
    TrainingAccount,
)
from gauntlet.pipelines.cli.run import origin_given, run_here
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.pipelines.local.processes import EXIT_CODE, Interrupted, interruptible
from gauntlet.pipelines.terminal import NAME_COLUMN, borderless, console, errors, plain, print_json, styled

if TYPE_CHECKING:
    from gauntlet.manifests.schema import Manifest
    from gauntlet.pipelines.vertex.doctor import Finding
    from gauntlet.pipelines.vertex.submission import Destination, SubmittedRun

app = typer.Typer()
schedule = typer.Typer(help="Run manifests on a schedule.", no_args_is_help=True)
app.add_typer(schedule, name="schedule", rich_help_panel=CLOUD)
COLOURS = {"ok": "green", "missing": "red", "not seen": "yellow", "limited": "yellow"}

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's ID, `latest`, or projects/…/pipelineJobs/….")
]
SchedulesFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="Schedules, YAML: see docs/how-to/schedule_runs.md.")
]


@app.command(rich_help_panel=CLOUD)
def submit(
    project: Project,
    region: Region,
    root: Root,
    registry: RegistryUri,
    path: Annotated[Path | None, typer.Argument(metavar="MANIFEST", help="YAML or JSON.")] = None,
    template: Annotated[
        str | None,
        typer.Option(metavar="URI@sha256:…", help="Instead of a manifest: a template in Artifact Registry."),
    ] = None,
    tracking: TrackingUri = None,
    service_account: ServiceAccount = None,
    training_account: TrainingAccount = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run, and exit as `run` does.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, send nothing.")] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Run every step; reuse nothing from earlier runs.")
    ] = False,
    fallback_local: Annotated[
        bool,
        typer.Option("--fallback-local", help="If a quota is too small, run on this machine."),
    ] = False,
    overrides: Overrides = None,
    from_checkpoint: FromCheckpoint = None,
    from_onnx: FromOnnx = None,
    labels: GraphLabels = None,
) -> None:
    """Run a manifest, or a template, on Vertex AI Pipelines.

    Example: `gauntlet submit tickets.yaml --wait`
    """
    from gauntlet.pipelines.checks import load_affordable
    from gauntlet.pipelines.local.run import commit_of
    from gauntlet.pipelines.summary import print_summary
    from gauntlet.pipelines.vertex.follow import conclude, has_trained
    from gauntlet.pipelines.vertex.submission import Destination, check_submission, compiled_submission
    from gauntlet.pipelines.vertex.submission import submit as send
    from gauntlet.pipelines.vertex.templates import template_submission

    if (path is None) == (template is None):
        raise UsageError("found both or neither of MANIFEST and --template, expected one of them.")
    if (from_checkpoint or from_onnx) and (template is not None or fallback_local):
        raise UsageError(
            "--from-checkpoint, --from-onnx: they go neither with --template nor with --fallback-local, "
            "which train."
        )
    destination = Destination.of(project, region, root, registry, tracking, service_account, training_account)
    if path is not None:
        manifest = load_affordable(path, overrides)
        origin, _ = origin_given(manifest, from_checkpoint, from_onnx, labels)
        submission = compiled_submission(manifest, destination, origin)
        submission = replace(submission, commit=commit_of(path.resolve().parent))
    else:
        submission = template_submission(str(template), overrides or ())
    if no_cache:
        submission = submission.without_cache()
    here = submission.manifest if fallback_local and not dry_run else None
    with _refused(here, destination):
        check_submission(submission, destination, console)
        run = None if dry_run else send(submission, destination, gauntlet_home())
    if run is None:
        console.print("nothing was submitted: this was a dry run")
        return
    console.say(f"submitted {run.name}")
    console.say(run.console_url)
    if not wait:
        console.print(styled("[dim]→[/] see its progress:  [bold]gauntlet status {}[/]", run.run_id))
        return
    job = _followed(run)
    assert run.record is not None, "a run that was just submitted has a record"
    with _refused(None if has_trained(job) else here, destination):  # do not pay for training twice
        finished = conclude(job, run.record, gauntlet_home())
    print_summary(finished, console)
    raise typer.Exit(finished.outcome.exit_code)


@app.command(rich_help_panel=CLOUD)
def status(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="A submitted run's ID, `latest`, or projects/…/pipelineJobs/…."),
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Print the models again each second.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what is registered and served of each model; with RUN the steps of a submitted run.

    Without RUN and without any model, it is the run that was submitted last.

    Example: `gauntlet status --live`
    """
    from gauntlet.pipelines.cli.deployment import print_models

    if run is None and (print_models(live, as_json) or live):
        return
    from gauntlet.backends.google.jobs import PipelineJobs
    from gauntlet.pipelines.summary import print_summary
    from gauntlet.pipelines.vertex.follow import ENDED, JobView, conclude, state_of
    from gauntlet.pipelines.vertex.submission import submitted_run

    home = gauntlet_home()
    submitted = submitted_run(run or "latest", home)
    job = PipelineJobs(submitted.location).get(submitted.name)
    view = JobView(job)
    view.update(job)
    if as_json:
        print_json(
            {"run": submitted.name, "step": step.name, "state": step.state, "message": step.line}
            for step in view.steps.values()
        )
        return
    table = borderless("step", "state", "")
    for step in view.steps.values():
        table.add_row(step.name, step.state, plain(step.line))
    console.print(table)
    console.say(f"{submitted.name}: {state_of(job)}")
    if job.error.message:
        console.say(job.error.message)
    if state_of(job) in ENDED and submitted.record is not None:
        print_summary(conclude(job, submitted.record, home), console)


@app.command(rich_help_panel=CLOUD)
def cancel(run: Run) -> None:
    """Cancel a submitted run.

    Example: `gauntlet cancel latest`
    """
    from gauntlet.backends.google.jobs import PipelineJobs
    from gauntlet.pipelines.vertex.follow import ENDED, state_of
    from gauntlet.pipelines.vertex.submission import submitted_run

    submitted = submitted_run(run, gauntlet_home())
    jobs = PipelineJobs(submitted.location)
    state = state_of(jobs.get(submitted.name))
    if state in ENDED:
        raise UsageError(f"{submitted.name}: it has ended already: {state}.")
    jobs.cancel(submitted.name)
    console.say(f"{submitted.name}: cancelling")


@app.command(rich_help_panel=CLOUD)
def logs(
    run: Run = "latest",
    step: Annotated[str | None, typer.Option(help="One step's lines only, such as train-model.")] = None,
) -> None:
    """Print what the steps of a run have printed: of one on this machine, or a submitted one.

    Example: `gauntlet logs latest --step train-model`
    """
    from gauntlet.pipelines.training import STEPS
    from gauntlet.pipelines.vertex.submission import local_logs, submitted_run

    if step is not None and step not in STEPS:
        raise UsageError(f"--step: found {step!r}, expected one of {', '.join(STEPS)}.")
    if (folder := local_logs(run, gauntlet_home())) is not None:
        _print_logs(folder, [step] if step else STEPS)
        return
    from gauntlet.backends.google.jobs import PipelineJobs, job_log

    submitted = submitted_run(run, gauntlet_home())
    job = PipelineJobs(submitted.location).get(submitted.name)
    shown = False
    for task in job.job_detail.task_details:
        custom_job = _custom_job(task)
        if task.task_name not in STEPS or step not in (None, task.task_name) or not custom_job:
            continue
        for line in job_log(submitted.location.project, custom_job.rpartition("/")[2]):
            shown = True
            console.say(f"{task.task_name}: {line}")
    if not shown:
        console.print("nothing has been printed yet")


def _print_logs(folder: Path, steps: Sequence[str]) -> None:
    """The lines of a local run's steps, in the order of the steps."""
    files = [file for step in steps if (file := folder / f"{step}.log").is_file()]
    for file in files:
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            console.say(f"{file.stem}: {line}")
    if not files:
        console.say(f"nothing in {folder}: {' and '.join(steps)} did not start, or came from the cache")


@app.command(rich_help_panel=CLOUD)
def upload(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Compiled pipelines.")],
    repository: Annotated[
        str, typer.Option(envvar="GAUNTLET_TEMPLATES", help="https://REGION-kfp.pkg.dev/PROJECT/REPOSITORY.")
    ],
    tag: Annotated[str | None, typer.Option(help="Default: the checkout's commit.")] = None,
) -> None:
    """Upload compiled pipelines as templates to Artifact Registry.

    Example: `gauntlet upload compiled/emotion.yaml --tag v1`
    """
    from gauntlet.pipelines.local.run import git_commit
    from gauntlet.pipelines.vertex.templates import upload as upload_template

    commit = tag or git_commit()
    if tag is None and (commit == "unknown" or commit.endswith("-dirty")):
        raise UsageError(
            f"--tag: found none, and the checkout's commit is {commit}. Commit first, or name a tag."
        )
    for path in paths:
        console.say(str(upload_template(path, repository, commit)))


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
    diff: Annotated[bool, typer.Option("--diff", help="Only print what would change.")] = False,
    as_json: AsJson = False,
) -> None:
    """Create and update the schedules on Vertex AI, so that they match the file.

    Example: `gauntlet schedule apply schedules.yaml`
    """
    from gauntlet.backends.google.jobs import CONTENT_LABEL, PipelineSchedules
    from gauntlet.pipelines.vertex.schedules import apply, plan, read_schedules
    from gauntlet.pipelines.vertex.submission import Destination

    destination = Destination.of(project, region, root, registry, tracking, service_account, training_account)
    wanted = read_schedules(path)
    schedules = PipelineSchedules(destination.location)
    plans = [plan(one, destination, schedules) for one in wanted]  # all, before any is changed
    rows = [{"schedule": one.schedule.name, **asdict(change)} for one in plans for change in one.changes]
    notes = errors if as_json else console
    if as_json:
        print_json(rows)
    elif rows:
        table = borderless(NAME_COLUMN("schedule"), "key", "there", "in the file")
        for row in rows:
            table.add_row(*map(plain, row.values()))
        console.print(table)
    names = {one.name for one in wanted}
    for other in schedules.all():
        is_ours = CONTENT_LABEL in other.create_pipeline_job_request.pipeline_job.labels
        if is_ours and other.display_name not in names:
            notes.say(f"{other.display_name} is not in the file, and was not changed")
    if diff:
        notes.print("nothing was changed" if rows else "nothing would change")
        return
    for one in plans:
        apply(one, schedules)
    notes.say(f"schedules now match the file: {', '.join(one.schedule.name for one in plans)}")


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
    """Write the schedules as Cloud Scheduler jobs, in the JSON of its API.

    Example: `gauntlet schedule render schedules.yaml`
    """
    from gauntlet.contracts.document import write_text
    from gauntlet.pipelines.vertex.schedules import cloud_scheduler_job, read_schedules
    from gauntlet.pipelines.vertex.submission import Destination

    destination = Destination.of(project, region, root, registry, tracking, service_account, training_account)
    jobs = {one.name: cloud_scheduler_job(one, destination) for one in read_schedules(path)}
    for name, job in jobs.items():
        file = output / f"{name}.json"
        write_text(file, json.dumps(job, indent=2) + "\n")
        console.say(f"wrote {file}")


@app.command(rich_help_panel=CLOUD)
def doctor(
    project: Annotated[str | None, typer.Option(help="ID of the Google Cloud project.")] = None,
    region: Annotated[
        str | None, typer.Option(help="Region of pipelines, such as europe-west4; needed with --project.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what this machine, or with --project a Google Cloud project, lacks, and what to do about it.

    Nothing is changed. Exit 1 when the project lacks something; what this machine lacks is no failure.

    Example: `gauntlet doctor`
    """
    if project is None and region is None:
        _examine_machine(as_json)
        return
    if project is None or region is None:
        given, other = ("--project", "--region") if project else ("--region", "--project")
        raise UsageError(f"{given} without {other}: give both, or neither to look at this machine")
    from gauntlet.backends.google.rest import Rest
    from gauntlet.pipelines.vertex.doctor import Examination, needs

    findings = list(Examination(Rest(), needs(), project, region).findings())
    if as_json:
        print_json(asdict(finding) for finding in findings)
    else:
        _print_findings(findings)
    missing, unseen = (sum(each.state == state for each in findings) for state in ("missing", "not seen"))
    if missing:
        raise GauntletError(
            f"{project}: {missing} of {len(findings)} needs missing, {unseen} not seen. Do what is listed, "
            "or all of it by `terraform -chdir=infra apply`."
        )
    notes = errors if as_json else console
    notes.say(f"{project}: nothing missing of {len(findings)} needs, {unseen} not seen")


def _examine_machine(as_json: bool) -> None:
    from gauntlet.pipelines.machine import examine

    findings = list(examine(gauntlet_home().folder))
    if as_json:
        print_json(asdict(finding) for finding in findings)
        return
    table = borderless("", "found", "state")
    for each in findings:
        table.add_row(each.what, plain(each.found), Text(each.state, COLOURS[each.state]))
    console.print(table)
    for each in findings:
        if each.meaning:
            console.say(f"{each.what}: {each.meaning}")


def _print_findings(findings: Sequence[Finding]) -> None:
    """A table that numbers the actions, and each action once below it on a line of its own, to be copied."""
    actions = list(dict.fromkeys(each.action for each in findings if each.action))
    table = borderless("", NAME_COLUMN("need"), "state", "to do")
    for each in findings:
        number = str(actions.index(each.action) + 1) if each.action else ""
        table.add_row(each.group, plain(each.need), Text(each.state, COLOURS[each.state]), number)
    console.print(table)
    for place, action in enumerate(actions, start=1):
        console.say(f"{place:3}  {action}")


def _custom_job(task: Any) -> str:
    """The custom job that a step ran as: its own, or the one that Vertex created for a plain step."""
    detail = task.executor_detail
    return str(detail.custom_job_detail.job or detail.container_detail.main_job)


def _followed(run: SubmittedRun) -> Any:
    from gauntlet.backends.google.jobs import PipelineJobs
    from gauntlet.pipelines.vertex.follow import follow

    try:
        with interruptible():
            return follow(PipelineJobs(run.location), run.name, console)
    except Interrupted:
        errors.print(f"interrupted: the run continues. End it with `gauntlet cancel {run.run_id}`.")
        raise typer.Exit(EXIT_CODE) from None


@contextmanager
def _refused(here: Manifest | None, destination: Destination) -> Iterator[None]:
    """If a quota is too small for the block, run the manifest `here`, if any, on this machine."""
    from gauntlet.backends.google.calls import QuotaError

    try:
        yield
    except QuotaError as error:
        if here is None:
            raise
        errors.say(error)
        console.say(f"running it on this machine; a version is registered in {destination.registry_uri}")
        run_here(here, destination.registry_uri, destination.tracking_uri)
