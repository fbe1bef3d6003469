"""`gauntlet submit`: compile, check what can be checked before, send, and record the run on this machine.

A manifest becomes a pipeline job (`pipeline_job`) for a `Destination`. `check_submission` looks at the
project, so that a job does not fail in an hour for a reason that is known now.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec
from rich.text import Text

from gauntlet.backends.factory import open_registry, require_tracking
from gauntlet.backends.google.calls import QuotaError
from gauntlet.backends.google.jobs import SYSTEM_LABEL, PipelineJobs
from gauntlet.backends.google.location import SCHEME, VertexLocation, valid_label
from gauntlet.backends.google.project import GoogleProject, is_pushed
from gauntlet.backends.local.mlflow_database import SCHEME as DATABASE_SCHEME
from gauntlet.backends.prices import estimate
from gauntlet.contracts.document import write_text
from gauntlet.contracts.training import Origin
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.loading import MODEL_KEYS, save_manifest, texts_at
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.training import Resources
from gauntlet.pipelines.home import ARGUMENTS_FILE, LOGS_FOLDER, MANIFEST_FILE, Home, RunRecord
from gauntlet.pipelines.platforms import Platform
from gauntlet.pipelines.terminal import LiteralConsole, borderless, plain
from gauntlet.pipelines.training import (
    CPUS_OF_A_STEP,
    compile_manifest,
    keep_large_sections,
    parameters,
    pipeline_name,
)
from gauntlet.pipelines.vertex.lint import images, require_acceptable
from gauntlet.pipelines.vertex.packages import require_packaged

PERMISSIONS = ("aiplatform.pipelineJobs.create", "aiplatform.pipelineJobs.get")
MAY_USE_VERTEX = {"roles/aiplatform.user", "roles/aiplatform.admin", "roles/editor", "roles/owner"}
MAY_WRITE_OBJECTS = {"roles/storage.objectUser", "roles/storage.objectAdmin", "roles/storage.admin"}
GIVE_VERTEX = "Give it the role Vertex AI User, roles/aiplatform.user."
QUOTA = "quota"
GPU_QUOTAS = {
    "NVIDIA_TESLA_T4": "nvidia_t4_gpus",
    "NVIDIA_TESLA_A100": "nvidia_a100_gpus",
    "NVIDIA_A100_80GB": "nvidia_a100_80gb_gpus",
    "NVIDIA_L4": "nvidia_l4_gpus",
    "NVIDIA_H100_80GB": "nvidia_h100_gpus",
}
CPU_QUOTAS = {"n1": "cpus", "e2": "cpus", "n2": "n2_cpus", "c2": "c2_cpus"}
"""CPUs by machine family. Names are of https://cloud.google.com/vertex-ai/docs/quotas."""

STANDARD_QUOTA = "aiplatform.googleapis.com/custom_model_training_"
PREEMPTIBLE_QUOTA = f"{STANDARD_QUOTA}preemptible_"
JOB_FILE = "job.json"
JOB_NAME = re.compile(r"projects/([^/]+)/locations/([^/]+)/pipelineJobs/([^/]+)")


