"""Pipeline jobs on Vertex AI, through the generated client: made once, looked at, cancelled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gauntlet.backends.google.calls import ask, explained
from gauntlet.backends.google.location import VertexLocation, valid_label
from gauntlet.manifests.errors import GauntletError, UsageError

CONTENT_LABEL = "gauntlet-content"
"""Says what a job was made of, so that a job whose answer got lost is known again."""


SYSTEM_LABEL = "system"
"""Says which manifest's run a job is, by name."""


@dataclass(frozen=True)
class ListedJob:
    """One of the jobs that Vertex lists. `max_cost_usd` is what its own manifest allows its training."""

    name: str
    created: datetime
    max_cost_usd: float


class PipelineJobs:
    """The pipeline jobs of a project in a region.

    Raises:
        UsageError: Nobody is logged in, the account may not do this, or there is no such job.
        QuotaError: A quota is used up.
        GauntletError: The service cannot be reached, or refuses.
    """

    def __init__(self, place: VertexLocation) -> None:
        self._place = place
        with explained(place.host):
            from google.cloud import aiplatform_v1

            options = {"api_endpoint": place.host}
            self._service: Any = aiplatform_v1.PipelineServiceClient(client_options=options)

    def create(self, job: Mapping[str, Any], job_id: str) -> Any:
        """Make a job, or find the same one: with an id it is made once, however often that is asked for."""
        from google.api_core.exceptions import AlreadyExists, ResourceExhausted

        labelled = with_content_label(job)
        name = f"{self._place.parent}/pipelineJobs/{job_id}"
        with explained(self._place.host):
            try:
                return ask(
                    self._service.create_pipeline_job,
                    parent=self._place.parent,
                    pipeline_job=labelled,
                    pipeline_job_id=job_id,
                )
            except AlreadyExists:
                found = self.get(name)
            except ResourceExhausted:
                found = self._made_before(name)  # a try before may have lost its answer
                if found is None:
                    raise
        if found.labels.get(CONTENT_LABEL) != labelled["labels"][CONTENT_LABEL]:
            raise UsageError(f"{found.name}: there is another job of that name already.")
        return found

    def _made_before(self, name: str) -> Any | None:
        """The job, or None. Where that cannot be seen it must not pass for one that a quota refused."""
        try:
            return self.find(name)
        except GauntletError as error:
            raise GauntletError(
                f"{name}: whether it was made cannot be seen ({error}). "
                f"See `gauntlet status {name.rpartition('/')[2]}` in a minute, before it is submitted again."
            ) from None

    def get(self, name: str) -> Any:
        """The job as it is now."""
        found = self.find(name)
        if found is None:
            raise UsageError(f"{name}: there is no such pipeline job.")
        return found

    def find(self, name: str) -> Any | None:
        """The job as it is now, or None."""
        from google.api_core.exceptions import NotFound

        with explained(self._place.host):
            try:
                return ask(self._service.get_pipeline_job, name=name)
            except NotFound:
                return None

    def of_system(self, name: str, since: datetime) -> list[ListedJob]:
        """The jobs of one system that were made since then, whatever submitted them."""
        made = f'create_time>="{since:%Y-%m-%dT%H:%M:%SZ}"'
        with explained(self._place.host):
            found = ask(
                self._service.list_pipeline_jobs,
                parent=self._place.parent,
                filter=f'labels.{SYSTEM_LABEL}="{valid_label(name)}" AND {made}',
                read_mask={"paths": ["name", "create_time", "runtime_config"]},
            )
            return [_listed(job) for job in found]

    def cancel(self, name: str) -> None:
        """Ask for the job to be ended; it is not yet when this returns."""
        with explained(self._place.host):
            ask(self._service.cancel_pipeline_job, name=name)


def with_content_label(job: Mapping[str, Any]) -> dict[str, Any]:
    """The job with a label that is the same for the same job, and for no other."""
    sha256 = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
    return {**job, "labels": {**job["labels"], CONTENT_LABEL: sha256[:32]}}


def _listed(job: Any) -> ListedJob:
    try:
        most = float(job.runtime_config.parameter_values["training"]["resources"]["max_cost_usd"])
    except (KeyError, TypeError):
        raise UsageError(
            f"{job.name}: found no training.resources.max_cost_usd among its parameters, so nobody can tell "
            f"what it may cost. Jobs with the label {SYSTEM_LABEL} are to be submitted by `gauntlet submit`."
        ) from None
    return ListedJob(job.name, job.create_time, most)
