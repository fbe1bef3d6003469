"""Tracking with Vertex AI Experiments, through the clients of google-cloud-aiplatform.

What Vertex calls what: an experiment groups experiment runs; both are contexts of Vertex ML Metadata. A run's
summary metrics hold one value of each name. Curves are time series, in a run of a Vertex AI TensorBoard that
the experiment run names by an artifact. Schemas and keys are the library's own
(`google.cloud.aiplatform.metadata.constants`), so that the console and its classes read what is written here.

Everything that starts a run may be done twice, so a run of a name that is there goes on.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gauntlet.backends.google.calls import ask, ensure, explained
from gauntlet.backends.google.location import (
    CONTEXT_ID_LENGTH,
    ID_LENGTH,
    TENSORBOARD_ENDING,
    VertexLocation,
    experiment_id,
    valid_id,
    valid_label,
)
from gauntlet.backends.google.time_series import TimeSeries
from gauntlet.backends.storage import join, upload
from gauntlet.backends.tracking import Status
from gauntlet.manifests.errors import GauntletError

SECONDS_BETWEEN_WRITES = 30.0
"""Of steps' metrics: a write is two calls, of a tenth of a second or so, that training waits for."""

SECONDS_FOR_A_STORE = 60.0
SCHEMA_VERSION = "0.0.1"
RUNNING = "RUNNING"
PIPELINE_RUN = "system.PipelineRun"

STATES: Mapping[Status, str] = {"FINISHED": "COMPLETE", "FAILED": "FAILED", "KILLED": "CANCELLED"}