@dataclass(frozen=True)
class Destination:
    """Where a run goes.

    Attributes:
        root: The `gs://` folder for the steps' outputs.
        service_account: The service account of the steps; None: the project's default.
        training_account: The service account of train-model; None: that of the other steps.
    """

    location: VertexLocation
    root: str
    registry_uri: str
    tracking_uri: str
    service_account: str | None = None
    training_account: str | None = None

    @classmethod
    def of(
        cls,
        project: str,
        region: str,
        root: str,
        registry: str,
        tracking: str | None,
        service_account: str | None,
        training_account: str | None = None,
    ) -> Destination:
        """The destination that the command's options name.

        Raises:
            UsageError: An option is not valid.
        """
        location = VertexLocation.named(project, region)
        registry = with_serving_image(registry)
        if not root.startswith("gs://") or not root.removeprefix("gs://"):
            raise UsageError(f"--root: found {root!r}, expected gs://BUCKET/FOLDER.")
        root = root.rstrip("/")
        tracked = tracking or VertexLocation(project, region, staging=f"{root}/tracking").uri
        for option, uri in (("--registry", registry), ("--tracking", tracked)):
            _require_lasting(option, uri, location)
        open_registry(registry)  # refuse it now, rather than in register-model, after the training
        require_tracking(tracked)
        if training_account and not service_account:
            raise UsageError(
                f"--training-account: found {training_account} without --service-account, expected both. The "
                "steps' account creates the training's job, so it must be one that may act as the other."
            )
        accounts = {"--service-account": service_account, "--training-account": training_account}
        for option, account in accounts.items():
            if account is not None and not account.endswith(".gserviceaccount.com"):
                raise UsageError(f"{option}: found {account!r}, expected NAME@….gserviceaccount.com.")
        return cls(location, root, registry, tracked, service_account, training_account)

    def trains_as(self, manifest: Manifest) -> str | None:
        """The service account of train-model, if it is not that of the other steps."""
        # train-model of a managed model only starts a job of the service, as the steps' account.
        return None if not manifest.kind.is_converted else self.training_account

    @property
    def sections(self) -> str:
        """The folder for sections that are too large for a parameter."""
        return f"{self.root}/sections"

    @property
    def bucket(self) -> str:
        """The name of the root's bucket."""
        return self.root.removeprefix("gs://").partition("/")[0]


def with_serving_image(registry: str) -> str:
    """The URI of a registry, with the image of `GAUNTLET_SERVING_IMAGE` if it is Vertex's and names none.

    Raises:
        UsageError: The image is not named by digest.
    """
    image = os.environ.get("GAUNTLET_SERVING_IMAGE")
    if not image or not registry.startswith(SCHEME):
        return registry
    location = VertexLocation.of(registry, "--registry")
    if location.serving_image is not None:
        return registry
    return VertexLocation.of(replace(location, serving_image=image).uri, "GAUNTLET_SERVING_IMAGE").uri


def pipeline_job(
    manifest: Manifest, spec: Mapping[str, Any], destination: Destination, template_uri: str | None = None
) -> dict[str, Any]:
    """A `PipelineJob` as plain types. Billing reports can be grouped by its labels.

    Raises:
        UsageError: Training has an account of its own, and the spec has no parameter for it.
    """
    given = {
        "registry_uri": destination.registry_uri,
        "tracking_uri": destination.tracking_uri,
        **_training_account(destination.trains_as(manifest), spec, template_uri or manifest.name),
    }
    job: dict[str, Any] = {
        "display_name": manifest.name,
        "pipeline_spec": dict(spec),
        "labels": {SYSTEM_LABEL: valid_label(manifest.name), "manifest": manifest.sha256[:32]},
        "runtime_config": {
            "gcs_output_directory": destination.root,
            "parameter_values": parameters(manifest, destination.sections) | given,
        },
    }
    if destination.service_account:
        job["service_account"] = destination.service_account
    if template_uri:
        job["template_uri"] = template_uri
    return job


