"""Tracking with Vertex AI Experiments, through the clients of google-cloud-aiplatform.

An experiment groups experiment runs; both are contexts of Vertex ML Metadata. A run's summary metrics hold
the last value of each name. Curves are time series in a run of a Vertex AI TensorBoard, which an artifact of
the experiment run points to. Schemas and keys are those of the library
(`google.cloud.aiplatform.metadata.constants`), so the console and the library read what is written here.

Starting a run is idempotent: if there is a run of that name, it is resumed.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from gauntlet.backends.google.calls import ask, ensure, explained, vertex_client
from gauntlet.backends.google.location import (
    CONTEXT_ID_LENGTH,
    ID_LENGTH,
    TENSORBOARD_ENDING,
    VertexLocation,
    experiment_id,
    valid_id,
    valid_label,
)
from gauntlet.backends.storage import join, upload
from gauntlet.backends.tracking import RunRequest, Status
from gauntlet.manifests.errors import GauntletError

SECONDS_BETWEEN_WRITES = 30.0
"""For steps' metrics. A write is two calls of about a tenth of a second each, which training waits for."""

SECONDS_FOR_A_STORE = 60.0
SCHEMA_VERSION = "0.0.1"
RUNNING = "RUNNING"
PIPELINE_RUN = "system.PipelineRun"
POINTS_PER_WRITE = 5000
"""The service's limit."""

STATES: Mapping[Status, str] = {"FINISHED": "COMPLETE", "FAILED": "FAILED", "KILLED": "CANCELLED"}


class VertexTracker:
    """A `Tracker` in Vertex AI Experiments."""

    title = "Vertex AI Experiments"
    folder: Path | None = None

    def __init__(self, uri: str) -> None:
        self._location = VertexLocation.of(uri, "tracking URI")

    def start(self, request: RunRequest) -> VertexRun:
        """Start a run, or resume the one of that name."""
        return VertexRun(self._location, request)


class VertexRun:
    """A `StartedRun` of Vertex AI Experiments."""

    def __init__(self, location: VertexLocation, request: RunRequest) -> None:
        self._location = location
        self._experiment = experiment_id(request.experiment)
        self._name = valid_id(request.name, CONTEXT_ID_LENGTH - len(self._experiment) - 1)
        self._id = f"{self._experiment}-{self._name}"
        self._written = time.monotonic()
        self._series: TimeSeries | None = None
        with explained(location.host):
            from google.cloud import aiplatform_v1

            self._service = vertex_client("MetadataServiceClient", location)
            self._ensure_store()
            content = {"experiment_deleted": False}
            experiment = self._context(self._experiment, self._experiment, "system.Experiment", content, {})
            blank = {"_params": {}, "_metrics": {}, "_state": RUNNING}
            run = self._context(self._id, self._name, "system.ExperimentRun", blank, request.tags)
            ask(self._service.add_context_children, context=experiment.name, child_contexts=[run.name])
            if request.pipeline_run:
                self._link_pipeline_run(request.pipeline_run, run.name)
            self._content: dict[str, Any] = aiplatform_v1.Context.to_dict(run)["metadata"]
            self._content["_state"] = RUNNING  # also for a resumed run that had ended
            if location.tensorboard:
                self._series = TimeSeries(location, self._experiment, self._name)
                self._point_to(self._series)
        _note_missing_settings(location)

    def _link_pipeline_run(self, pipeline_run: str, run: str) -> None:
        """Make the pipeline run a child context of the run, as the library does.

        The service creates a context for every pipeline job, with the job's id as its name.
        """
        of_job = f'schema_title="{PIPELINE_RUN}" AND display_name="{pipeline_run}"'
        try:
            with explained(self._location.host):
                for context in ask(self._service.list_contexts, parent=self._location.store, filter=of_job):
                    ask(self._service.add_context_children, context=run, child_contexts=[context.name])
        except GauntletError as error:  # the run is tracked without the link
            message = f"warning: the tracked run is not linked to its pipeline run: {error}"
            print(message, file=sys.stderr, flush=True)

    def log_params(self, params: Mapping[str, str]) -> None:
        """Add to the run's parameters."""
        self._content["_params"] |= params
        self._write()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Write an epoch's metrics at once, and steps' metrics in batches."""
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
        """Store a text in the staging folder, as an artifact of the run."""
        if self._location.staging is None:
            return
        folder_uri = join(self._location.staging, f"{self._experiment}/{self._name}")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_text(text, encoding="utf-8")
            upload(Path(folder), folder_uri)
        artifact = {"uri": join(folder_uri, name), "display_name": name, "schema_title": "system.Artifact"}
        with explained(self._location.host):
            self._keep(valid_id(f"{self._id}-{name}", ID_LENGTH), artifact)

    def end(self, status: Status) -> None:
        """Write what is buffered, and end the run."""
        self._content["_state"] = STATES[status]
        self._write()

    def _write(self) -> None:
        with explained(self._location.host):
            context = {"name": f"{self._location.store}/contexts/{self._id}", "metadata": self._content}
            # A run has one writer, so it is overwritten without reading it first.
            ask(self._service.update_context, context=context, update_mask={"paths": ["metadata"]})
            if self._series is not None:
                self._series.write()
        self._written = time.monotonic()

    def _ensure_store(self) -> None:
        """Create the metadata store of a project that has tracked nothing yet."""
        from google.api_core.exceptions import AlreadyExists, NotFound

        try:
            ask(self._service.get_metadata_store, name=self._location.store)
        except NotFound:
            request = {"parent": self._location.parent, "metadata_store": {}, "metadata_store_id": "default"}
            with suppress(AlreadyExists):
                ask(self._service.create_metadata_store, **request).result(timeout=SECONDS_FOR_A_STORE)

    def _context(self, id_: str, name: str, schema: str, content: object, labels: Mapping[str, str]) -> Any:
        """The context of that id, which is created if it does not exist."""
        from google.api_core.exceptions import AlreadyExists

        store = self._location.store
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
            "uri": f"https://{self._location.host}/v1/{series.run}",
            "schema_title": "google.VertexTensorboardRun",
            "metadata": {"resourceName": series.run, "vertex_experiment_tracking": True},
        }
        self._keep(f"{self._id}{TENSORBOARD_ENDING}", artifact)

    def _keep(self, id_: str, artifact: Mapping[str, object]) -> None:
        """Create the artifact if it does not exist, and add it to the run."""
        content = {**artifact, "schema_version": SCHEMA_VERSION, "state": "LIVE"}
        ensure(self._service.create_artifact, parent=self._location.store, artifact=content, artifact_id=id_)
        ask(
            self._service.add_context_artifacts_and_executions,
            context=f"{self._location.store}/contexts/{self._id}",
            artifacts=[f"{self._location.store}/artifacts/{id_}"],
        )


def _note_missing_settings(location: VertexLocation) -> None:
    missing = []
    if location.tensorboard is None:
        missing.append("no tensorboard, so only the last value of each metric is stored")
    if location.staging is None:
        missing.append("no staging, so no files are stored")
    if missing:
        print(f"note: the tracking URI has {', and '.join(missing)}", file=sys.stderr, flush=True)


class Point(NamedTuple):
    """A metric's value at a step, and when it was logged."""

    name: str
    step: int
    value: float
    time: float