class VertexRun:
    """A run that has been started in Vertex AI Experiments, or goes on. Any of its methods may fail.

    Raises:
        GauntletError: The service cannot be reached, or refuses.
    """

    def __init__(
        self,
        place: VertexLocation,
        experiment: str,
        run_name: str,
        tags: Mapping[str, str],
        pipeline_run: str = "",
    ) -> None:
        self._place = place
        self._experiment = experiment_id(experiment)
        self._name = valid_id(run_name, CONTEXT_ID_LENGTH - len(self._experiment) - 1)
        self._id = f"{self._experiment}-{self._name}"
        self._written = time.monotonic()
        self._series: TimeSeries | None = None
        with explained(place.host):
            from google.cloud import aiplatform_v1

            options = {"api_endpoint": place.host}
            self._service: Any = aiplatform_v1.MetadataServiceClient(client_options=options)
            self._ensure_store()
            content = {"experiment_deleted": False}
            whole = self._context(self._experiment, self._experiment, "system.Experiment", content, {})
            blank = {"_params": {}, "_metrics": {}, "_state": RUNNING}
            run = self._context(self._id, self._name, "system.ExperimentRun", blank, tags)
            ask(self._service.add_context_children, context=whole.name, child_contexts=[run.name])
            if pipeline_run:
                self._come_of(pipeline_run, run.name)
            self._content: dict[str, Any] = aiplatform_v1.Context.to_dict(run)["metadata"]
            self._content["_state"] = RUNNING  # also of one that had ended, and now goes on
            if place.tensorboard:
                self._series = TimeSeries(place, self._experiment, self._name)
                self._point_to(self._series)
        _say_what_is_missing(place)

    def _come_of(self, pipeline_run: str, run: str) -> None:
        """Give the run the pipeline's run that it is a part of as a child, which is the library's own way.

        The service gives every pipeline job a context, which is called as the job's id is.
        """
        called = f'schema_title="{PIPELINE_RUN}" AND display_name="{pipeline_run}"'
        try:
            with explained(self._place.host):
                for context in ask(self._service.list_contexts, parent=self._place.store, filter=called):
                    ask(self._service.add_context_children, context=run, child_contexts=[context.name])
        except GauntletError as error:  # the rest is tracked all the same
            message = f"warning: the run does not lead to its pipeline's run: {error}"
            print(message, file=sys.stderr, flush=True)

    def log_params(self, params: Mapping[str, str]) -> None:
        """Into the run's parameters."""
        self._content["_params"] |= params
        self._write()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """An epoch's at once, with all that waits; a step's later, unless the last write is long ago."""
        # Metadata is JSON, which has no NaN.
        self._content["_metrics"] |= {
            name: value if math.isfinite(value) else str(value) for name, value in metrics.items()
        }
        if self._series is not None:
            self._series.add(metrics, step)
        of_epoch = any("/" not in name for name in metrics)
        if of_epoch or time.monotonic() - self._written >= SECONDS_BETWEEN_WRITES:
            self._write()

    def log_text(self, name: str, text: str) -> None:
        """Into the staging folder, as an artifact of the run."""
        if self._place.staging is None:
            return
        folder_uri = join(self._place.staging, f"{self._experiment}/{self._name}")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_text(text, encoding="utf-8")
            upload(Path(folder), folder_uri)
        artifact = {
            "uri": join(folder_uri, name),
            "display_name": name,
            "schema_title": "system.Artifact",
        }
        with explained(self._place.host):
            self._keep(valid_id(f"{self._id}-{name}", ID_LENGTH), artifact)

    def end(self, status: Status) -> None:
        """Write what waits, and end the run."""
        self._content["_state"] = STATES[status]
        self._write()

    def _write(self) -> None:
        with explained(self._place.host):
            context = {"name": f"{self._place.store}/contexts/{self._id}", "metadata": self._content}
            # A run has one writer, so nothing is asked for before it is overwritten.
            ask(self._service.update_context, context=context, update_mask={"paths": ["metadata"]})
            if self._series is not None:
                self._series.write()
        self._written = time.monotonic()

    def _ensure_store(self) -> None:
        """Make the metadata store of a project that has tracked nothing yet."""
        from google.api_core.exceptions import AlreadyExists, NotFound

        try:
            ask(self._service.get_metadata_store, name=self._place.store)
        except NotFound:
            request = {"parent": self._place.parent, "metadata_store": {}, "metadata_store_id": "default"}
            with suppress(AlreadyExists):
                ask(self._service.create_metadata_store, **request).result(timeout=SECONDS_FOR_A_STORE)

    def _context(self, id_: str, name: str, schema: str, content: object, labels: Mapping[str, str]) -> Any:
        """The context of that id, which is made if there is none."""
        from google.api_core.exceptions import AlreadyExists

        store = self._place.store
        context = {
            "display_name": name,
            "schema_title": schema,
            "schema_version": SCHEMA_VERSION,
            "metadata": content,
            "labels": {key: valid_label(value) for key, value in labels.items()},
        }
        try:
            return ask(self._service.create_context, parent=store, context=context, context_id=id_)
        except AlreadyExists:
            found = ask(self._service.get_context, name=f"{store}/contexts/{id_}")
        if found.schema_title != schema:
            raise GauntletError(
                f"{found.name}: found a {found.schema_title}, expected a {schema}. "
                "Give the manifest, or its training.tracking.run_name, another name."
            )
        return found

    def _point_to(self, series: TimeSeries) -> None:
        artifact = {
            "uri": f"https://{self._place.host}/v1/{series.run}",
            "schema_title": "google.VertexTensorboardRun",
            "metadata": {"resourceName": series.run, "vertex_experiment_tracking": True},
        }
        self._keep(f"{self._id}{TENSORBOARD_ENDING}", artifact)

    def _keep(self, id_: str, artifact: Mapping[str, object]) -> None:
        """Make the artifact, unless it is there, and attribute it to the run."""
        content = {**artifact, "schema_version": SCHEMA_VERSION, "state": "LIVE"}
        ensure(self._service.create_artifact, parent=self._place.store, artifact=content, artifact_id=id_)
        ask(
            self._service.add_context_artifacts_and_executions,
            context=f"{self._place.store}/contexts/{self._id}",
            artifacts=[f"{self._place.store}/artifacts/{id_}"],
        )


def _say_what_is_missing(place: VertexLocation) -> None:
    missing = []
    if place.tensorboard is None:
        missing.append("no tensorboard, so only the last value of each metric is kept")
    if place.staging is None:
        missing.append("no staging, so no files are kept")
    if missing:
        print(f"note: the tracking URI names {', and '.join(missing)}", file=sys.stderr, flush=True)