def without_cache(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with caching switched off for every step."""
    changed = copy.deepcopy(dict(spec))
    for component in (changed["root"], *changed["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            task["cachingOptions"] = {}  # as the compiler writes `set_caching_options(False)`
    return changed


def _training_account(account: str | None, spec: Mapping[str, Any], pipeline: str) -> dict[str, str]:
    """The parameter `training_account`, if training has an account of its own."""
    if account is None:
        return {}
    if "training_account" not in spec["root"]["inputDefinitions"]["parameters"]:
        raise UsageError(
            f"--training-account: found {account}, but {pipeline} was compiled without this parameter. "
            "Compile and upload it again, or leave out the option and GAUNTLET_TRAINING_ACCOUNT."
        )
    return {"training_account": account}


def _require_lasting(option: str, uri: str, location: VertexLocation) -> None:
    """Refuse a database file: the only disk that outlives a step on Vertex AI is a mounted bucket."""
    if uri.startswith(DATABASE_SCHEME):
        raise UsageError(
            f"{option}: found {uri!r}, a file that ends with the machine of a step, and under /gcs lies in a "
            f"bucket, where SQLite fails; expected {SCHEME}{location.project}/{location.region}"
            "?staging=gs://BUCKET/FOLDER."
        )


def _require_reachable(manifest: Manifest) -> None:
    """Refuse data and models on this machine, and files of packages that are not in the images."""
    uri = manifest.dataset.uri
    if "://" not in uri or uri.startswith("file://"):
        raise UsageError(
            f"dataset.uri: found {uri}, a path on this machine, expected a URI that Vertex AI can "
            "reach. Copy the files to a bucket, then --set dataset.uri=gs://BUCKET/FOLDER."
        )
    require_packaged(manifest.model_dump(mode="json"), [("dataset", "uri")])
    require_reachable_model(manifest)


def require_reachable_model(manifest: Manifest) -> None:
    """Raise a `UsageError` for a pretrained model that a training job on Vertex AI cannot read."""
    for key, value in texts_at(manifest.model_dump(mode="json"), MODEL_KEYS).items():
        if Path(value).is_absolute():
            raise UsageError(
                f"{key}: found {value}, which lies on this machine, expected one "
                "that Vertex AI can reach. Name one on the Hugging Face hub, or a packaged one."
            )
    require_packaged(manifest.model_dump(mode="json"), MODEL_KEYS)


@dataclass(frozen=True)
class Check:
    """The result of one check. `fault` says what to do about it; None if it passed."""

    name: str
    found: str
    fault: str | None = None


def _preflight(manifest: Manifest, images: Sequence[str], destination: Destination) -> list[Check]:
    """Check permissions, bucket, images, roles and quotas, and compute the highest cost."""
    project = GoogleProject(destination.location)
    checks = [_permissions(project), _bucket(project, destination)]
    checks += [_image(image) for image in images]
    if destination.service_account is not None:
        checks += _roles(project, "service account", destination.service_account)
    training_account = destination.trains_as(manifest)
    if training_account is not None:
        checks += _roles(project, "training account", training_account, uses_vertex=False)
    checks += _quotas(project, manifest)
    checks.append(Check("cost at most", str(estimate(manifest.training.resources))))
    return checks


def _permissions(project: GoogleProject) -> Check:
    missing = project.missing_permissions(PERMISSIONS)
    if not missing:
        return Check("permissions", ", ".join(PERMISSIONS))
    return Check("permissions", f"this account lacks {', '.join(missing)}", GIVE_VERTEX)


def _bucket(project: GoogleProject, destination: Destination) -> Check:
    there, region = project.bucket_location(destination.bucket), destination.location.region
    found = f"gs://{destination.bucket} is in {there}"
    if there.holds(region):
        return Check("bucket", found)
    return Check("bucket", f"{found}, not in {region}", "Take one in that region, or --region.")


def _image(image: str) -> Check:
    there = is_pushed(image)
    if there is None:
        return Check("image", f"{image}: whether it is there cannot be seen")
    if there:
        return Check("image", image)
    push = "Push it (cloudbuild.yaml), or name another digest."
    return Check("image", f"{image} is not in its repository", push)


def _roles(project: GoogleProject, name: str, account: str, uses_vertex: bool = True) -> Iterator[Check]:
    """The roles of an account. One that creates no jobs and no models need not be a Vertex AI User."""
    roles = project.roles(account)
    if roles is None:
        yield Check(name, f"{account}: not looked at, as the project's policy may not be read")
        return
    # Custom roles, whose permissions are unknown.
    own = any(role.startswith(("projects/", "organizations/")) for role in roles)
    may_use = bool(roles & MAY_USE_VERTEX) or own or not uses_vertex
    found = ", ".join(sorted(roles)) or "no roles in the project"
    yield Check(name, f"{account}: {found}", None if may_use else GIVE_VERTEX)
    if may_use and not own and not roles & (MAY_WRITE_OBJECTS | {"roles/editor", "roles/owner"}):
        yield Check(name, f"{account}: no role for objects; it needs one of the bucket's own")


def needed_quotas(resources: Resources, cpus_of_a_step: int) -> dict[str, int]:
    """The quotas that a run uses and how much of each: the machines of the training, and one step beside it.

    A plain step runs on a machine of Vertex AI's choice and uses the quota for N1 and E2 CPUs, as
    https://github.com/GoogleCloudPlatform/vertex-ai-samples/issues/3479 shows. Spot and flex-start machines
    use the preemptible quota: https://cloud.google.com/vertex-ai/docs/training/schedule-jobs-dws#quota. A
    persistent resource has its machines already. What has no known quota name is left out.
    """
    needed = {f"{STANDARD_QUOTA}cpus": cpus_of_a_step}
    if resources.persistent_resource is not None:
        return needed
    prefix = STANDARD_QUOTA if resources.strategy == "standard" else PREEMPTIBLE_QUOTA
    family, cpus = resources.machine_type.partition("-")[0], resources.machine_type.rpartition("-")[2]
    if family in CPU_QUOTAS and cpus.isdigit():
        metric, amount = f"{prefix}{CPU_QUOTAS[family]}", int(cpus) * resources.replica_count
        needed[metric] = max(amount, needed.get(metric, 0))
    gpus = GPU_QUOTAS.get(resources.accelerator_type or "")
    if gpus is not None:
        needed[f"{prefix}{gpus}"] = resources.accelerator_count * resources.replica_count
    return needed


def _quotas(project: GoogleProject, manifest: Manifest) -> Iterator[Check]:
    needed = needed_quotas(manifest.training.resources, CPUS_OF_A_STEP)
    limits = project.quota_limits(needed.keys())
    for metric, amount in needed.items():
        limit = limits.get(metric)
        if limit is None:
            yield Check(QUOTA, f"{metric}: {amount} needed; how much there is cannot be told")
            continue
        granted = "unlimited" if math.isinf(limit) else f"{limit:.0f} granted"
        action = "Ask for more on the console's page Quotas, or take another machine or region."
        yield Check(QUOTA, f"{metric}: {amount} needed, {granted}", action if limit < amount else None)


@dataclass(frozen=True)
class Submission:
    """A manifest with its pipeline spec, compiled here or read from a template.

    `commit` is the commit of the repository that contains the manifest's file, if there is one.
    """

    manifest: Manifest
    spec: dict[str, Any]
    template_uri: str | None = None
    commit: str = ""

    def without_cache(self) -> Submission:
        """The same without caching. Vertex runs the spec that is sent, even if a template is named too."""
        return replace(self, spec=without_cache(self.spec))


@dataclass(frozen=True)
class SubmittedRun:
    """A run on Vertex AI: the job's full name, and this machine's record of it, if there is one."""

    name: str
    record: RunRecord | None

    @property
    def run_id(self) -> str:
        """The job's ID, which is also the run's."""
        return self.name.rpartition("/")[2]

    @property
    def console_url(self) -> str:
        """The run's page in the Google Cloud console."""
        pipelines = "https://console.cloud.google.com/vertex-ai/pipelines"
        location = self.location
        return f"{pipelines}/locations/{location.region}/runs/{self.run_id}?project={location.project}"

    @property
    def location(self) -> VertexLocation:
        """The project and region that it runs in."""
        _, project, _, location, *_ = self.name.split("/")
        return VertexLocation(project, location)


def compiled_submission(
    manifest: Manifest, destination: Destination, origin: Origin | None = None
) -> Submission:
    """The manifest, compiled for a destination, or a `UsageError` if Vertex AI would not run it.

    With an `origin` the model from there takes the place of a training.
    """
    if origin is not None and "://" not in origin.source:
        raise UsageError(
            f"--from-{origin.form}: {origin.source} is a path on this machine, which steps on Vertex AI "
            "cannot read. Copy the model to a bucket and give its URI."
        )
    sections = destination.sections
    return Submission(
        manifest,
        compiled(
            lambda path, platform: compile_manifest(
                manifest, path, platform, sections=sections, origin=origin
            )
        ),
    )


def compiled(write: Callable[[Path, Platform], None]) -> dict[str, Any]:
    """The spec for Vertex AI that `write` writes to a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        write(path, "vertex")
        spec: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return spec


def require_sendable(submission: Submission) -> tuple[str, ...]:
    """The images that Vertex AI would use; a `UsageError` for what it could not read or run."""
    _require_reachable(submission.manifest)
    spec = json_format.ParseDict(submission.spec, PipelineSpec())
    require_acceptable(spec, by_digest=True)
    return images(spec)


def check_submission(submission: Submission, destination: Destination, console: LiteralConsole) -> None:
    """Check everything that can be checked before the run, and print it.

    Raises:
        UsageError: Something is missing, and all of it is named; or nobody is logged in.
        QuotaError: Only quotas are too small.
        GauntletError: A service cannot be reached.
    """
    named = require_sendable(submission)
    pipeline_job(submission.manifest, submission.spec, destination)  # for its own checks
    checks = _preflight(submission.manifest, named, destination)
    table = borderless("check", "verdict", "found")
    for check in checks:
        table.add_row(check.name, Text("fail", "red") if check.fault else "pass", plain(check.found))
    console.print(table)
    if failed := [check for check in checks if check.fault]:
        error = QuotaError if all(check.name == QUOTA for check in failed) else UsageError
        raise error("\n".join(f"{check.name}: {check.found}. {check.fault}" for check in failed))


def submit(submission: Submission, destination: Destination, home: Home) -> SubmittedRun:
    """Send the job. Its ID is the run's, so a request that is retried creates no second job.

    Raises:
        UsageError, QuotaError, GauntletError: The service refuses; the run's record says so.
    """
    manifest = submission.manifest
    job = pipeline_job(manifest, submission.spec, destination, submission.template_uri)
    if submission.commit:
        job["labels"]["manifest_commit"] = valid_label(submission.commit)
    keep_large_sections(manifest, destination.sections)
    record = replace(home.create_run(pipeline_name(manifest)), manifest_commit=submission.commit)
    folder = home.run_folder(record.run_id)
    save_manifest(manifest, folder / MANIFEST_FILE)
    write_text(folder / ARGUMENTS_FILE, json.dumps(job["runtime_config"]["parameter_values"], indent=2))
    name = f"{destination.location.parent}/pipelineJobs/{record.run_id}"
    (folder / JOB_FILE).write_text(json.dumps({"name": name}), encoding="utf-8")
    try:
        PipelineJobs(destination.location).create(job, record.run_id)
    except GauntletError as error:
        is_refused = isinstance(error, UsageError | QuotaError)  # after any other error the job may exist
        headline = "not submitted" if is_refused else "perhaps submitted"
        home.finish(record, "finished", error.exit_code, headline)
        raise
    submitted = replace(record, state="submitted")
    home.save(submitted)
    return SubmittedRun(name, submitted)


def submitted_run(run: str, home: Home) -> SubmittedRun:
    """A run of this machine by its ID or `latest`, or any run by its full name; else a `UsageError`."""
    if JOB_NAME.fullmatch(run):
        return SubmittedRun(run, None)
    record = home.find_run(run)
    file = home.run_folder(record.run_id) / JOB_FILE
    if not file.is_file():
        raise UsageError(f"{record.run_id}: it ran on this machine; see `gauntlet report {record.run_id}`.")
    return SubmittedRun(json.loads(file.read_text(encoding="utf-8"))["name"], record)


def local_logs(run: str, home: Home) -> Path | None:
    """The folder of the logs of a run on this machine; None for a submitted run, or a `UsageError`."""
    if JOB_NAME.fullmatch(run):
        return None
    folder = home.run_folder(home.find_run(run).run_id)
    return None if (folder / JOB_FILE).is_file() else folder / LOGS_FOLDER
