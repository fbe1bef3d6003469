"""The same rollouts over every target: one in memory, and those on Google Cloud over fakes of its APIs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from itertools import count
from typing import Any

import numpy as np
import pytest

from gauntlet.backends.deployment import ArmCounts, Deployment, Release
from gauntlet.backends.google import calls, cloud_run, request_counts, vertex_endpoint
from gauntlet.backends.google.cloud_run import CloudRunDeployment
from gauntlet.backends.google.vertex_endpoint import VertexEndpointDeployment
from gauntlet.components.deploy_model import rollout as engine_module
from gauntlet.components.deploy_model.golden import Golden
from gauntlet.components.deploy_model.rollout import Engine, roll_back
from gauntlet.contracts.rollout import Rollout
from gauntlet.manifests.deployment import DeploymentSection
from gauntlet.manifests.errors import RejectedError
from tests.components.deploy_model.test_rollout import Killed, MemoryRecords
from tests.fakes.cloud import FakeCloud
from tests.fakes.deployment import (
    BOUNDS,
    Behaviour,
    ManualClock,
    MemoryDeployment,
    drawn_counts,
    golden_answers,
)

MINUTE = 60.0
URI = (
    "vertex://demo/europe-west4?staging=gs://bucket/models&serving_image="
    f"europe-west4-docker.pkg.dev/demo/images/serving@sha256:{'1' * 64}"
)
SETTINGS = DeploymentSection(
    target="local", steps=(10, 100), min_requests=100, min_seconds=MINUTE, keep_previous_seconds=MINUTE
)


def release(version: str) -> Release:
    sha256 = hashlib.sha256(version.encode()).hexdigest()
    return Release("emotion", version, f"gs://bucket/models/emotion/{sha256}", sha256)


FIRST, SECOND = release("1"), release("2")


class Place:
    """A target, the behaviour of each version's server there, and the clock of both."""

    def __init__(self, target: Deployment, clock: ManualClock) -> None:
        self.target, self.clock = target, clock
        self.records = MemoryRecords()
        self.behaviours: dict[str, Behaviour] = {}

    def behave(self, of: Release, behaviour: Behaviour) -> None:
        self.behaviours[of.bundle_sha256] = behaviour

    def of(self, bundle_sha256: str) -> Behaviour:
        return self.behaviours.get(bundle_sha256, Behaviour())

    def deploy(self, of: Release) -> Rollout:
        bodies = tuple(json.dumps({"instances": [{"text": text}]}).encode() for text in ("good", "bad"))
        golden = Golden(bodies, ((0.7, 0.3), (0.2, 0.8)), 0.01, ("joy", "anger"))
        engine = Engine(
            self.target,
            self.records,
            SETTINGS,
            lambda: golden,
            clock=self.clock,
            owner="here:1",
            say=lambda _: None,
        )
        return engine.deploy(of)

    def weights(self) -> dict[str, int]:
        service = self.target.service()
        assert service is not None
        return {one.version: one.weight for one in service.revisions}


class CloudPlace(Place):
    """A target on the fake of Google Cloud. Each sleep is a minute, and its requests are in the metrics."""

    def __init__(self, target: Deployment, clock: ManualClock, cloud: FakeCloud) -> None:
        super().__init__(target, clock)
        self.cloud, self.random = cloud, np.random.default_rng(0)
        clock.on_sleep.append(self._serve)

    def _serve(self, seconds: float) -> None:
        service = self.target.service()
        for one in service.revisions if service else ():
            drawn = drawn_counts(self.of(one.bundle_sha256), one.weight * 60, self.random)
            if drawn.requests:
                self._write(one.id, self.clock.now() - timedelta(seconds=seconds), drawn)

    def _write(self, revision: str, start: datetime, counts: ArmCounts) -> None:
        raise NotImplementedError

    def _write_all(
        self,
        metrics: tuple[str, str],
        kind: str,
        resource: dict[str, str],
        labels: dict[str, str],
        start: datetime,
        codes: dict[str, int],
        good: dict[str, str],
        latency_ms: dict[float, int],
    ) -> None:
        write = self.cloud.monitoring.write
        for code, number in codes.items():
            of = {"metric": {**labels, "response_code": code}, "resource": resource}
            write(metrics[0], kind, of, start, {"int64_value": number})
        buckets = {"explicit_buckets": {"bounds": BOUNDS[:-1]}}
        distribution = {"bucket_options": buckets, "bucket_counts": list(latency_ms.values())}
        of = {"metric": {**labels, **good}, "resource": resource}
        write(metrics[1], kind, of, start, {"distribution_value": distribution})


