"""The section of deploy-model: where a version is served, and what it must show on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gauntlet.manifests.section import Fraction, Section
from gauntlet.manifests.training import require_accelerator_complete

Percent = Annotated[int, Field(ge=1, le=100)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Instances = Annotated[int, Field(ge=1)]
Target = Literal["none", "local", "cloud_run", "vertex_endpoint"]


def _require_order(least: int, most: int, what: str) -> None:
    if least > most:
        raise ValueError(f"min_{what} {least} up to max_{what} {most}: change one of them")


class Tolerance(Section):
    """How much worse than the version before a new version may be. The judge tests these differences.

    Attributes:
        errors: Of the requests, the share that may fail in addition.
        refusals: The share that may be refused with 429, 503 or 504 in addition.
        latency: How many times as long an answer may take.
        latency_ms: So many milliseconds longer it may take in any case: a server that gets few requests is
            slower by about a millisecond than the same server with many, whose caches are warm.
        slow: The share of answers that may take longer than that in addition.
        labels: How much the share of any predicted label may differ.
        shadow: The share of requests that both versions answer which may get another label.
    """

    errors: float = Field(0.01, ge=0, lt=1)
    refusals: float = Field(0.01, ge=0, lt=1)
    latency: float = Field(1.25, ge=1)
    latency_ms: float = Field(2.0, ge=0)
    slow: float = Field(0.02, ge=0, lt=1)
    labels: float = Field(0.1, ge=0, lt=1)
    shadow: float = Field(0.05, gt=0, lt=1)


class LocalTarget(Section):
    """Where the gateway on this machine listens, and what the version's server logs.

    Attributes:
        request_log: The folder of the request log, `/FOLDER` or `gs://BUCKET/FOLDER`. Without it a version
            logs as the one before it does.
        sample_rate: The share of rows in it.
        store: What it has of a row; see `gauntlet serve`.
    """

    host: str = Field("127.0.0.1", min_length=1)
    port: Port = 8080
    request_log: str | None = Field(None, pattern=r"^(/|gs://)")
    sample_rate: float = Field(1.0, gt=0, le=1)
    store: Literal["full", "features", "nothing"] = "features"


class CloudRunTarget(Section):
    """What each instance of a Cloud Run revision gets. Without a service account it is the project's own."""

    cpu: Literal["1", "2", "4", "8"] = "2"
    memory: str = Field("2Gi", pattern=r"^[1-9]\d*(Mi|Gi)$")
    min_instances: int = Field(1, ge=0)
    max_instances: Instances = 10
    concurrency: int = Field(16, ge=1, le=1_000)
    service_account: str | None = Field(None, min_length=3)

    @model_validator(mode="after")
    def _has_instances(self) -> Self:
        _require_order(self.min_instances, self.max_instances, "instances")
        return self


class VertexEndpointTarget(Section):
    """The machines of each deployed model of a Vertex endpoint. A quota counts the cores of `max_replicas`.

    Attributes:
        dedicated: The endpoint has a host of its own, which also takes streams; fixed when it is created.
        service_account: The account that the container runs as; without one it has no rights in the project.
    """

    machine_type: str = Field("n2-standard-2", pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)+$")
    min_replicas: Instances = 1
    max_replicas: Instances = 3
    dedicated: bool = True
    accelerator_type: str | None = Field(None, min_length=1)
    accelerator_count: int = Field(0, ge=0)
    service_account: str | None = Field(None, min_length=3)

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        _require_order(self.min_replicas, self.max_replicas, "replicas")
        require_accelerator_complete(self.accelerator_type, self.accelerator_count)
        return self


class DeploymentSection(Section):
    """Section of deploy-model. With target `none` the pipeline has no such step.

    Attributes:
        steps: The shares of the requests, in percent, that the new version gets one after the other.
        min_requests: How many requests each of the two versions must have answered before the next step.
        min_seconds: The shortest time of a step, and the longest, after which it is inconclusive.
        ready_seconds: How long a server may take to start. The default is 3,600 for a Vertex endpoint, where
            machines are made for each version.
        alpha: The probability that a version as good as the one before is rolled back, over all metrics,
            steps and looks.
        inconclusive: What happens then: the version before gets all requests again, or the shares stay and
            a person decides.
        keep_previous_seconds: How long the version before is kept after the last step. So long the rollout
            watches the new version, and rolls it back if it fails.
        shadow_share: The share of the other version's requests that the new one answers too, for comparison.
        error_ceiling: The share of errors among at least 20 requests that ends a rollout at once.
        project, region: Of a target on Google Cloud, if the registry is not there.
        service: The name of the service; by default the manifest's name.
    """

    target: Target = "none"
    steps: tuple[Percent, ...] = Field((10, 50, 100), min_length=1)
    min_requests: int = Field(200, ge=1)
    min_seconds: float = Field(60.0, ge=0)
    max_seconds: float = Field(3_600.0, gt=0)
    ready_seconds: float = Field(600.0, gt=0)
    tolerance: Tolerance = Tolerance()
    alpha: float = Field(0.01, gt=0, le=0.2)
    inconclusive: Literal["rollback", "hold"] = "rollback"
    keep_previous_seconds: float = Field(600.0, ge=0)
    shadow_share: Fraction = 0.0
    error_ceiling: float = Field(0.5, gt=0, le=1)
    project: str | None = Field(None, min_length=1)
    region: str | None = Field(None, min_length=1)
    service: str | None = Field(None, pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=49)
    local: LocalTarget = LocalTarget()
    cloud_run: CloudRunTarget = CloudRunTarget()
    vertex_endpoint: VertexEndpointTarget = VertexEndpointTarget()

    @model_validator(mode="before")
    @classmethod
    def _with_time_to_start(cls, given: Any) -> Any:
        is_slow = isinstance(given, Mapping) and given.get("target") == "vertex_endpoint"
        return {"ready_seconds": 3_600.0, **given} if is_slow else given

    @model_validator(mode="after")
    def _can_finish(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)) or self.steps[-1] != 100:
            raise ValueError(f"ascending steps that end with 100, such as [10, 50, 100], not {[*self.steps]}")
        if self.min_seconds > self.max_seconds:
            raise ValueError(
                f"min_seconds {self.min_seconds:g} up to max_seconds {self.max_seconds:g}: change one of them"
            )
        return self
