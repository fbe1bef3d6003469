"""Cloud Monitoring: the points of metrics, written by tests and filtered as a client asks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from google.cloud import monitoring_v3

from tests.fakes.google_api import invalid

CONDITION = re.compile(r'(metric\.type|resource\.type|(?:metric|resource)\.labels\.\w+)="([^"]*)"')


class MetricService:
    """The service `MetricService`. `series` holds all that was measured."""

    def __init__(self) -> None:
        self.series: list[Any] = []

    def write(
        self, metric: str, resource: str, labels: Mapping[str, Mapping[str, str]], start: datetime, value: Any
    ) -> None:
        """Add the point of one minute."""
        end = start + timedelta(seconds=60)
        self.series.append(
            monitoring_v3.TimeSeries(
                metric={"type": metric, "labels": labels["metric"]},
                resource={"type": resource, "labels": labels["resource"]},
                points=[{"interval": {"start_time": start, "end_time": end}, "value": value}],
            )
        )

    def ListTimeSeries(self, request: Any) -> Any:
        wanted = [CONDITION.fullmatch(part) for part in request.filter.split(" AND ")]
        if not all(wanted) or not any(part and part[1] == "metric.type" for part in wanted):
            raise invalid(f"filter: {request.filter!r} is no filter with a metric's type")
        found = [
            series
            for series in self.series
            if all(part is not None and self._value(series, part[1]) == part[2] for part in wanted)
            and request.interval.start_time <= series.points[0].interval.end_time <= request.interval.end_time
        ]
        return monitoring_v3.ListTimeSeriesResponse(time_series=found)

    @staticmethod
    def _value(series: Any, path: str) -> str:
        kind, _, label = path.partition(".")
        of = getattr(series, kind)
        return str(of.type if label == "type" else of.labels.get(label.partition(".")[2], ""))