class CloudRunPlace(CloudPlace):
    def __init__(self, clock: ManualClock, cloud: FakeCloud) -> None:
        super().__init__(CloudRunDeployment("emotion", URI, {}), clock, cloud)
        cloud.cloud_run.answers = lambda sha256, instances: golden_answers(self.of(sha256), instances)

    def behave(self, of: Release, behaviour: Behaviour) -> None:
        super().behave(of, behaviour)
        if behaviour.fails:
            condition = {"state": "CONDITION_FAILED", "message": behaviour.fails}
            self.cloud.cloud_run.failing[of.bundle_sha256[:12]] = condition

    def _write(self, revision: str, start: datetime, counts: ArmCounts) -> None:
        names = {
            each.labels["gauntlet-bundle"][:12]: name.rpartition("/")[2]
            for name, each in self.cloud.cloud_run._revisions.items()
        }
        good = counts.requests - counts.errors - counts.refused
        self._write_all(
            ("run.googleapis.com/request_count", "run.googleapis.com/request_latencies"),
            "cloud_run_revision",
            {"service_name": "emotion", "location": "europe-west4", "revision_name": names[revision]},
            {},
            start,
            {"200": good, "500": counts.errors, "503": counts.refused},
            {"response_code_class": "2xx"},
            dict(counts.latency_ms),
        )


class VertexPlace(CloudPlace):
    def __init__(self, clock: ManualClock, cloud: FakeCloud) -> None:
        super().__init__(VertexEndpointDeployment("emotion", URI, {}), clock, cloud)
        cloud.endpoints.looks_until_done = 3
        cloud.endpoints.answers = lambda name, instances: golden_answers(
            self.of(name.rpartition(" ")[2]), instances
        )

    def behave(self, of: Release, behaviour: Behaviour) -> None:
        super().behave(of, behaviour)
        if behaviour.fails:
            self.cloud.endpoints.failing[of.version] = behaviour.fails

    def _write(self, revision: str, start: datetime, counts: ArmCounts) -> None:
        failed = counts.errors + counts.refused
        prefix = "aiplatform.googleapis.com/prediction/online/"
        self._write_all(
            (f"{prefix}response_count", f"{prefix}prediction_latencies"),
            "aiplatform.googleapis.com/Endpoint",
            {"endpoint_id": "emotion", "location": "europe-west4"},
            {"deployed_model_id": revision},
            start,
            {"2xx": counts.requests - failed, "5xx": failed},
            {"latency_type": "total"},
            dict(counts.latency_ms),
        )


class MemoryPlace(Place):
    def __init__(self) -> None:
        self.memory = MemoryDeployment("emotion")
        super().__init__(self.memory, self.memory.clock)
        self.behaviours = self.memory.behaviours


