"""A deployment target in memory, with a clock that a test moves and faults that a test asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from gauntlet.backends.deployment import (
    Answer,
    ArmCounts,
    Assignment,
    ConflictError,
    Deployment,
    Evidence,
    PairCounts,
    Release,
    Revision,
    Service,
    Shadow,
)
from gauntlet.manifests.errors import UsageError

BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, float("inf"))
START = datetime(2026, 12, 1, 12, tzinfo=UTC)


class ManualClock:
    """Time that passes when somebody sleeps. `jump` is how far the wall clock is off."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.jump = 0.0
        self.on_sleep: list[Callable[[float], None]] = []

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds + self.jump)

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        for call in self.on_sleep:
            call(seconds)


@dataclass(frozen=True)
class Behaviour:
    """How the server of a bundle behaves.

    Attributes:
        seconds_to_start: Until it is ready.
        fails: Why it never gets ready.
        errors, refused: The share of requests that fail, or are refused.
        latency_ms: The mean of the exponentially distributed latency.
        labels: The probability of each label.
        differs: The share of requests that get another label than the other version's.
        scores: What it answers to golden rows.
        crashes_after: After how many requests its server has crashed three times.
    """

    seconds_to_start: float = 5.0
    fails: str = ""
    errors: float = 0.0
    refused: float = 0.0
    latency_ms: float = 4.0
    labels: Mapping[str, float] = field(default_factory=lambda: {"joy": 0.6, "anger": 0.4})
    differs: float = 0.0
    scores: Any = ((0.7, 0.3), (0.2, 0.8))
    crashes_after: int | None = None


