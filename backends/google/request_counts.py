"""What the revisions of a service answered, by Cloud Monitoring.

Cloud Run and Vertex AI write one point a minute for each revision and status. A point can be read minutes
after its minute, and not for all revisions at the same time. Therefore the newest minutes are left out for
all revisions, and so is the minute in which the weights were set.
https://cloud.google.com/monitoring/api/metrics_gcp
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from gauntlet.backends.deployment import ArmCounts
from gauntlet.backends.google.calls import ask, explained

HOST = "monitoring.googleapis.com"
REFUSALS = ("429", "503", "504")


@dataclass(frozen=True)
class Metrics:
    """Where a service's requests are counted: the filter of its resource, and metrics with labels.

    Attributes:
        revision: The label that names the revision: of the resource, or of the metric.
        requests: The number of answers by the label `response_code`: a code, or a class such as 5xx.
        latencies: The latencies in milliseconds.
        good: A filter of the latencies that are counted.
        seconds_hidden: How long after the beginning of its minute a point may not be visible.
    """

    resource: str
    revision: str
    requests: str
    latencies: str
    good: str
    seconds_hidden: int


def counts(
    project: str, metrics: Metrics, revisions: Mapping[str, str], since: datetime
) -> dict[str, ArmCounts]:
    """What each revision answered in whole minutes since a time.

    Args:
        revisions: The id of each revision, by its name in the metrics.

    Raises:
        UsageError: This account may not read metrics.
        GauntletError: Cloud Monitoring does not answer.
    """
    answered: defaultdict[str, Counter[str]] = defaultdict(Counter)
    latency_ms: defaultdict[str, Counter[float]] = defaultdict(Counter)
    with explained(HOST):
        for name, code, value in _points(project, metrics, metrics.requests, "", since):
            answered[name][code] += value.int64_value
        for name, _, value in _points(project, metrics, metrics.latencies, metrics.good, since):
            latency_ms[name].update(_buckets(value.distribution_value))
    return {
        id_: ArmCounts(
            requests=answered[name].total(),
            errors=sum(n for code, n in answered[name].items() if code[:1] == "5" and code not in REFUSALS),
            refused=sum(answered[name][code] for code in REFUSALS),
            latency_ms=dict(sorted(latency_ms[name].items())),
        )
        for name, id_ in revisions.items()
    }


def _points(
    project: str, metrics: Metrics, metric: str, good: str, since: datetime
) -> Iterator[tuple[str, str, Any]]:
    """The revision, the response code and the value of each point of a whole minute."""
    from google.cloud import monitoring_v3

    until = datetime.now(UTC) - timedelta(seconds=metrics.seconds_hidden)
    if until <= since:
        return
    found: Iterable[Any] = ask(
        monitoring_v3.MetricServiceClient().list_time_series,
        name=f"projects/{project}",
        filter=" AND ".join(filter(None, (f'metric.type="{metric}"', metrics.resource, good))),
        interval={"start_time": since, "end_time": until},
        view="FULL",
    )
    for series in found:
        labels = {**series.resource.labels, **series.metric.labels}
        for point in series.points:
            if since <= point.interval.start_time and point.interval.end_time <= until:
                yield labels.get(metrics.revision, ""), labels.get("response_code", ""), point.value


def _buckets(distribution: Any) -> dict[float, int]:
    """How many values are in each bucket, by the bucket's upper bound."""
    options = distribution.bucket_options
    if options.HasField("exponential_buckets"):
        of = options.exponential_buckets
        bounds = [of.scale * of.growth_factor**at for at in range(of.num_finite_buckets + 1)]
    elif options.HasField("linear_buckets"):
        of = options.linear_buckets
        bounds = [of.offset + of.width * at for at in range(of.num_finite_buckets + 1)]
    else:
        bounds = list(options.explicit_buckets.bounds)
    return dict(zip((*bounds, math.inf), distribution.bucket_counts, strict=False))
