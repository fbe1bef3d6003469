"""A step that is a custom job: made by the code of Google's launcher, and run worker by worker.

The launcher of google_cloud_pipeline_components is a container that makes the job and looks at it every 20
seconds until it ends. Its argument parser, its payload code and its client are called here; the waiting is
left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from google.cloud import aiplatform_v1 as vertex
from google_cloud_pipeline_components.container.v1.custom_job import remote_runner
from google_cloud_pipeline_components.container.v1.gcp_launcher.job_remote_runner import JobRemoteRunner
from google_cloud_pipeline_components.container.v1.gcp_launcher.utils import parser_util

from tests.fakes.vertex_jobs import JobService

LAUNCHER_MODULE = "google_cloud_pipeline_components.container.v1.custom_job.launcher"


def is_launcher(command: Sequence[str]) -> bool:
    return list(command) == ["python3", "-u", "-m", LAUNCHER_MODULE]


def make_custom_job(
    arguments: Sequence[str], service: JobService, resources_file: Path
) -> tuple[vertex.CustomJob, str]:
    """Make the job that the launcher would, and return it as the service got it, with `gcp_resources`.

    Raises:
        ValueError: The payload is no CustomJob.
        google.api_core.exceptions.InvalidArgument: The service refuses it.
    """
    here = list(arguments)
    here[here.index("--gcp_resources") + 1] = str(resources_file)  # and not under the launcher's /gcs
    _, given = parser_util.parse_default_args(here)
    runner = JobRemoteRunner(given.type, given.project, given.location, given.gcp_resources)
    payload = remote_runner.insert_system_labels_into_payload(given.payload)
    runner.create_job(remote_runner.create_custom_job_with_client, payload)
    return service.custom_jobs[-1], resources_file.read_text()


def worker_command(job: vertex.CustomJob) -> list[str]:
    """What the job's one worker runs."""
    container = job.job_spec.worker_pool_specs[0].container_spec
    return [*container.command, *container.args]


def worker_variables(job: vertex.CustomJob) -> Mapping[str, str]:
    """What Vertex AI sets for a worker.

    https://cloud.google.com/vertex-ai/docs/training/code-requirements#environment-variables
    https://cloud.google.com/vertex-ai/docs/training/distributed-training#cluster-variables
    """
    spec = job.job_spec
    cluster = {
        "cluster": {"workerpool0": ["workerpool0-0:2222"]},
        "environment": "cloud",
        "task": {"type": "workerpool0", "index": 0},
    }
    variables = {one.name: one.value for one in spec.worker_pool_specs[0].container_spec.env}
    variables["CLUSTER_SPEC"] = json.dumps(cluster)
    folder = spec.base_output_directory.output_uri_prefix.rstrip("/")
    if folder:
        variables["AIP_MODEL_DIR"] = f"{folder}/model/"
        variables["AIP_CHECKPOINT_DIR"] = f"{folder}/checkpoints/"
        variables["AIP_TENSORBOARD_LOG_DIR"] = f"{folder}/logs/"
    return variables


def starts_again(job: vertex.CustomJob) -> bool:
    """Whether a worker whose machine was taken away is started on another one."""
    scheduling = job.job_spec.scheduling
    return scheduling.restart_job_on_worker_restart or scheduling.strategy == vertex.Scheduling.Strategy.SPOT