class TimeSeries:
    """Curves in a TensorBoard run, which is created if it does not exist. Points are buffered until `write`.

    A point replaces an earlier one of the same step, so a resumed training may log steps again.

    Attributes:
        run: The resource name of the TensorBoard run.
    """

    def __init__(self, location: VertexLocation, experiment: str, name: str) -> None:
        self._service = vertex_client("TensorboardServiceClient", location)
        board = f"{location.parent}/tensorboards/{location.tensorboard}"
        self._experiment = f"{board}/experiments/{experiment}"
        self.run = f"{self._experiment}/runs/{name}"
        # The console recognizes by the label that this belongs to the experiment of the same name.
        label = {"vertex_tensorboard_experiment_source": "vertex_experiment"}
        ensure(
            self._service.create_tensorboard_experiment,
            parent=board,
            tensorboard_experiment={"display_name": experiment, "labels": label},
            tensorboard_experiment_id=experiment,
        )
        ensure(
            self._service.create_tensorboard_run,
            parent=self._experiment,
            tensorboard_run={"display_name": name},
            tensorboard_run_id=name,
        )
        self._buffer: list[Point] = []
        self._resources = self._known()

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Buffer points."""
        now = time.time()
        self._buffer += [Point(name, step, float(value), now) for name, value in metrics.items()]

    def write(self) -> None:
        """Write the buffered points."""
        buffer, self._buffer = self._buffer, []
        self._ensure({point.name for point in buffer})
        for start in range(0, len(buffer), POINTS_PER_WRITE):
            data: dict[str, dict[str, Any]] = {}  # by metric
            for point in buffer[start : start + POINTS_PER_WRITE]:
                series = self._resources[point.name].rpartition("/")[2]
                new = {"tensorboard_time_series_id": series, "value_type": "SCALAR", "values": []}
                at = datetime.fromtimestamp(point.time, UTC)
                value = {"scalar": {"value": point.value}, "step": point.step, "wall_time": at}
                data.setdefault(point.name, new)["values"].append(value)
            writing = self._service.write_tensorboard_run_data
            ask(writing, tensorboard_run=self.run, time_series_data=list(data.values()))

    def _ensure(self, names: set[str]) -> None:
        missing = sorted(names - self._resources.keys())
        if not missing:
            return
        scalars = {"value_type": "SCALAR", "plugin_name": "scalars"}
        requests = [
            {"parent": self.run, "tensorboard_time_series": {"display_name": name, **scalars}}
            for name in missing
        ]
        ensure(self._service.batch_create_tensorboard_time_series, parent=self._experiment, requests=requests)
        self._resources = self._known()

    def _known(self) -> dict[str, str]:
        """The resource name of each time series by its display name."""
        found = ask(self._service.list_tensorboard_time_series, parent=self.run)
        return {series.display_name: series.name for series in found}
