"""Pipeline jobs on Vertex AI, through the generated client: made once, looked at, cancelled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from backends.vertex_calls import ask, explained
from backends.vertex_place import VertexPlace
from manifests.errors import UsageError

CONTENT_LABEL = "gauntlet-content"
"""Says what a job was made of, so that a job whose answer got lost is known again."""


class PipelineJobs:
    """The pipeline jobs of a project in a region.

    Raises:
        UsageError: Nobody is logged in, the account may not do this, or there is no such job.
        QuotaError: A quota is used up.
        GauntletError: The service cannot be reached, or refuses.
    """

    def __init__(self, place: VertexPlace) -> None:
        self._place = place
        with explained(place.host):
            from google.cloud import aiplatform_v1

            options = {"api_endpoint": place.host}
            self._service: Any = aiplatform_v1.PipelineServiceClient(client_options=options)

    def create(self, job: Mapping[str, Any], job_id: str) -> Any:
        """Make a job, or find the same one: with an id it is made once, however often that is asked for."""
        from google.api_core.exceptions import AlreadyExists

        labelled = with_content_label(job)
        with explained(self._place.host):
            try:
                return ask(
                    self._service.create_pipeline_job,
                    parent=self._place.parent,
                    pipeline_job=labelled,
                    pipeline_job_id=job_id,
                )
            except AlreadyExists:
                found = self.get(f"{self._place.parent}/pipelineJobs/{job_id}")
        if found.labels.get(CONTENT_LABEL) != labelled["labels"][CONTENT_LABEL]:
            raise UsageError(f"{found.name}: there is another job of that name already.")
        return found

    def get(self, name: str) -> Any:
        """The job as it is now."""
        from google.api_core.exceptions import NotFound

        with explained(self._place.host):
            try:
                return ask(self._service.get_pipeline_job, name=name)
            except NotFound:
                raise UsageError(f"{name}: there is no such pipeline job.") from None

    def cancel(self, name: str) -> None:
        """Ask for the job to be ended; it is not yet when this returns."""
        with explained(self._place.host):
            ask(self._service.cancel_pipeline_job, name=name)


def with_content_label(job: Mapping[str, Any]) -> dict[str, Any]:
    """The job with a label that is the same for the same job, and for no other."""
    sha256 = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
    return {**job, "labels": {**job["labels"], CONTENT_LABEL: sha256[:32]}}
