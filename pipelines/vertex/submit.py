"""`gauntlet submit`: compile, look at what is there, send, and keep a record of the run on this machine."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec
from rich.console import Console

from gauntlet.backends.google.errors import QuotaError
from gauntlet.backends.google.jobs import PipelineJobs
from gauntlet.backends.google.location import VertexLocation, valid_label
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.loading import save_manifest
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.compiling import compile_manifest
from gauntlet.pipelines.home import ARGUMENTS_FILE, MANIFEST_FILE, Home, RunRecord
from gauntlet.pipelines.training import keep_large_sections, pipeline_name
from gauntlet.pipelines.vertex.lint import images, require_acceptable
from gauntlet.pipelines.vertex.preflight import checks_table, preflight, require_passed
from gauntlet.pipelines.vertex.submission import (
    Destination,
    pipeline_job,
    read_spec,
    require_reachable,
    without_cache,
)

JOB_FILE = "job.json"
JOB_NAME = re.compile(r"projects/([^/]+)/locations/([^/]+)/pipelineJobs/([^/]+)")


@dataclass(frozen=True)
class Submission:
    """What is to be sent: a manifest with the spec that it was compiled to, or that a template holds.

    `commit` is that of the repository that holds the manifest's file, if there is one.
    """

    manifest: Manifest
    spec: dict[str, Any]
    template_uri: str | None = None
    commit: str = ""

    def without_cache(self) -> Submission:
        """The same with every step run anew. Vertex runs the spec that it is sent, even beside a template."""
        return replace(self, spec=without_cache(self.spec))


@dataclass(frozen=True)
class SubmittedRun:
    """A run on Vertex AI: the job's whole name, and the record of it that this machine has, if any."""

    name: str
    record: RunRecord | None

    @property
    def run_id(self) -> str:
        """The job's id, which names the run."""
        return self.name.rpartition("/")[2]

    @property
    def place(self) -> VertexLocation:
        """Where it runs."""
        _, project, _, location, *_ = self.name.split("/")
        return VertexLocation(project, location)


def compiled_submission(manifest: Manifest, destination: Destination) -> Submission:
    """The manifest, compiled with the images that the environment names, for where it goes.

    Raises:
        UsageError: Vertex AI would not run it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compile_manifest(manifest, path, "vertex", sections=destination.sections)
        return Submission(manifest, read_spec(path))


def require_sendable(submission: Submission) -> tuple[str, ...]:
    """Refuse what Vertex AI could not run, and return the images that it would run.

    Raises:
        UsageError: Something lies on this machine, or the spec has faults.
    """
    require_reachable(submission.manifest)
    spec = json_format.ParseDict(submission.spec, PipelineSpec())
    require_acceptable(spec, by_digest=True)
    return images(spec)


def check_submission(submission: Submission, destination: Destination, console: Console) -> None:
    """Look at everything that can be known now, and show it.

    Raises:
        UsageError: Something is missing; all of it is named.
        GauntletError: A service cannot be reached.
    """
    named = require_sendable(submission)
    pipeline_job(submission.manifest, submission.spec, destination)  # what it refuses is refused now
    checks = preflight(submission.manifest, named, destination)
    console.print(checks_table(checks))
    require_passed(checks)


def submit(submission: Submission, destination: Destination, home: Home) -> SubmittedRun:
    """Send the job. Its id is the run's, so that a job whose answer is lost is not made twice.

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
    arguments = json.dumps(job["runtime_config"]["parameter_values"], indent=2)
    (folder / ARGUMENTS_FILE).write_text(arguments, encoding="utf-8")
    name = f"{destination.place.parent}/pipelineJobs/{record.run_id}"
    (folder / JOB_FILE).write_text(json.dumps({"name": name}), encoding="utf-8")
    try:
        PipelineJobs(destination.place).create(job, record.run_id)
    except GauntletError as error:
        is_refused = isinstance(error, UsageError | QuotaError)  # any other may hide that it was made
        headline = "not submitted" if is_refused else "perhaps submitted"
        home.finish(record, "finished", error.exit_code, headline)
        raise
    submitted = replace(record, state="submitted")
    home.save(submitted)
    return SubmittedRun(name, submitted)


def submitted_run(run: str, home: Home) -> SubmittedRun:
    """The run of that id that this machine has submitted, the newest for `latest`, or any by its whole name.

    Raises:
        UsageError: There is none.
    """
    if JOB_NAME.fullmatch(run):
        return SubmittedRun(run, None)
    record = home.find_run(run)
    file = home.run_folder(record.run_id) / JOB_FILE
    if not file.is_file():
        raise UsageError(f"{record.run_id}: it ran on this machine; see `gauntlet report {record.run_id}`.")
    return SubmittedRun(json.loads(file.read_text(encoding="utf-8"))["name"], record)