@pytest.fixture(params=["memory", "cloud_run", "vertex_endpoint"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A target that serves the first version."""
    monkeypatch.setattr(engine_module, "POLL_SECONDS", MINUTE)
    monkeypatch.setattr(engine_module, "LONGEST_PAUSE", 10 * MINUTE)
    if request.param == "memory":
        made: Place = MemoryPlace()
    else:
        cloud: FakeCloud = request.getfixturevalue("cloud")
        clock, looks = ManualClock(), count(1)

        class Clocked(datetime):
            @classmethod
            def now(
                cls, tz: tzinfo | None = None
            ) -> Any:  # never the same twice, as shifts are told apart by it
                return (clock.now() + timedelta(microseconds=next(looks))).astimezone(tz)

        for module in (cloud_run, vertex_endpoint, request_counts):
            monkeypatch.setattr(module, "datetime", Clocked)
        for module in (cloud_run, vertex_endpoint):
            monkeypatch.setattr(module, "SECONDS_HIDDEN", 0)
            monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0.001)
        monkeypatch.setattr(calls, "SECONDS_BEFORE_THE_FIRST_RETRY", 0.001)
        made = (CloudRunPlace if request.param == "cloud_run" else VertexPlace)(clock, cloud)
    assert made.deploy(FIRST).phase == "done"
    assert made.weights() == {"1": 100}
    return made


def test_a_good_version_gets_all_requests_and_the_version_before_is_stopped(place: Place) -> None:
    done = place.deploy(SECOND)
    assert done.phase == "done"
    assert place.weights() == {"2": 100}
    assert [one.weights.get(done.revision) for one in done.transitions if one.weights] == [10, 100]
    [seen] = done.seen
    assert seen.new.requests >= 100
    assert seen.old.requests > 5 * seen.new.requests


@pytest.mark.parametrize(
    ("behaviour", "why", "shares"),
    [
        (Behaviour(fails="it cannot load model.onnx"), "it did not start: .*it cannot load model.onnx", []),
        (Behaviour(scores=((0.3, 0.7), (0.2, 0.8))), "golden row 0: a probability differs by 0.4", []),
        (Behaviour(errors=0.2), "errors: worse than before", [10]),
        pytest.param(
            Behaviour(latency_ms=40.0), "latency: worse than before", [10], marks=pytest.mark.acceptance
        ),
    ],
    ids=["fails", "answers wrongly", "errors", "slow"],
)
def test_a_bad_version_is_rolled_back_and_stopped(
    behaviour: Behaviour, why: str, shares: list[int], place: Place
) -> None:
    place.behave(SECOND, behaviour)
    with pytest.raises(RejectedError, match=why):
        place.deploy(SECOND)
    assert place.weights() == {"1": 100}
    rollout = place.records.record.rollout
    assert rollout is not None
    assert [
        one.weights[rollout.revision] for one in rollout.transitions if rollout.revision in one.weights
    ] == shares


@pytest.mark.parametrize(
    "is_bad", [False, pytest.param(True, marks=pytest.mark.acceptance)], ids=["good", "bad"]
)
def test_killed_before_and_after_each_call_of_the_target_it_ends_the_same(
    is_bad: bool, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_bad:
        place.behave(SECOND, Behaviour(errors=0.9))
    killed: list[str] = []

    def killing(method: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **more: Any) -> Any:
            moment = f"{method} {arguments[0] if method == 'shift' else ''}"
            if f"before {moment}" not in killed:
                killed.append(f"before {moment}")
                raise Killed
            result = call(*arguments, **more)
            if f"after {moment}" not in killed:
                killed.append(f"after {moment}")
                raise Killed
            return result

        return called

    for method in ("start", "ask", "shift", "evidence", "stop"):
        monkeypatch.setattr(place.target, method, killing(method, getattr(place.target, method)))
    phase = ""
    for _ in range(20):
        try:
            phase = place.deploy(SECOND).phase
        except Killed:
            continue
        except RejectedError:
            phase = "rolled back"
        break
    assert phase == ("rolled back" if is_bad else "done")
    assert len(killed) == 12  # before and after start, ask, two shifts, evidence, stop
    assert place.weights() == ({"1": 100} if is_bad else {"2": 100})


def test_a_rollback_starts_the_version_before_and_gives_it_all_requests(place: Place) -> None:
    assert place.deploy(SECOND).phase == "done"
    done = roll_back(place.target, place.records, FIRST, "ada", "customers complain", place.clock, 3_600.0)
    assert done.version == "1"
    assert {version: weight for version, weight in place.weights().items() if weight} == {"1": 100}
