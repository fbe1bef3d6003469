"""Deployment on Cloud Run, against a fake that holds the rules of its API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.cloud import run_v2

from gauntlet.backends.deployment import Assignment, ConflictError, Release, Service, Shadow
from gauntlet.backends.google import calls, cloud_run
from gauntlet.backends.google.cloud_run import CloudRunDeployment
from gauntlet.manifests.errors import GauntletError, UsageError
from tests.fakes.cloud import FakeCloud
from tests.fakes.google_api import Failure

IMAGE = f"europe-west4-docker.pkg.dev/demo/images/serving@sha256:{'1' * 64}"
URI = f"vertex://demo/europe-west4?staging=gs://bucket/models&serving_image={IMAGE}"
OLD = Release("emotion", "1", "gs://bucket/models/emotion/a", "a" * 64)
NEW = Release("emotion", "2", "gs://bucket/models/emotion/b", "b" * 64)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_run, "SECONDS_BETWEEN_LOOKS", 0.001)
    monkeypatch.setattr(calls, "SECONDS_BEFORE_THE_FIRST_RETRY", 0.001)


def target(**settings: Any) -> CloudRunDeployment:
    return CloudRunDeployment("emotion", URI, settings)


def serving(deployment: CloudRunDeployment) -> Service:
    found = deployment.service()
    assert found is not None
    return found


def both(**settings: Any) -> CloudRunDeployment:
    """The old revision with all requests, and the new one ready without any."""
    deployment = target(**settings)
    for release in (OLD, NEW):
        deployment.start(release)
        serving(deployment)
    return deployment


def test_the_first_revision_gets_all_requests_and_the_second_none(cloud: FakeCloud) -> None:
    deployment = target()
    assert deployment.service() is None
    deployment.start(OLD)
    assert serving(deployment).weights == {"a" * 12: 100}
    deployment.start(NEW)
    found = serving(deployment)
    assert found.weights == {"a" * 12: 100}
    new = found.of_bundle(NEW.bundle_sha256)
    assert new is not None
    assert (new.id, new.version, new.state, new.weight) == ("b" * 12, "2", "ready", 0)
    assert deployment.start(NEW) == new
    assert len(cloud.api.requests("UpdateService")) == 1


def test_what_a_container_gets_follows_the_settings(cloud: FakeCloud) -> None:
    both(cloud_run={"cpu": "4", "memory": "8Gi", "min_instances": 2, "concurrency": 32})
    (made,) = cloud.api.requests("CreateService")
    template = made.service.template
    (container,) = template.containers
    assert container.startup_probe.http_get.path == "/startupz"
    assert (container.resources.cpu_idle, dict(container.resources.limits)) == (
        False,
        {"cpu": "4", "memory": "8Gi"},
    )
    assert (template.scaling.min_instance_count, template.max_instance_request_concurrency) == (2, 32)
    assert {each.name: each.value for each in container.env} == {"AIP_STORAGE_URI": OLD.bundle_uri}
    assert container.image == IMAGE


def test_a_shift_is_in_effect_when_it_returns_and_names_revisions_but_in_no_template(
    cloud: FakeCloud,
) -> None:
    deployment = both()
    cloud.cloud_run.looks_until_settled = 3
    found = deployment.shift({"a" * 12: 90, "b" * 12: 10}, serving(deployment).etag)
    assert found.weights == {"a" * 12: 90, "b" * 12: 10}
    assert found.revisions[0].since > "2026"
    *_, last = cloud.api.requests("UpdateService")
    assert [each.percent for each in last.service.traffic] == [90, 10]
    assert all(each.revision for each in last.service.traffic)
    assert all(not each.service.template.revision for each in cloud.api.requests("UpdateService"))
    assert deployment.shift({"b" * 12: 100}, found.etag).weights == {"b" * 12: 100}


def test_a_service_without_traffic_is_pinned_before_a_new_revision_starts(cloud: FakeCloud) -> None:
    deployment = target()
    deployment.start(OLD)
    serving(deployment)
    name = "projects/demo/locations/europe-west4/services/emotion"
    run_v2.ServicesClient().update_service(
        request={"service": {"name": name}, "update_mask": {"paths": ["traffic"]}}
    )
    assert serving(deployment).weights == {"a" * 12: 100}
    deployment.start(NEW)
    assert serving(deployment).weights == {"a" * 12: 100}


def test_a_name_that_another_tool_wrote_does_not_refuse_a_shift(cloud: FakeCloud) -> None:
    deployment = both()
    name = "projects/demo/locations/europe-west4/services/emotion"
    client = run_v2.ServicesClient()
    foreign = client.get_service(name=name)
    foreign.template.revision = "emotion-by-hand"
    client.update_service(service=foreign)
    found = serving(deployment)
    assert deployment.shift({"a" * 12: 100}, found.etag).weights == {"a" * 12: 100}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("method", ["CreateService", "UpdateService"])
def test_a_lost_request_is_made_once(method: str, after: bool, cloud: FakeCloud) -> None:
    cloud.api.failures[method] = [Failure(UNAVAILABLE, after_the_write=after)]
    deployment = both()
    cloud.api.failures["UpdateService"] = [Failure(UNAVAILABLE, after_the_write=after)]
    before = serving(deployment)
    assert deployment.shift({"a" * 12: 50, "b" * 12: 50}, before.etag).weights == {"a" * 12: 50, "b" * 12: 50}
    assert len(cloud.cloud_run._revisions) == 2


def test_a_change_by_somebody_else_is_a_conflict(cloud: FakeCloud) -> None:
    deployment = both()
    etag = serving(deployment).etag
    deployment.shift({"a" * 12: 50, "b" * 12: 50}, etag)
    with pytest.raises(ConflictError, match="was changed by somebody else"):
        deployment.shift({"a" * 12: 100}, etag)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"revision_reason": "HEALTH_CHECK_CONTAINER_ERROR"}, "did not answer its startup probe"),
        ({"reason": "CONTAINER_MISSING"}, "the serving image does not exist"),
        ({"reason": "CONTAINER_PERMISSION_DENIED"}, "role Artifact Registry Reader"),
        ({"message": "out of luck"}, "out of luck"),
    ],
)
def test_a_failed_revision_says_why_and_the_old_one_can_be_shifted_to(
    condition: dict[str, Any], words: str, cloud: FakeCloud
) -> None:
    cloud.cloud_run.failing["b" * 12] = {"state": "CONDITION_FAILED", **condition}
    deployment = both()
    found = serving(deployment)
    failed = found.of_bundle(NEW.bundle_sha256)
    assert failed is not None
    assert failed.state == "failed"
    assert words in failed.reason
    assert "\n" not in failed.reason
    with pytest.raises(UsageError, match=r"revision b{12} is failed"):
        deployment.shift({"a" * 12: 90, "b" * 12: 10}, found.etag)
    assert deployment.shift({"a" * 12: 100}, found.etag).weights == {"a" * 12: 100}
    cloud.cloud_run.failing.clear()
    deployment.start(NEW)
    assert [each.state for each in serving(deployment).revisions] == ["ready", "ready"]


def test_an_update_that_fails_after_it_was_accepted_shifts_nothing(
    cloud: FakeCloud,
) -> None:
    deployment = both()
    cloud.cloud_run.failing_traffic = True
    with pytest.raises(GauntletError, match=r"the requests stay as they were.*internal error"):
        deployment.shift({"b" * 12: 100}, serving(deployment).etag)


def test_a_revision_is_asked_by_its_tag_at_any_weight(cloud: FakeCloud) -> None:
    deployment = both()
    answer = deployment.ask("b" * 12, b'{"instances": ["x"]}')
    assert (answer.status, answer.bundle_sha256) == (200, "b" * 12)
    ((_, path),) = cloud.cloud_run.requests
    assert path == "/predict"


def test_a_stopped_revision_loses_its_tag_and_starts_again_without_a_new_one(cloud: FakeCloud) -> None:
    deployment = both()
    with pytest.raises(UsageError, match="gets 100 % of the requests"):
        deployment.stop("a" * 12)
    deployment.stop("b" * 12)
    deployment.stop("b" * 12)
    assert [each.id for each in serving(deployment).revisions] == ["a" * 12]
    deployment.start(NEW)
    assert len(cloud.cloud_run._revisions) == 2


@pytest.mark.parametrize("weights", [{}, {"a" * 12: 90}, {"a" * 12: 110, "b" * 12: -10}, {"c" * 12: 100}])
def test_weights_that_cannot_be_are_refused(weights: dict[str, int], cloud: FakeCloud) -> None:
    deployment = both()
    with pytest.raises(UsageError, match="The requests stay as they are"):
        deployment.shift(weights, serving(deployment).etag)


@pytest.mark.parametrize(
    "more", [{"shadow": Shadow("b" * 12, 0.1)}, {"assignment": Assignment("t", "s", "h", "a" * 12)}]
)
def test_shadow_and_assignment_are_refused(more: dict[str, Any], cloud: FakeCloud) -> None:
    with pytest.raises(UsageError, match="Use target local"):
        target().shift({"a" * 12: 100}, "", **more)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sqlite:////tmp/x.db", "no project and region"),
        ("vertex://demo/europe-west4?staging=gs://bucket/models", "no serving_image"),
    ],
)
def test_what_is_missing_in_the_registry_uri_is_named(uri: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        CloudRunDeployment("emotion", uri, {})


def test_a_quota_and_a_permission_are_explained(cloud: FakeCloud) -> None:
    deployment = both()
    etag = serving(deployment).etag
    said = "Quota exceeded for quota metric run.googleapis.com/write_requests"
    cloud.api.failures["UpdateService"] = [Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, said)]
    with pytest.raises(calls.QuotaError, match="write_requests"):
        deployment.shift({"b" * 12: 100}, etag)
    cloud.api.failures["UpdateService"] = [Failure(grpc.StatusCode.PERMISSION_DENIED)]
    with pytest.raises(UsageError, match=r"roles/run\.developer"):
        deployment.shift({"b" * 12: 100}, etag)


def test_evidence_counts_whole_minutes_of_each_revision_by_status(
    cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = both()
    found = deployment.shift({"a" * 12: 90, "b" * 12: 10}, serving(deployment).etag)
    assert deployment.evidence().arms["b" * 12].requests == 0
    monkeypatch.setattr(cloud_run, "SECONDS_HIDDEN", -240)  # as if 4 minutes later
    start = datetime.now(UTC) + timedelta(seconds=1)
    prefix, kind = "run.googleapis.com/", "cloud_run_revision"
    *_, last = cloud.api.requests("UpdateService")
    of = {
        "service_name": "emotion",
        "location": "europe-west4",
        "revision_name": last.service.traffic[1].revision,
    }
    for code, number in {"200": 20, "500": 3, "503": 2, "429": 1, "404": 4}.items():
        labels = {"metric": {"response_code": code}, "resource": of}
        cloud.monitoring.write(f"{prefix}request_count", kind, labels, start, {"int64_value": number})
        before = start - timedelta(seconds=60)  # the minute of the shift
        cloud.monitoring.write(f"{prefix}request_count", kind, labels, before, {"int64_value": 1000})
    buckets = {"exponential_buckets": {"num_finite_buckets": 2, "growth_factor": 2, "scale": 10}}
    value = {"distribution_value": {"count": 20, "bucket_options": buckets, "bucket_counts": [5, 12, 2, 1]}}
    labels = {"metric": {"response_code_class": "2xx"}, "resource": of}
    cloud.monitoring.write(f"{prefix}request_latencies", kind, labels, start, value)
    evidence = deployment.evidence()
    assert (evidence.etag, evidence.weights) == (found.etag, found.weights)
    arm = evidence.arms["b" * 12]
    assert (arm.requests, arm.errors, arm.refused) == (30, 3, 3)
    assert arm.latency_ms == {10: 5, 20: 12, 40: 2, float("inf"): 1}
