"""The commands that send runs to Vertex AI, look at them there and end them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gauntlet.backends.google.errors import QuotaError
from gauntlet.backends.google.jobs import PipelineJobs, job_log
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.pipelines.interruption import EXIT_CODE, Interrupted, interruptible
from gauntlet.pipelines.run_command import load_affordable, run_here
from gauntlet.pipelines.terminal import console, errors, plain, styled

Project = Annotated[str, typer.Option(envvar="GAUNTLET_PROJECT", help="The Google Cloud project's id.")]
Region = Annotated[str, typer.Option(envvar="GAUNTLET_REGION", help="Such as europe-west4.")]
Root = Annotated[str, typer.Option(envvar="GAUNTLET_ROOT", help="gs://BUCKET/FOLDER for steps' outputs.")]
RegistryUri = Annotated[
    str, typer.Option("--registry", envvar="GAUNTLET_REGISTRY", help="Where versions are registered.")
]
TrackingUri = Annotated[
    str | None,
    typer.Option("--tracking", envvar="GAUNTLET_TRACKING", help="Default: Vertex AI Experiments there."),
]
ServiceAccount = Annotated[
    str | None, typer.Option(envvar="GAUNTLET_SERVICE_ACCOUNT", help="Whom the steps run as.")
]
TrainingAccount = Annotated[
    str | None,
    typer.Option(envvar="GAUNTLET_TRAINING_ACCOUNT", help="Whom train-model runs as. Default: as the steps."),
]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, `latest`, or projects/…/pipelineJobs/….")
]


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
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end, exit as `run` does.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, send nothing.")] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Run every step anew, whatever earlier runs have left.")
    ] = False,
    fallback_local: Annotated[
        bool, typer.Option("--fallback-local", help="Refused for a quota: run the manifest on this machine.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, VALUE in YAML; may be repeated."),
    ] = None,
) -> None:
    """Run a manifest, or a template, on Vertex AI Pipelines."""
    from gauntlet.pipelines.local_run import commit_of
    from gauntlet.pipelines.summary import print_summary
    from gauntlet.pipelines.vertex.follow import conclude, has_trained
    from gauntlet.pipelines.vertex.submission import Destination
    from gauntlet.pipelines.vertex.submit import check_submission, compiled_submission
    from gauntlet.pipelines.vertex.submit import submit as send
    from gauntlet.pipelines.vertex.templates import template_submission

    if (path is None) == (template is None):
        raise UsageError("found both or neither of MANIFEST and --template, expected one of them.")
    destination = Destination.of(project, region, root, registry, tracking, service_account, training_account)
    if path is not None:
        submission = compiled_submission(load_affordable(path, overrides), destination)
        submission = replace(submission, commit=commit_of(path.resolve().parent))
    else:
        submission = template_submission(str(template), overrides or ())
    if no_cache:
        submission = submission.without_cache()
    here = submission.manifest if fallback_local and not dry_run else None
    with _refused(here, destination):
        check_submission(submission, destination, console)
        run: Any = None if dry_run else send(submission, destination, gauntlet_home())
    if run is None:
        console.print("nothing was submitted: this was a dry run")
        return
    console.print(f"submitted {plain(run.name)}", soft_wrap=True, highlight=False)
    if not wait:
        console.print(styled("[dim]→[/] see how far it is:  [bold]gauntlet status {}[/]", run.run_id))
        return
    job = _followed(run)
    with _refused(None if has_trained(job) else here, destination):  # what is paid for is not done again
        finished = conclude(job, run.record, gauntlet_home())
    print_summary(finished, console)
    raise typer.Exit(finished.outcome.exit_code)


def status(run: Run = "latest") -> None:
    """Say how far a submitted run is; when it has ended, how."""
    from gauntlet.pipelines.summary import print_summary
    from gauntlet.pipelines.vertex.follow import ENDED, JobView, conclude, state_of
    from gauntlet.pipelines.vertex.submit import submitted_run

    home = gauntlet_home()
    submitted = submitted_run(run, home)
    job = PipelineJobs(submitted.place).get(submitted.name)
    view = JobView(job)
    view.update(job)
    table = Table("step", "state", "", box=None, pad_edge=False)
    for step in view.steps.values():
        table.add_row(step.name, step.state, plain(step.line))
    console.print(table)
    console.print(f"{plain(submitted.name)}: {state_of(job)}", soft_wrap=True, highlight=False)
    if job.error.message:
        console.print(plain(job.error.message), soft_wrap=True, highlight=False)
    if state_of(job) in ENDED and submitted.record is not None:
        print_summary(conclude(job, submitted.record, home), console)


def cancel(run: Run) -> None:
    """End a submitted run."""
    from gauntlet.pipelines.vertex.follow import ENDED, state_of
    from gauntlet.pipelines.vertex.submit import submitted_run

    submitted = submitted_run(run, gauntlet_home())
    jobs = PipelineJobs(submitted.place)
    state = state_of(jobs.get(submitted.name))
    if state in ENDED:
        raise UsageError(f"{submitted.name}: it has ended already: {state}.")
    jobs.cancel(submitted.name)
    console.print(f"{plain(submitted.name)}: asked to end", soft_wrap=True, highlight=False)


def logs(
    run: Run = "latest",
    step: Annotated[str | None, typer.Option(help="One step's lines only, such as train-model.")] = None,
) -> None:
    """Print what the steps of a submitted run have printed."""
    from gauntlet.pipelines.training import STEPS
    from gauntlet.pipelines.vertex.submit import submitted_run

    if step is not None and step not in STEPS:
        raise UsageError(f"--step: found {step!r}, expected one of {', '.join(STEPS)}.")
    submitted = submitted_run(run, gauntlet_home())
    job = PipelineJobs(submitted.place).get(submitted.name)
    shown = False
    for task in job.job_detail.task_details:
        custom_job = _custom_job(task)
        if task.task_name not in STEPS or step not in (None, task.task_name) or not custom_job:
            continue
        for line in job_log(submitted.place.project, custom_job.rpartition("/")[2]):
            shown = True
            console.print(f"{task.task_name}: {plain(line)}", soft_wrap=True, highlight=False)
    if not shown:
        console.print("nothing has been printed yet")


def upload(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Compiled pipelines.")],
    repository: Annotated[
        str, typer.Option(envvar="GAUNTLET_TEMPLATES", help="https://REGION-kfp.pkg.dev/PROJECT/REPOSITORY.")
    ],
    tag: Annotated[str | None, typer.Option(help="Default: the checkout's commit.")] = None,
) -> None:
    """Keep compiled pipelines as templates in Artifact Registry."""
    from gauntlet.pipelines.local_run import git_commit
    from gauntlet.pipelines.vertex.templates import upload as keep

    commit = tag or git_commit()
    if tag is None and (commit == "unknown" or commit.endswith("-dirty")):
        raise UsageError(
            f"--tag: found none, and the checkout's commit is {commit}. Commit first, or name a tag."
        )
    for path in paths:
        console.print(str(keep(path, repository, commit)), soft_wrap=True, highlight=False)


def _custom_job(task: Any) -> str:
    """The custom job that a step ran as: its own, or that which Vertex made of a plain step."""
    detail = task.executor_detail
    return str(detail.custom_job_detail.job or detail.container_detail.main_job)


def _followed(run: Any) -> Any:
    """Show the run to its end and return its job."""
    from gauntlet.pipelines.vertex.follow import follow

    try:
        with interruptible():
            return follow(PipelineJobs(run.place), run.name, console)
    except Interrupted:
        errors.print(f"interrupted: the run continues. End it with `gauntlet cancel {run.run_id}`.")
        raise typer.Exit(EXIT_CODE) from None


@contextmanager
def _refused(here: Manifest | None, destination: Any) -> Iterator[None]:
    """When what is within is refused for a quota, run this manifest on this machine, if one is given."""
    try:
        yield
    except QuotaError as error:
        if here is None:
            raise
        errors.print(plain(error), soft_wrap=True, highlight=False)
        where = f"running it on this machine; a version is registered in {destination.registry_uri}"
        console.print(plain(where), soft_wrap=True, highlight=False)
        run_here(here, destination.registry_uri, destination.tracking_uri)
