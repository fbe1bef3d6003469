"""The curves of a run: time series in a run of a Vertex AI TensorBoard, written many points to a call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from gauntlet.backends.google.calls import ask, ensure
from gauntlet.backends.google.location import VertexLocation

POINTS_PER_WRITE = 5000
"""What the service takes at once."""


class Point(NamedTuple):
    """A metric's value at a step, and when it was told."""

    name: str
    step: int
    value: float
    time: float


class TimeSeries:
    """A TensorBoard run, which is made if there is none of that name, and the points that wait to be written.

    A point of a step that is there replaces it, so a training that goes on may tell everything again.

    Attributes:
        run: The resource name of the TensorBoard run.
    """

    def __init__(self, place: VertexLocation, experiment: str, name: str) -> None:
        from google.cloud import aiplatform_v1

        self._service: Any = aiplatform_v1.TensorboardServiceClient(
            client_options={"api_endpoint": place.host}
        )
        board = f"{place.parent}/tensorboards/{place.tensorboard}"
        self._experiment = f"{board}/experiments/{experiment}"
        self.run = f"{self._experiment}/runs/{name}"
        # The label tells the console that this one belongs to an experiment of the same name.
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
        self._waiting: list[Point] = []
        self._resources = self._known()

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """To be written with the next ones."""
        now = time.time()
        self._waiting += [Point(name, step, float(value), now) for name, value in metrics.items()]

    def write(self) -> None:
        """Write all that waits."""
        waiting, self._waiting = self._waiting, []
        self._ensure({point.name for point in waiting})
        for start in range(0, len(waiting), POINTS_PER_WRITE):
            points = waiting[start : start + POINTS_PER_WRITE]
            ask(
                self._service.write_tensorboard_run_data,
                tensorboard_run=self.run,
                time_series_data=[
                    self._data(name, [point for point in points if point.name == name])
                    for name in dict.fromkeys(point.name for point in points)
                ],
            )

    def _data(self, name: str, points: Sequence[Point]) -> dict[str, Any]:
        values = [
            {
                "scalar": {"value": point.value},
                "step": point.step,
                "wall_time": datetime.fromtimestamp(point.time, UTC),
            }
            for point in points
        ]
        series = self._resources[name].rpartition("/")[2]
        return {"tensorboard_time_series_id": series, "value_type": "SCALAR", "values": values}

    def _ensure(self, names: set[str]) -> None:
        missing = sorted(names - self._resources.keys())
        if not missing:
            return
        requests = [
            {
                "parent": self.run,
                "tensorboard_time_series": {
                    "display_name": name,
                    "value_type": "SCALAR",
                    "plugin_name": "scalars",
                },
            }
            for name in missing
        ]
        ensure(self._service.batch_create_tensorboard_time_series, parent=self._experiment, requests=requests)
        self._resources = self._known()

    def _known(self) -> dict[str, str]:
        """The resource of each time series by what it is called."""
        found = ask(self._service.list_tensorboard_time_series, parent=self.run)
        return {series.display_name: series.name for series in found}
