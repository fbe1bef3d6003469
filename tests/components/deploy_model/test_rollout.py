"""A rollout ends the same wherever it is interrupted, and no request goes to a version that is worse."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from gauntlet.backends.deployment import Answer, Assignment, ConflictError, Release
from gauntlet.backends.rollouts import FileRecords, Records, open_records
from gauntlet.components.deploy_model import rollout as engine_module
from gauntlet.components.deploy_model.golden import Golden, fault_of
from gauntlet.components.deploy_model.rollout import LOCK_SECONDS, Engine, roll_back
from gauntlet.contracts.rollout import DeploymentRecord, Lock
from gauntlet.manifests.deployment import DeploymentSection
from gauntlet.manifests.errors import GauntletError, RejectedError, UsageError
from tests.fakes.deployment import Behaviour, MemoryDeployment

SETTINGS = DeploymentSection(target="local", min_requests=100, min_seconds=10, keep_previous_seconds=20)


def release(version: str) -> Release:
    sha256 = hashlib.sha256(version.encode()).hexdigest()
    return Release("emotion", version, f"/registry/emotion/{sha256}", sha256)


FIRST, SECOND, THIRD = release("1"), release("2"), release("3")


class MemoryRecords(Records):
    """The record in memory."""

    place = "memory"

    def __init__(self) -> None:
        self.content: bytes | None = None
        self.writes: list[Any] = []

    def _read(self) -> tuple[bytes | None, str]:
        return self.content, hashlib.sha256(self.content or b"").hexdigest()

    def _write(self, content: bytes, generation: str) -> str:
        if generation != self._read()[1]:
            raise self._changed()
        self.content = content
        self.writes.append(json.loads(content))
        return self._read()[1]

    @property
    def record(self) -> DeploymentRecord:
        found, _ = self.read()
        assert found is not None
        return found


def golden() -> Golden:
    bodies = tuple(json.dumps({"instances": [{"text": text}]}).encode() for text in ("good", "bad"))
    return Golden(bodies, ((0.7, 0.3), (0.2, 0.8)), 0.01, ("joy", "anger"))


def engine(target: MemoryDeployment, records: Records, **more: Any) -> Engine:
    given = {"settings": SETTINGS, "golden": golden, "owner": "here:1", "say": lambda _: None, **more}
    return Engine(target, records, clock=target.clock, **given)


def serving_first() -> tuple[MemoryDeployment, MemoryRecords]:
    target, records = MemoryDeployment("emotion"), MemoryRecords()
    assert engine(target, records).deploy(FIRST).phase == "done"
    return target, records


def weights(target: MemoryDeployment) -> dict[str, int]:
    return {one.version: one.weight for one in target.revisions.values()}


def test_a_good_version_gets_10_50_and_100_percent_and_the_version_before_is_stopped() -> None:
    target, records = serving_first()
    done = engine(target, records).deploy(SECOND)
    assert done.phase == "done"
    assert weights(target) == {"2": 100}
    shares = [one.weights.get(done.revision) for one in done.transitions if one.weights]
    assert shares == [10, 50, 100]
    assert [(one.share, one.new.requests >= 100) for one in done.seen] == [(0.1, True), (0.5, True)]
    assert records.record.lock is None


def test_every_transition_is_written_before_it_happens() -> None:
    target, records = serving_first()
    shift = target.shift

    def checked(wanted: Any, etag: str, **more: Any) -> Any:
        rollout = records.record.rollout
        assert rollout is not None
        assert dict(rollout.transitions[-1].weights) == dict(wanted)
        return shift(wanted, etag, **more)

    target.shift = checked  # type: ignore[method-assign]
    assert engine(target, records).deploy(SECOND).phase == "done"
    assert target.calls.count("shift") == 3


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        (Behaviour(fails="it cannot load model.onnx"), "it did not start: it cannot load model.onnx"),
        (Behaviour(seconds_to_start=1e6), "it was not ready after 600 s"),
        (Behaviour(scores=((0.3, 0.7), (0.2, 0.8))), "golden row 0: a probability differs by 0.4"),
        (Behaviour(crashes_after=50), "its server crashed 3 times"),
        (Behaviour(errors=0.2), "errors: worse than before"),
        (Behaviour(refused=0.2), "refusals: worse than before"),
        (Behaviour(latency_ms=40.0), "latency: worse than before"),
        (Behaviour(labels={"joy": 0.0, "anger": 1.0}), "labels: worse than before"),
    ],
)
def test_a_bad_version_is_rolled_back_at_no_more_than_ten_percent(behaviour: Behaviour, why: str) -> None:
    target, records = serving_first()
    target.behaviours[SECOND.bundle_sha256] = behaviour
    demoted: list[str] = []
    with pytest.raises(RejectedError, match=why):
        engine(target, records, demote=lambda: demoted.append("2")).deploy(SECOND)
    assert weights(target) == {"1": 100}
    assert demoted == ["2"]
    shares = [
        w for one in records.writes for t in one["rollout"]["transitions"] for w in t["weights"].values()
    ]
    assert {10, 90, 100} >= set(shares)


def test_a_version_that_fails_as_often_as_the_one_before_is_still_held_to_the_ceiling() -> None:
    target, records = serving_first()
    for one in (FIRST, SECOND):
        target.behaviours[one.bundle_sha256] = Behaviour(errors=0.6)
    with pytest.raises(RejectedError, match="requests failed, over the ceiling of 50%"):
        engine(target, records).deploy(SECOND)
    assert weights(target) == {"1": 100}


def test_shadowed_requests_find_another_model_that_no_client_has_seen_fail() -> None:
    target, records = serving_first()
    target.behaviours[SECOND.bundle_sha256] = Behaviour(differs=0.4)
    settings = SETTINGS.model_copy(update={"shadow_share": 0.2})
    with pytest.raises(RejectedError, match="shadow answers: worse than before"):
        engine(target, records, settings=settings).deploy(SECOND)


def test_without_traffic_it_waits_and_is_then_inconclusive() -> None:
    for choice, end in (("rollback", "rolled back"), ("hold", "held")):
        target, records = serving_first()
        target.rate = 0.0
        settings = SETTINGS.model_copy(update={"inconclusive": choice, "max_seconds": 100.0})
        if choice == "rollback":
            with pytest.raises(
                RejectedError, match="inconclusive after 100 s: 0 requests to the new version"
            ):
                engine(target, records, settings=settings).deploy(SECOND)
            assert weights(target) == {"1": 100}
        else:
            assert engine(target, records, settings=settings).deploy(SECOND).phase == "held"
            assert weights(target) == {"1": 90, "2": 10}
        assert records.record.rollout is not None
        assert records.record.rollout.phase == end


def test_a_version_that_was_rolled_back_is_tried_again_only_when_told() -> None:
    target, records = serving_first()
    target.behaviours[SECOND.bundle_sha256] = Behaviour(fails="no memory")
    with pytest.raises(RejectedError):
        engine(target, records).deploy(SECOND)
    target.behaviours.clear()
    before = weights(target)
    with pytest.raises(RejectedError, match="It is not tried again, unless you add --again"):
        engine(target, records).deploy(SECOND)
    assert weights(target) == before == {"1": 100}
    assert engine(target, records).deploy(SECOND, again=True).phase == "done"


def test_a_second_rollout_is_refused_while_one_goes_on_and_by_whom_it_is_locked() -> None:
    target, records = serving_first()
    target.faults["evidence"] = [KeyboardInterrupt()]  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        engine(target, records).deploy(SECOND)
    before = weights(target)
    with pytest.raises(UsageError, match="the rollout of version 2 is not finished, it is in phase 'judge'"):
        engine(target, records).deploy(THIRD)
    held = records.record.model_copy(
        update={"lock": Lock(owner="elsewhere:7", until=target.clock.now().isoformat())}
    )
    records.content = json.dumps(held.as_json()).encode()
    target.clock.seconds -= 1
    with pytest.raises(UsageError, match="the process elsewhere:7 works on its rollout"):
        engine(target, records).deploy(SECOND)
    assert weights(target) == before == {"1": 90, "2": 10}
    target.clock.seconds += 2
    assert engine(target, records).deploy(SECOND).phase == "done"


def test_a_lock_that_ends_later_than_any_could_was_taken_by_a_wrong_clock() -> None:
    target, records = serving_first()
    target.clock.jump = 10 * LOCK_SECONDS
    target.faults["start"] = [KeyboardInterrupt()]  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        engine(target, records, owner="elsewhere:7").deploy(SECOND)
    target.clock.jump = 0
    assert engine(target, records).deploy(SECOND).phase == "done"


def test_jumps_of_the_clock_neither_shorten_nor_prolong_a_step() -> None:
    target, records = serving_first()

    def jump(_: float) -> None:
        target.clock.jump = -target.clock.jump or 86_400.0

    target.clock.on_sleep.append(jump)
    started = target.clock.seconds
    assert engine(target, records).deploy(SECOND).phase == "done"
    assert 5 + 10 + 10 + 20 <= target.clock.seconds - started <= 200


def test_a_deploy_during_an_ab_test_is_refused_and_a_rollback_ends_the_test() -> None:
    target, records = serving_first()
    [revision] = target.revisions
    target.shift({revision: 100}, "0", assignment=Assignment("shorter", "salt", "x-user", revision))
    before = records.content
    with pytest.raises(UsageError, match="the A/B test shorter is going on"):
        engine(target, records).deploy(SECOND)
    assert weights(target) == {"1": 100}
    assert records.content == before
    roll_back(target, records, FIRST, "ada", "enough seen", target.clock)
    assert engine(target, records).deploy(SECOND).phase == "done"


def test_a_target_that_is_unavailable_for_a_moment_does_not_end_a_rollout() -> None:
    target, records = serving_first()
    target.faults["evidence"] = [GauntletError("503")] * 3
    target.faults["shift"] = [ConflictError("etag")]
    assert engine(target, records).deploy(SECOND).phase == "done"
    target.faults["start"] = [GauntletError("503: the API is unavailable")] * 5
    with pytest.raises(GauntletError, match="the API is unavailable"):
        engine(target, records).deploy(THIRD)
    assert engine(target, records).deploy(THIRD).phase == "done"


def test_counts_that_a_target_lost_begin_anew_and_keep_what_was_seen() -> None:
    target, records = serving_first()
    looks = [0]

    def lose(_: float) -> None:
        looks[0] += 1
        if looks[0] == 6:
            target.counts = {}

    target.clock.on_sleep.append(lose)
    done = engine(target, records).deploy(SECOND)
    assert done.phase == "done"
    assert [one.step for one in done.seen] == [0, 0, 1]


class Killed(BaseException):
    """The process was killed."""


def _lines_of_a_rollout(end: Callable[[], None]) -> list[int]:
    """The lines of the engine that a call executes, in the order in which each is first reached."""
    found: dict[int, None] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != engine_module.__file__:
            return None
        if event == "line":
            found.setdefault(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        end()
    finally:
        sys.settrace(None)
    return list(found)


def _killed_at(line: int, call: Callable[[], Any]) -> None:
    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != engine_module.__file__:
            return None
        if event == "line" and frame.f_lineno == line:
            sys.settrace(None)
            raise Killed
        return trace

    sys.settrace(trace)
    try:
        with pytest.raises(Killed):
            call()
    finally:
        sys.settrace(None)


@pytest.mark.parametrize("fails", [False, True], ids=["good", "bad"])
def test_killed_at_any_line_and_run_again_it_ends_the_same(fails: bool) -> None:
    settings = SETTINGS.model_copy(
        update={"steps": (10, 100), "min_requests": 20, "min_seconds": 2.0, "keep_previous_seconds": 2.0}
    )

    def begun() -> tuple[MemoryDeployment, MemoryRecords]:
        target, records = serving_first()
        if fails:
            target.behaviours[SECOND.bundle_sha256] = Behaviour(errors=0.9)
        return target, records

    def finish(target: MemoryDeployment, records: MemoryRecords) -> None:
        try:
            engine(target, records, settings=settings).deploy(SECOND)
        except RejectedError:
            assert fails

    fresh = begun()
    lines = _lines_of_a_rollout(lambda: finish(*fresh))
    assert len(lines) > 120
    for line in lines:
        target, records = begun()
        killed = engine(target, records, settings=settings)
        _killed_at(line, lambda killed=killed: killed.deploy(SECOND))  # type: ignore[misc]
        finish(target, records)
        assert weights(target) == ({"1": 100} if fails else {"2": 100}), line
        rollout = records.record.rollout
        assert rollout is not None
        assert rollout.phase == ("rolled back" if fails else "done"), line


def test_a_rollback_ends_a_rollout_that_is_going_on_and_says_who_did_it() -> None:
    target, records = serving_first()
    looks = [0]

    def interrupt(_: float) -> None:
        looks[0] += 1
        if looks[0] == 5:
            done = roll_back(target, records, FIRST, "ada", "it is slow", target.clock)
            assert done.warnings == ()

    target.clock.on_sleep.append(interrupt)
    with pytest.raises(GauntletError, match="ada rolled it back: it is slow"):
        engine(target, records).deploy(SECOND)
    assert {one.version: one.weight for one in target.revisions.values() if one.weight} == {"1": 100}
    rejected = records.record.rejected[SECOND.bundle_sha256]
    assert (rejected.by, rejected.why) == ("ada", "it is slow")
    assert "rolled back to version 1 by ada" in records.record.history[-1]
    with pytest.raises(RejectedError, match="by ada: it is slow"):
        engine(target, records).deploy(SECOND)


def test_a_rollback_between_the_record_and_the_shift_of_a_rollout_wins() -> None:
    target, records = serving_first()
    shift, done = target.shift, []

    def slow(wanted: Any, etag: str, **more: Any) -> Any:
        if not done:
            done.append(True)
            roll_back(target, records, FIRST, "ada", "stop", target.clock)
        return shift(wanted, etag, **more)

    target.shift = slow  # type: ignore[method-assign]
    with pytest.raises(GauntletError, match="ada rolled it back"):
        engine(target, records).deploy(SECOND)
    assert {one.version: one.weight for one in target.revisions.values() if one.weight} == {"1": 100}


def test_a_rollback_starts_a_version_that_was_stopped() -> None:
    target, records = serving_first()
    assert engine(target, records).deploy(SECOND).phase == "done"
    assert weights(target) == {"2": 100}
    roll_back(target, records, FIRST, "ada", "customers complain", target.clock)
    assert weights(target) == {"2": 0, "1": 100}


def test_a_rollback_moves_the_traffic_also_if_the_record_cannot_be_read_or_written(tmp_path: Path) -> None:
    target, _ = serving_first()
    path = tmp_path / "emotion.json"
    path.write_text("{ no json")
    revision = target.start(SECOND)
    target.clock.sleep(10)
    target.shift({revision.id: 100}, target._service().etag)
    done = roll_back(target, FileRecords(path), FIRST, "ada", "stop", target.clock)
    assert "not the record of a deployment" in done.warnings[0]
    assert weights(target)["1"] == 100
    assert path.read_text() == "{ no json"


def test_a_record_is_written_whole_by_one_of_two_and_kept_if_it_cannot_be_written(tmp_path: Path) -> None:
    records = FileRecords(tmp_path / "deployments" / "emotion.json")
    assert records.read() == (None, "")
    first = records.write(DeploymentRecord(model="emotion"), "")
    with pytest.raises(ConflictError, match="another process has changed it"):
        records.write(DeploymentRecord(model="emotion", history=("x",)), "")
    full = FileRecords(Path("/dev/full/deployments/emotion.json"))
    with pytest.raises(GauntletError, match="so nothing was changed"):
        full.write(DeploymentRecord(model="emotion"), "")
    assert records.read() == (DeploymentRecord(model="emotion"), first)


def test_a_record_of_another_release_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "emotion.json"
    path.write_text('{"format": 2, "model": "emotion"}')
    target = MemoryDeployment("emotion")
    with pytest.raises(UsageError, match="format: found 2, expected 1"):
        engine(target, FileRecords(path)).deploy(FIRST)
    assert target.calls == []
    assert path.read_text() == '{"format": 2, "model": "emotion"}'


def test_traffic_that_somebody_else_changed_is_set_again() -> None:
    target, records = serving_first()
    looks = [0]

    def change(_: float) -> None:
        looks[0] += 1
        if looks[0] == 5:
            first = next(one.id for one in target.revisions.values() if one.version == "1")
            target.shift({first: 100}, target._service().etag)

    target.clock.on_sleep.append(change)
    done = engine(target, records).deploy(SECOND)
    assert done.phase == "done"
    assert any("the target had other weights" in one.why for one in done.transitions)


def test_a_record_in_a_bucket_is_replaced_only_in_the_generation_that_was_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.fakes.bucket import Bucket

    bucket = Bucket()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.url)
    uri = "vertex://project/europe-west4?staging=gs://bucket/models"
    records, other = open_records("emotion", uri), open_records("emotion", uri)
    assert records.read() == (None, "0")
    first = records.write(DeploymentRecord(model="emotion"), "0")
    with pytest.raises(ConflictError, match="another process has changed it"):
        other.write(DeploymentRecord(model="emotion", history=("x",)), "0")
    second = other.write(DeploymentRecord(model="emotion", history=("y",)), first)
    assert records.read() == (DeploymentRecord(model="emotion", history=("y",)), second)
    assert list(bucket.objects) == ["gs://bucket/models/deployments/emotion.json"]


def test_golden_rows_are_compared_by_label() -> None:
    """What comes as a protobuf, as from a Vertex endpoint, has the labels in any order."""
    body = b'{"predictions": [{"probabilities": {"anger": 0.3, "joy": 0.7}}]}'
    assert fault_of(golden(), 0, Answer(200, body, "0" * 12), "0" * 64) == ""
    other = body.replace(b"joy", b"fear")
    assert "no prediction (KeyError('joy'))" in fault_of(golden(), 0, Answer(200, other, "0" * 12), "0" * 64)