class MemoryDeployment(Deployment):
    """See the module. `rate` is in requests per second; `faults` are raised once each, by method."""

    def __init__(self, name: str, registry_uri: str = "", settings: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.clock = ManualClock()
        self.clock.on_sleep.append(self.serve)
        self.rate = 100.0
        self.random = np.random.default_rng(0)
        self.behaviours: dict[str, Behaviour] = {}
        self.faults: dict[str, list[Exception]] = {}
        self.revisions: dict[str, Revision] = {}
        self.started: dict[str, float] = {}
        self.counts: dict[str, ArmCounts] = {}
        self.pairs = PairCounts()
        self.shadow: Shadow | None = None
        self.assignment: Assignment | None = None
        self.changes = 0
        self.calls: list[str] = []

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if self.faults.get(method):
            raise self.faults[method].pop(0)

    def _behaviour(self, revision: Revision) -> Behaviour:
        return self.behaviours.get(revision.bundle_sha256, Behaviour())

    def _settle(self) -> None:
        for one in list(self.revisions.values()):
            behaviour = self._behaviour(one)
            served = self.counts.get(one.id, ArmCounts()).requests
            if one.state == "starting" and behaviour.fails:
                self.revisions[one.id] = replace(one, state="failed", reason=behaviour.fails)
            elif one.state == "starting" and self.clock.seconds >= (
                self.started[one.id] + behaviour.seconds_to_start
            ):
                weight = 0 if any(other.weight for other in self.revisions.values()) else 100
                self.revisions[one.id] = replace(one, state="ready", weight=weight)
            elif behaviour.crashes_after is not None and served >= behaviour.crashes_after:
                self.revisions[one.id] = replace(one, restarts=3)

    def service(self) -> Service | None:
        self._called("service")
        self._settle()
        if not self.revisions:
            return None
        return self._service()

    def _service(self) -> Service:
        ordered = tuple(self.revisions.values())
        address = f"http://memory/{self.name}"
        return Service(self.name, address, ordered, str(self.changes), self.shadow, self.assignment)

    def start(self, release: Release) -> Revision:
        self._called("start")
        identity = release.bundle_sha256[:10]
        found = self.revisions.get(identity)
        if found is None or found.state == "failed":
            since = self.clock.now().isoformat()
            found = Revision(identity, release.version, release.bundle_sha256, "starting", 0, since)
            self.revisions[identity] = found
            self.started[identity] = self.clock.seconds
        self._settle()
        return self.revisions[identity]

    def ask(self, revision: str, body: bytes) -> Answer:
        self._called("ask")
        one = self.revisions[revision]
        answers = golden_answers(self._behaviour(one), json.loads(body)["instances"])
        return Answer(200, json.dumps({"predictions": answers}).encode(), one.bundle_sha256[:12])

    def shift(
        self,
        weights: Mapping[str, int],
        etag: str,
        shadow: Shadow | None = None,
        assignment: Assignment | None = None,
    ) -> Service:
        self._called("shift")
        self._settle()
        if etag != str(self.changes):
            raise ConflictError(f"{self.name}: found etag {etag}, expected {self.changes}.")
        ready = {one.id for one in self.revisions.values() if one.state == "ready"}
        if sum(weights.values()) != 100 or not set(weights) <= ready:
            raise UsageError(f"{self.name}: cannot set {dict(weights)}, ready are {sorted(ready)}.")
        self.changes += 1
        since = self.clock.now().isoformat()
        for one in list(self.revisions.values()):
            self.revisions[one.id] = replace(one, weight=weights.get(one.id, 0), since=since)
        self.shadow, self.assignment = shadow, assignment
        self.counts, self.pairs = {}, PairCounts()
        return self._service()

    def evidence(self) -> Evidence:
        self._called("evidence")
        weights = {one.id: one.weight for one in self.revisions.values() if one.weight}
        return Evidence(str(self.changes), weights, dict(self.counts), self.pairs)

    def stop(self, revision: str) -> None:
        self._called("stop")
        assert revision not in self.revisions or not self.revisions[revision].weight
        self.revisions.pop(revision, None)

    def serve(self, seconds: float) -> None:
        """Answer the requests of so many seconds, each by a revision drawn by weight."""
        self._settle()
        live = [one for one in self.revisions.values() if one.weight]
        if not live:
            return
        shares = np.array([one.weight for one in live]) / 100
        requests = int(self.random.poisson(self.rate * seconds))
        for one, drawn in zip(live, self.random.multinomial(requests, shares), strict=True):
            self._answer(one, int(drawn))
        if self.shadow:
            behaviour = self._behaviour(self.revisions[self.shadow.revision])
            pairs = int(self.random.binomial(requests, self.shadow.share))
            errors = int(self.random.binomial(pairs, behaviour.errors))
            different = int(self.random.binomial(pairs - errors, behaviour.differs))
            found = self.pairs
            self.pairs = PairCounts(
                found.compared + pairs, found.different + different, found.errors + errors
            )

    def _answer(self, one: Revision, requests: int) -> None:
        found = self.counts.get(one.id, ArmCounts())
        new = drawn_counts(self._behaviour(one), requests, self.random)
        self.counts[one.id] = ArmCounts(
            requests=found.requests + new.requests,
            errors=found.errors + new.errors,
            refused=found.refused + new.refused,
            latency_ms={at: found.latency_ms.get(at, 0) + n for at, n in new.latency_ms.items()},
            labels={label: found.labels.get(label, 0) + n for label, n in new.labels.items()},
        )


def drawn_counts(behaviour: Behaviour, requests: int, random: np.random.Generator) -> ArmCounts:
    """What so many requests to a server of this behaviour come to."""
    rest = max(0.0, 1 - behaviour.errors - behaviour.refused)
    errors, refused, good = random.multinomial(requests, [behaviour.errors, behaviour.refused, rest])
    times = random.exponential(behaviour.latency_ms, good)
    slots = np.bincount(np.searchsorted(BOUNDS, times), minlength=len(BOUNDS))
    drawn = random.multinomial(good, list(behaviour.labels.values()))
    return ArmCounts(
        requests=requests,
        errors=int(errors),
        refused=int(refused),
        latency_ms={bound: int(count) for bound, count in zip(BOUNDS, slots, strict=True)},
        labels={label: int(count) for label, count in zip(behaviour.labels, drawn, strict=True)},
    )


def golden_answers(behaviour: Behaviour, instances: Sequence[Any]) -> list[dict[str, Any]]:
    """What a server of this behaviour answers to golden rows."""
    scores = [behaviour.scores[row["text"].startswith("bad")] for row in instances]
    return [{"probabilities": dict(zip(("joy", "anger"), of, strict=True))} for of in scores]
