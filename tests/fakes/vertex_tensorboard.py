"""Vertex AI TensorBoard: runs, and the time series in them."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import Any

import grpc
from google.cloud import aiplatform_v1 as vertex

from tests.fakes.google_api import ApiError, invalid
from tests.fakes.resources import Resources

POINTS_PER_WRITE = 5000


class TensorboardService:
    """The methods that are called by an experiment's runs, and by those who read them."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._numbers = count(1)
        self._points: defaultdict[str, dict[int, Any]] = defaultdict(dict)

    def CreateTensorboardExperiment(self, request: vertex.CreateTensorboardExperimentRequest) -> Any:
        return self._resources.add(
            request.parent,
            "experiments",
            request.tensorboard_experiment_id,
            request.tensorboard_experiment,
        )

    def CreateTensorboardRun(self, request: vertex.CreateTensorboardRunRequest) -> Any:
        return self._resources.add(
            request.parent, "runs", request.tensorboard_run_id, request.tensorboard_run
        )

    def GetTensorboardRun(self, request: vertex.GetTensorboardRunRequest) -> Any:
        return self._resources.get(request.name)

    def BatchCreateTensorboardTimeSeries(
        self, request: vertex.BatchCreateTensorboardTimeSeriesRequest
    ) -> Any:
        made = []
        for each in request.requests:
            if not each.parent.startswith(request.parent + "/runs/"):
                raise invalid(f"{each.parent} is not in {request.parent}")
            series = each.tensorboard_time_series
            known = self._resources.below(each.parent, "timeSeries")
            if series.display_name in {one.display_name for one in known}:
                raise ApiError(grpc.StatusCode.ALREADY_EXISTS, f"{series.display_name} already exists")
            made.append(self._resources.add(each.parent, "timeSeries", str(next(self._numbers)), series))
        return vertex.BatchCreateTensorboardTimeSeriesResponse(tensorboard_time_series=made)

    def ListTensorboardTimeSeries(self, request: vertex.ListTensorboardTimeSeriesRequest) -> Any:
        found = self._resources.below(request.parent, "timeSeries")
        return vertex.ListTensorboardTimeSeriesResponse(tensorboard_time_series=found)

    def WriteTensorboardRunData(self, request: vertex.WriteTensorboardRunDataRequest) -> Any:
        if sum(len(data.values) for data in request.time_series_data) > POINTS_PER_WRITE:
            raise invalid(f"more than {POINTS_PER_WRITE} points")
        for data in request.time_series_data:
            name = f"{request.tensorboard_run}/timeSeries/{data.tensorboard_time_series_id}"
            if data.value_type != self._resources.get(name).value_type:
                raise invalid(f"{name}: another type of value")
            self._points[name] |= {point.step: point for point in data.values}
        return vertex.WriteTensorboardRunDataResponse()

    def BatchReadTensorboardTimeSeriesData(
        self, request: vertex.BatchReadTensorboardTimeSeriesDataRequest
    ) -> Any:
        return vertex.BatchReadTensorboardTimeSeriesDataResponse(
            time_series_data=[
                {
                    "tensorboard_time_series_id": name.rpartition("/")[2],
                    "value_type": self._resources.get(name).value_type,
                    "values": [point for _, point in sorted(self._points[name].items())],
                }
                for name in request.time_series
            ]
        )
