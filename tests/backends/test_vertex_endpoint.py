"""Deployment to a Vertex AI endpoint, against a fake that holds the rules of its API."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.cloud import aiplatform_v1 as vertex

from gauntlet.backends.deployment import Assignment, ConflictError, Release, Service, Shadow
from gauntlet.backends.google import calls, vertex_endpoint
from gauntlet.backends.google.vertex_endpoint import VertexEndpointDeployment
from gauntlet.manifests.errors import GauntletError, UsageError
from tests.fakes.cloud import FakeCloud
from tests.fakes.google_api import ApiError, Failure

IMAGE = f"europe-west4-docker.pkg.dev/demo/images/serving@sha256:{'1' * 64}"
URI = f"vertex://demo/europe-west4?staging=gs://bucket/models&serving_image={IMAGE}"
OLD = Release("emotion", "1", "gs://bucket/models/emotion/a", "a" * 64)
NEW = Release("emotion", "2", "gs://bucket/models/emotion/b", "b" * 64)
# 10^9 plus the first 15 digits of the sha256, modulo 9 * 10^9
A, B = "9404564650", "3045021115"
BODY = b'{"instances": [{"text": "x"}]}'
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
NAME = "projects/demo/locations/europe-west4/endpoints/emotion"
STAGING = f"{NAME}-{B}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vertex_endpoint, "SECONDS_BETWEEN_LOOKS", 0.001)
    monkeypatch.setattr(calls, "SECONDS_BEFORE_THE_FIRST_RETRY", 0.001)


def target(**settings: Any) -> VertexEndpointDeployment:
    return VertexEndpointDeployment("emotion", URI, settings)


def serving(deployment: VertexEndpointDeployment) -> Service:
    found = deployment.service()
    assert found is not None
    return found


def both(**settings: Any) -> VertexEndpointDeployment:
    """The old version with all requests, and the new one ready without any."""
    deployment = target(**settings)
    for release in (OLD, NEW):
        deployment.start(release)
        serving(deployment)
    return deployment


def test_the_first_version_gets_all_requests_and_the_second_none(cloud: FakeCloud) -> None:
    deployment = target()
    assert deployment.service() is None
    deployment.start(OLD)
    assert serving(deployment).weights == {A: 100}
    deployment.start(NEW)
    found = serving(deployment)
    assert found.weights == {A: 100}
    new = found.of_bundle(NEW.bundle_sha256)
    assert new is not None
    assert (new.id, new.version, new.state, new.weight) == (B, "2", "ready", 0)
    assert found.address == f"https://emotion.europe-west4-1.prediction.vertexai.goog/v1/{NAME}:predict"
    deployed = cloud.api.requests("DeployModel")
    assert [(each.endpoint, dict(each.traffic_split)) for each in deployed] == [
        (NAME, {"0": 100}),
        (STAGING, {"0": 100}),
        (NAME, {}),
    ]
    assert deployment.start(NEW) == new
    assert len(cloud.api.requests("DeployModel")) == 3


def test_a_deployed_model_names_its_version_and_follows_the_settings(cloud: FakeCloud) -> None:
    machines = {
        "machine_type": "g2-standard-4",
        "accelerator_type": "NVIDIA_L4",
        "accelerator_count": 1,
        "min_replicas": 2,
        "max_replicas": 4,
        "service_account": "serving@demo.iam.gserviceaccount.com",
        "dedicated": False,
    }
    both(vertex_endpoint=machines)
    first, staged, second = (each.deployed_model for each in cloud.api.requests("DeployModel"))
    assert second.model == "projects/demo/locations/europe-west4/models/emotion@2"
    assert (first.id, staged.id, second.id) == (A, B, B)
    of = second.dedicated_resources
    assert (of.machine_spec.machine_type, of.machine_spec.accelerator_type.name) == (
        "g2-standard-4",
        "NVIDIA_L4",
    )
    assert (of.min_replica_count, of.max_replica_count) == (2, 4)
    assert staged.dedicated_resources.max_replica_count == 1
    assert second.service_account == machines["service_account"]
    assert not any(each.endpoint.dedicated_endpoint_enabled for each in cloud.api.requests("CreateEndpoint"))
    with pytest.raises(UsageError, match="dedicated: found True, but the endpoint emotion was created with"):
        target().start(NEW)


def test_a_deployment_that_goes_on_is_starting_also_for_another_process(cloud: FakeCloud) -> None:
    deployment = target()
    deployment.start(OLD)
    serving(deployment)
    cloud.endpoints.looks_until_done = 6
    assert deployment.start(NEW).state == "starting"
    other = target()
    assert other.start(NEW).state == "starting"
    states = [found.state for _ in range(8) if (found := serving(other).of_bundle(NEW.bundle_sha256))]
    assert states[0] == "starting"
    assert states[-1] == "ready"
    assert len(cloud.api.requests("DeployModel")) == 3


@pytest.mark.parametrize("dedicated", [True, False])
def test_a_new_version_is_asked_at_its_staging_endpoint_until_the_weights_are_set(
    dedicated: bool, cloud: FakeCloud
) -> None:
    deployment = both(vertex_endpoint={"dedicated": dedicated})
    cloud.endpoints.answers = lambda name, instances: [{"version": name[0], **each} for each in instances]
    answer = deployment.ask(B, BODY)
    assert (answer.status, answer.bundle_sha256) == (200, "b" * 12)
    assert json.loads(answer.body) == {"predictions": [{"version": "2", "text": "x"}]}
    assert deployment.ask(A, BODY).bundle_sha256 == "a" * 12
    assert cloud.endpoints.predicted == [(f"emotion-{B}", B), ("emotion", A)]
    deployment.shift({A: 90, B: 10}, serving(deployment).etag)
    with pytest.raises(GauntletError, match="it has no staging endpoint"):
        deployment.ask(B, BODY)


@pytest.mark.parametrize("dedicated", [True, False])
def test_an_error_of_the_container_is_an_answer_of_the_version(dedicated: bool, cloud: FakeCloud) -> None:
    deployment = both(vertex_endpoint={"dedicated": dedicated})

    def fail(_: str, __: Any) -> Any:
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "instances[0].text: found 7")

    cloud.endpoints.answers = fail
    answer = deployment.ask(B, BODY)
    assert (answer.status, answer.bundle_sha256) == (400, "b" * 12)
    assert b"instances[0].text: found 7" in answer.body


def test_an_endpoint_that_is_busy_for_a_moment_is_asked_again(cloud: FakeCloud) -> None:
    deployment = both(vertex_endpoint={"dedicated": False})
    cloud.api.failures["Predict"] = [Failure(UNAVAILABLE), Failure(grpc.StatusCode.RESOURCE_EXHAUSTED)]
    assert deployment.ask(B, BODY).status == 200


def test_a_shift_names_every_deployed_model_and_removes_the_staging_endpoint(cloud: FakeCloud) -> None:
    deployment = both()
    found = deployment.shift({A: 90, B: 10}, serving(deployment).etag)
    assert found.weights == {A: 90, B: 10}
    found = deployment.shift({B: 100}, found.etag)
    assert found.weights == {B: 100}
    *_, last = cloud.api.requests("UpdateEndpoint")
    assert dict(last.endpoint.traffic_split) == {A: 0, B: 100}
    assert set(cloud.endpoints.endpoints) == {NAME}
    deployment.stop(A)
    assert [each.id for each in serving(deployment).revisions] == [B]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    "method", ["CreateEndpoint", "DeployModel", "UpdateEndpoint", "UndeployModel", "DeleteEndpoint"]
)
def test_a_lost_request_is_made_once(method: str, after: bool, cloud: FakeCloud) -> None:
    cloud.api.failures[method] = [Failure(UNAVAILABLE, after_the_write=after)]
    deployment = both()
    found = deployment.shift({A: 50, B: 50}, serving(deployment).etag)
    assert found.weights == {A: 50, B: 50}
    found = deployment.shift({B: 100}, found.etag)
    cloud.api.failures[method] = [Failure(UNAVAILABLE, after_the_write=after)]
    deployment.stop(A)
    assert [(each.id, each.weight) for each in serving(deployment).revisions] == [(B, 100)]
    deployment.stop(A)
    assert set(cloud.endpoints.endpoints) == {NAME}


def test_a_change_by_somebody_else_is_a_conflict(cloud: FakeCloud) -> None:
    deployment = both()
    etag = serving(deployment).etag
    deployment.shift({A: 50, B: 50}, etag)
    with pytest.raises(ConflictError, match="was changed by somebody else"):
        deployment.shift({A: 100}, etag)


def test_a_deployment_that_fails_says_why_and_is_started_again(cloud: FakeCloud) -> None:
    cloud.endpoints.failing["2"] = "Model server exited unexpectedly.\nSee the logs."
    deployment = both()
    failed = serving(deployment).of_bundle(NEW.bundle_sha256)
    assert failed is not None
    assert failed.state == "failed"
    assert "Vertex AI: Model server exited unexpectedly." in failed.reason
    with pytest.raises(UsageError, match=f"revision {B} is failed"):
        deployment.shift({A: 90, B: 10}, serving(deployment).etag)
    cloud.endpoints.failing.clear()
    deployment.start(NEW)
    assert [each.state for each in serving(deployment).revisions] == ["ready", "ready"]
    deployment.stop(B)
    assert [each.id for each in serving(deployment).revisions] == [A]
    assert STAGING not in cloud.endpoints.endpoints


def test_a_used_up_quota_of_machines_is_named(cloud: FakeCloud) -> None:
    said = (
        "The following quotas are exceeded: aiplatform.googleapis.com/custom_model_serving_cpus. "
        "Quota limit 6."
    )
    cloud.endpoints.failing["2"] = said
    failed = serving(both()).of_bundle(NEW.bundle_sha256)
    assert failed is not None
    assert "quota aiplatform.googleapis.com/custom_model_serving_cpus is used up" in failed.reason


def test_a_version_that_is_still_deployed_is_stopped_once_that_is_done(cloud: FakeCloud) -> None:
    deployment = target()
    deployment.start(OLD)
    serving(deployment)
    cloud.endpoints.looks_until_done = 4
    deployment.start(NEW)
    deployment.stop(B)
    assert [each.id for each in serving(deployment).revisions] == [A]
    assert not cloud.endpoints.endpoints[NAME].traffic_split.get(B)
    with pytest.raises(UsageError, match="gets 100 % of the requests"):
        deployment.stop(A)


def test_a_model_that_somebody_else_deployed_keeps_its_share_until_weights_are_set(cloud: FakeCloud) -> None:
    deployment = target()
    deployment.start(OLD)
    serving(deployment)
    by_hand = {
        "id": "77",
        "model": f"{NAME.partition('/endpoints')[0]}/models/other@3",
        "dedicated_resources": {
            "machine_spec": {"machine_type": "e2-standard-2"},
            "min_replica_count": 1,
            "max_replica_count": 1,
        },
    }
    client = vertex.EndpointServiceClient(
        client_options={"api_endpoint": "europe-west4-aiplatform.googleapis.com"}
    )
    client.deploy_model(endpoint=NAME, deployed_model=by_hand, traffic_split={"0": 20, A: 80})
    client.list_operations(request={"name": NAME})
    deployment.start(NEW)
    assert serving(deployment).weights == {A: 80, "77": 20}


@pytest.mark.parametrize("weights", [{}, {A: 90}, {A: 110, B: -10}, {"3": 100}])
def test_weights_that_cannot_be_are_refused(weights: dict[str, int], cloud: FakeCloud) -> None:
    deployment = both()
    with pytest.raises(UsageError, match="The requests stay as they are"):
        deployment.shift(weights, serving(deployment).etag)


@pytest.mark.parametrize("more", [{"shadow": Shadow(B, 0.1)}, {"assignment": Assignment("t", "s", "h", A)}])
def test_shadow_and_assignment_are_refused(more: dict[str, Any], cloud: FakeCloud) -> None:
    with pytest.raises(UsageError, match="Use target local"):
        target().shift({A: 100}, "", **more)


def test_a_version_without_a_container_cannot_be_deployed() -> None:
    with pytest.raises(UsageError, match="no serving_image"):
        VertexEndpointDeployment("emotion", "vertex://demo/europe-west4?staging=gs://bucket/models", {})


def test_an_accelerator_that_does_not_exist_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(UsageError, match=r"accelerator_type: found 'A100', expected one of .*NVIDIA_L4"):
        target(vertex_endpoint={"accelerator_type": "A100", "accelerator_count": 1})


def test_a_quota_and_a_permission_are_explained(cloud: FakeCloud) -> None:
    deployment = both()
    etag = serving(deployment).etag
    said = "Quota exceeded for quota metric aiplatform.googleapis.com/write_requests"
    cloud.api.failures["UpdateEndpoint"] = [Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, said)]
    with pytest.raises(calls.QuotaError, match="write_requests"):
        deployment.shift({B: 100}, etag)
    cloud.api.failures["UpdateEndpoint"] = [Failure(grpc.StatusCode.PERMISSION_DENIED)]
    with pytest.raises(UsageError, match=r"roles/aiplatform\.user"):
        deployment.shift({B: 100}, etag)


def test_evidence_counts_whole_minutes_of_each_deployed_model_by_class(
    cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = both()
    found = deployment.shift({A: 90, B: 10}, serving(deployment).etag)
    assert deployment.evidence().arms[B].requests == 0
    monkeypatch.setattr(vertex_endpoint, "SECONDS_HIDDEN", -240)  # as if 4 minutes later
    start = datetime.now(UTC) + timedelta(seconds=1)
    prefix, kind = "aiplatform.googleapis.com/prediction/online/", "aiplatform.googleapis.com/Endpoint"
    of = {"endpoint_id": "emotion", "location": "europe-west4"}
    for code, number in {"2xx": 20, "4xx": 4, "5xx": 6}.items():
        labels = {"metric": {"response_code": code, "deployed_model_id": B}, "resource": of}
        cloud.monitoring.write(f"{prefix}response_count", kind, labels, start, {"int64_value": number})
        elsewhere = {**labels, "resource": {**of, "endpoint_id": f"emotion-{B}"}}
        cloud.monitoring.write(f"{prefix}response_count", kind, elsewhere, start, {"int64_value": 1000})
    value = {
        "distribution_value": {
            "count": 20,
            "bucket_options": {"explicit_buckets": {"bounds": [10, 20, 40]}},
            "bucket_counts": [5, 12, 2, 1],
        }
    }
    for kind_of_latency in ("total", "model"):
        labels = {"metric": {"latency_type": kind_of_latency, "deployed_model_id": B}, "resource": of}
        cloud.monitoring.write(f"{prefix}prediction_latencies", kind, labels, start, value)
    evidence = deployment.evidence()
    assert (evidence.etag, evidence.weights) == (found.etag, found.weights)
    arm = evidence.arms[B]
    assert (arm.requests, arm.errors, arm.refused) == (30, 6, 0)
    assert arm.latency_ms == {10: 5, 20: 12, 40: 2, float("inf"): 1}
