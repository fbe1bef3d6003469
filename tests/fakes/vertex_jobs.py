"""Vertex AI's custom jobs: what a pipeline's launcher makes, checked and kept. Nothing is run here."""

from __future__ import annotations

from itertools import count

from google.cloud import aiplatform_v1 as vertex

from tests.fakes.google_api import invalid
from tests.fakes.resources import require_labels

Strategy = vertex.Scheduling.Strategy


class JobService:
    """Custom jobs.

    Attributes:
        custom_jobs: All that were made, the newest last.
    """

    def __init__(self) -> None:
        self.custom_jobs: list[vertex.CustomJob] = []
        self._numbers = count(1)

    def CreateCustomJob(self, request: vertex.CreateCustomJobRequest) -> vertex.CustomJob:
        job = request.custom_job
        require_sound(job)
        job.name = f"{request.parent}/customJobs/{next(self._numbers)}"
        self.custom_jobs.append(job)
        return job


def require_sound(job: vertex.CustomJob) -> None:
    """Refuse what the API's documentation does not allow."""
    require_labels(job.labels)
    spec = job.job_spec
    if not spec.worker_pool_specs:
        raise invalid("job_spec.worker_pool_specs is required")
    if spec.worker_pool_specs[0].replica_count != 1:
        raise invalid("job_spec.worker_pool_specs[0].replica_count must be 1")
    for pool in spec.worker_pool_specs:
        if not pool.container_spec.image_uri:
            raise invalid("container_spec.image_uri is required")
        if not (pool.machine_spec.machine_type or spec.persistent_resource_id):
            raise invalid("machine_spec.machine_type is required")
    if spec.scheduling.max_wait_duration and spec.scheduling.strategy != Strategy.FLEX_START:
        raise invalid("scheduling.max_wait_duration is for FLEX_START")
    folder = spec.base_output_directory.output_uri_prefix
    if folder and not folder.startswith("gs://"):
        raise invalid(f"base_output_directory: {folder!r} is no gs:// folder")
