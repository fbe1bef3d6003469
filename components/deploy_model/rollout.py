"""The rollout of one version: start, ready, golden rows, then a growing share of the requests.

Each transition is written to the record before it happens, by compare-and-set, and what it does can be
repeated. So a rollout that is killed at any moment goes on where it was when it is run again, and two
processes never work on the same one: the second is refused while the first holds the lock, and whoever
finds the record changed stops. A rollback changes the record first, and thereby ends the rollout.

    start -> golden -> shift <-> judge -> watch -> stop -> done
    any of them -> undo -> rolled back
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from gauntlet.backends.deployment import (
    ArmCounts,
    ConflictError,
    Deployment,
    Evidence,
    Release,
    Revision,
    Service,
    Shadow,
)
from gauntlet.backends.rollouts import Records
from gauntlet.components.deploy_model.golden import Golden, fault_of
from gauntlet.components.deploy_model.judge import CRASHES, judge, over_ceiling
from gauntlet.contracts.rollout import (
    ENDED,
    Counts,
    DeploymentRecord,
    Lock,
    Phase,
    Rejected,
    Rollout,
    Seen,
    Transition,
)
from gauntlet.manifests.deployment import DeploymentSection
from gauntlet.manifests.errors import GauntletError, RejectedError, UsageError

LOCK_SECONDS = 120.0
POLL_SECONDS = 2.0
LONGEST_PAUSE = 10 * POLL_SECONDS
"""A longer time between two looks is not counted: the process was stopped, or the clock was set."""
FAILURES_IN_A_ROW = 5
SHIFT_ATTEMPTS = 5


class Clock(Protocol):
    """The time, and waiting."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""

    def monotonic(self) -> float:
        """Seconds that nobody sets."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """See `Clock`."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """See `Clock`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        time.sleep(seconds)


def this_process() -> str:
    """The owner of a lock: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def nothing_to_demote() -> None:
    """What is done about the alias of a version that is rolled back, if nothing is."""


@dataclass
class Engine:
    """Rolls versions of one model out.

    Attributes:
        demote: Called before a version is rolled back, with no effect if it was called before: it moves the
            registry's alias.
        say: Called with each transition in words.
    """

    deployment: Deployment
    records: Records
    settings: DeploymentSection
    golden: Callable[[], Golden]
    clock: Clock = field(default_factory=SystemClock)
    owner: str = field(default_factory=this_process)
    demote: Callable[[], None] = nothing_to_demote
    say: Callable[[str], None] = print
    _record: DeploymentRecord = field(init=False)
    _generation: str = field(init=False, default="")
    _looked: float = field(init=False, default=0.0)
    _golden: Golden | None = field(init=False, default=None)

    def deploy(self, release: Release, again: bool = False, at_once: bool = False) -> Rollout:
        """Roll a version out, or go on with its rollout. Returns how it ended: `done` or `held`.

        Args:
            release: The version.
            again: Deploy also a bundle that was rolled back.
            at_once: Give it all requests in one step, as an A/B test has compared it already.

        Raises:
            RejectedError: The version was rolled back, now or before, or its rollout is held.
            UsageError: Another rollout or an A/B test of the model is going on, or another process works on
                this rollout.
            GauntletError: The target or the record cannot be reached, or a person ended the rollout. Run it
                again to go on.
        """
        self._begin(release, again, len(self.settings.steps) - 1 if at_once else 0)
        failures = 0
        try:
            while self._rollout.phase not in (*ENDED, "held"):
                try:
                    self._advance()
                    failures = 0
                except UsageError:
                    raise
                except GauntletError as error:
                    if isinstance(error, ConflictError):
                        self._require_unchanged()
                    failures += 1
                    if failures >= FAILURES_IN_A_ROW:
                        raise
                    self.say(f"warning: {error}")
                    self.clock.sleep(POLL_SECONDS)
        finally:
            with suppress(GauntletError):
                self._write(self._record.model_copy(update={"lock": None}))
        ended = self._rollout
        if ended.phase == "rolled back":
            raise RejectedError(
                f"{release.model} {release.version}: rolled back: {ended.why}. "
                f"{self._still_serving(ended)} `gauntlet deploy {release.model} --version {release.version} "
                "--again` tries it once more."
            )
        return ended

    # --- the record ---

    @property
    def _rollout(self) -> Rollout:
        assert self._record.rollout is not None
        return self._record.rollout

    def _begin(self, release: Release, again: bool, first_step: int) -> None:
        """Take the lock, and begin a rollout unless there is one to go on with."""
        found, self._generation = self.records.read()
        record = found or DeploymentRecord(model=release.model)
        now = self.clock.now()
        require_free(record, self.owner, now)
        require_no_experiment(record, self.deployment.service())
        rollout = record.rollout
        goes_on = rollout is not None and rollout.phase not in ENDED
        if rollout and goes_on and rollout.bundle_sha256 != release.bundle_sha256:
            raise UsageError(
                f"{release.model}: the rollout of version {rollout.version} is not finished, it is in phase "
                f"{rollout.phase!r}. Run `gauntlet deploy {release.model} --version {rollout.version}` to "
                f"finish it, or `gauntlet rollback {release.model}` to end it. Nothing was changed."
            )
        rejected = dict(record.rejected)
        if before := rejected.get(release.bundle_sha256):
            if not again and not (rollout and goes_on):
                raise RejectedError(
                    f"{release.model} {release.version}: this bundle was rolled back at {before.at[:16]} UTC "
                    f"by {before.by}: {before.why}. It is not tried again, unless you add --again."
                )
            if again:
                del rejected[release.bundle_sha256]
        if rollout is None or not goes_on:
            rollout = self._new(release, first_step)
        elif rollout.phase == "held" and again:
            rollout = self._moved(rollout, "shift", "asked to go on", seen=(), seconds=0.0)
        self._record = record.model_copy(
            update={
                "settings": self.settings.model_dump(mode="json", exclude_none=True),
                "rejected": rejected,
            }
        )
        self._save(rollout)
        self._looked = self.clock.monotonic()

    def _new(self, release: Release, step: int) -> Rollout:
        at = self.clock.now().isoformat(timespec="seconds")
        rollout = Rollout(
            version=release.version,
            bundle_uri=release.bundle_uri,
            bundle_sha256=release.bundle_sha256,
            started=at,
            step=step,
        )
        return self._moved(
            rollout, "start", f"version {release.version}, bundle {release.bundle_sha256[:12]}"
        )

    def _moved(
        self, rollout: Rollout, phase: Phase, why: str, weights: Mapping[str, int] | None = None, **more: Any
    ) -> Rollout:
        """The rollout in its next phase."""
        at = self.clock.now().isoformat(timespec="seconds")
        noted = Transition(at=at, phase=phase, weights=weights or {}, why=why)
        self.say(f"{phase}: {why}" + (f" {dict(weights)}" if weights else ""))
        transitions = (*rollout.transitions, noted)
        return rollout.model_copy(update={"phase": phase, "why": why, "transitions": transitions, **more})

    def _save(self, rollout: Rollout, **more: Any) -> None:
        until = self.clock.now() + timedelta(seconds=LOCK_SECONDS)
        lock = Lock(owner=self.owner, until=until.isoformat(timespec="seconds"))
        self._write(self._record.model_copy(update={"rollout": rollout, "lock": lock, **more}))

    def _write(self, record: DeploymentRecord) -> None:
        self._generation = self.records.write(record, self._generation)
        self._record = record

    def _require_unchanged(self) -> None:
        """Go on after a conflict about the traffic; end after one about the record."""
        record, generation = self.records.read()
        if generation != self._generation:
            why = record.rollout.why if record and record.rollout else "its record is gone"
            raise GauntletError(
                f"{self._record.model}: somebody else changed the rollout of version "
                f"{self._rollout.version}: {why}. This process stops."
            )

    def _still_serving(self, ended: Rollout) -> str:
        if ended.previous:
            return f"Version {ended.previous_version} has all requests."
        return "It is the only version there, so nothing else could take the requests."

    # --- the phases ---

    def _advance(self) -> None:
        {
            "start": self._start,
            "golden": self._ask_golden_rows,
            "shift": self._shift,
            "judge": self._judge,
            "watch": self._watch,
            "stop": self._stop,
            "undo": self._undo,
        }[self._rollout.phase]()

    def _start(self) -> None:
        rollout, service = self._rollout, self.deployment.service()
        serving = [one for one in service.revisions if one.weight] if service else []
        others = [one for one in serving if one.bundle_sha256 != rollout.bundle_sha256]
        if not rollout.revision and others:
            previous = max(others, key=lambda one: one.weight)
            rollout = rollout.model_copy(
                update={"previous": previous.id, "previous_version": previous.version}
            )
        revision = service.of_bundle(rollout.bundle_sha256) if service and rollout.revision else None
        if revision is None:
            revision = self.deployment.start(self._release(rollout))
        if rollout.revision != revision.id:
            rollout = rollout.model_copy(update={"revision": revision.id})
            self._save(rollout)
        if revision.state == "ready":
            if not others and revision.weight == 100 and not rollout.previous:
                self._save(self._moved(rollout, "golden", "it is ready, and the only version"))
            else:
                self._save(self._moved(rollout, "golden", "it is ready"))
        elif revision.state == "failed":
            self._give_up(rollout, f"it did not start: {revision.reason}")
        elif rollout.seconds > self.settings.ready_seconds:
            self._give_up(rollout, f"it was not ready after {self.settings.ready_seconds:.0f} s")
        elif revision.restarts >= CRASHES:
            self._give_up(rollout, f"its server crashed {revision.restarts} times")
        else:
            self._wait(rollout)

    def _ask_golden_rows(self) -> None:
        rollout, golden = self._rollout, self._known()
        for row, body in enumerate(golden.bodies):
            answer = self.deployment.ask(rollout.revision, body)
            if fault := fault_of(golden, row, answer, rollout.bundle_sha256):
                self._give_up(rollout, fault)
                return
        proved = f"{len(golden.bodies)} golden rows " + (
            f"have the proved probabilities within {golden.bound:g}" if golden.scores else "were answered"
        )
        if not rollout.previous:
            self._end(rollout, "done", f"{proved}; there is no version before it to compare with")
        else:
            self._save(self._moved(rollout, "shift", proved, seconds=0.0))

    def _wanted(self, rollout: Rollout) -> dict[str, int]:
        share = self.settings.steps[rollout.step]
        weights = {rollout.revision: share, rollout.previous: 100 - share}
        return {revision: weight for revision, weight in weights.items() if weight}

    def _shift(self) -> None:
        rollout = self._rollout
        service, wanted = self._service(), self._wanted(rollout)
        if fault := self._broken(service, rollout):
            self._give_up(rollout, fault)
            return
        share = self.settings.steps[rollout.step]
        if service.weights != wanted:
            # The state of the service was read before the record is written: whoever rolls back in between
            # changes one of the two, so this write or the shift after it is refused.
            self._save(
                self._moved(
                    rollout, "shift", f"step {rollout.step + 1} of {len(self.settings.steps)}", wanted
                )
            )
            is_shadowed = share < 100 and self.settings.shadow_share > 0
            shadow = Shadow(rollout.revision, self.settings.shadow_share) if is_shadowed else None
            self.deployment.shift(wanted, service.etag, shadow=shadow)
        rollout = self._rollout
        if share == 100:
            kept = f"version {rollout.previous_version} is kept"
            why = f"{kept} for {self.settings.keep_previous_seconds:.0f} s"
            self._save(self._moved(rollout, "watch", why, seconds=0.0))
        else:
            seen = (*rollout.seen, Seen(step=rollout.step, share=share / 100))
            self._save(self._moved(rollout, "judge", f"{share} % of the requests", seen=seen))
        self._looked = self.clock.monotonic()

    def _judge(self) -> None:
        rollout, service = self._rollout, self._service()
        if service.weights != self._wanted(rollout):
            self._save(self._moved(rollout, "shift", f"the target had other weights, {service.weights}"))
            return
        evidence = self.deployment.evidence()
        rollout = rollout.model_copy(update={"seen": seen_now(rollout, evidence)})
        if fault := self._broken(service, rollout, evidence):
            self._give_up(rollout, fault)
            return
        found = judge(rollout.seen, rollout.seconds, self.settings, len(self._known().labels))
        rollout = rollout.model_copy(update={"why": found.why, "evidence": found.evidence})
        if found.state == "alarm" or (
            found.state == "inconclusive" and self.settings.inconclusive == "rollback"
        ):
            prefix = "" if found.state == "alarm" else f"inconclusive after {rollout.seconds:.0f} s: "
            self._give_up(rollout, prefix + found.why)
        elif found.state == "inconclusive":
            self._save(self._moved(rollout, "held", f"inconclusive: {found.why}"))
        elif found.state == "pass":
            self._save(self._moved(rollout, "shift", found.why, step=rollout.step + 1, seconds=0.0))
        else:
            self._wait(rollout)

    def _watch(self) -> None:
        rollout, service = self._rollout, self._service()
        if fault := self._broken(service, rollout, self.deployment.evidence()):
            self._give_up(rollout, fault)
        elif rollout.seconds >= self.settings.keep_previous_seconds:
            self._save(
                self._moved(rollout, "stop", f"version {rollout.previous_version} is not needed any more")
            )
        else:
            self._wait(rollout)

    def _stop(self) -> None:
        rollout = self._rollout
        self.deployment.stop(rollout.previous)
        self._end(rollout, "done", f"version {rollout.version} has all requests")

    def _undo(self) -> None:
        rollout, service = self._rollout, self.deployment.service()
        revision = service.of_bundle(rollout.bundle_sha256) if service else None
        if service and rollout.previous and service.weights != {rollout.previous: 100}:
            self.deployment.shift({rollout.previous: 100}, service.etag)
        self.demote()
        if revision is not None and (rollout.previous or not revision.weight):
            self.deployment.stop(revision.id)
        self._end(rollout, "rolled back", rollout.why)

    # --- their parts ---

    def _release(self, rollout: Rollout) -> Release:
        return Release(self._record.model, rollout.version, rollout.bundle_uri, rollout.bundle_sha256)

    def _known(self) -> Golden:
        if self._golden is None:
            self._golden = self.golden()
        return self._golden

    def _service(self) -> Service:
        service = self.deployment.service()
        if service is None:
            raise GauntletError(f"{self._record.model}: the target serves it no more. Deploy it again.")
        return service

    def _broken(self, service: Service, rollout: Rollout, evidence: Evidence | None = None) -> str:
        """Why the new version must not go on, whatever the statistics say; empty if it may."""
        revision = service.of_bundle(rollout.bundle_sha256)
        if revision is None:
            return "its server is gone"
        if revision.state == "failed":
            return f"its server failed: {revision.reason}"
        if revision.restarts >= CRASHES:
            return f"its server crashed {revision.restarts} times"
        if evidence is None:
            return ""
        counts = evidence.arms.get(revision.id, ArmCounts())
        pairs = evidence.pairs
        ceiling = self.settings.error_ceiling
        return over_ceiling(counts.requests, counts.errors, ceiling) or over_ceiling(
            pairs.compared, pairs.errors, ceiling
        )

    def _give_up(self, rollout: Rollout, why: str) -> None:
        at = self.clock.now().isoformat(timespec="seconds")
        rejected = Rejected(version=rollout.version, at=at, why=why, by="the rollout")
        weights = {rollout.previous: 100} if rollout.previous else None
        self._save(
            self._moved(rollout, "undo", why, weights),
            rejected={**self._record.rejected, rollout.bundle_sha256: rejected},
        )

    def _end(self, rollout: Rollout, phase: Phase, why: str) -> None:
        at = self.clock.now().isoformat(timespec="seconds")
        line = f"{at} version {rollout.version} {phase}: {why}"
        self._save(self._moved(rollout, phase, why), history=(*self._record.history, line))

    def _wait(self, rollout: Rollout) -> None:
        """Write what was seen, and look again a little later."""
        now = self.clock.monotonic()
        passed = min(max(now - self._looked, 0.0), LONGEST_PAUSE)
        self._looked = now
        self._save(rollout.model_copy(update={"seconds": rollout.seconds + passed}))
        self.clock.sleep(POLL_SECONDS)


def require_free(record: DeploymentRecord, owner: str, now: datetime) -> None:
    """Raise a `UsageError` if another process works on the rollout.

    A lock of a process of this machine that has ended, and one whose time is over, is free; so is one that
    ends later than any lock could, which was taken when the clock was wrong.
    """
    lock = record.lock
    if lock is None or lock.owner == owner:
        return
    until = datetime.fromisoformat(lock.until)
    if until <= now or until > now + timedelta(seconds=2 * LOCK_SECONDS) or _has_ended(lock.owner):
        return
    raise UsageError(
        f"{record.model}: the process {lock.owner} works on its rollout, until {lock.until[:19]} UTC or "
        f"later. Wait for it, or end the rollout: `gauntlet rollback {record.model}`. Nothing was changed."
    )


def require_no_experiment(record: DeploymentRecord, service: Service | None) -> None:
    """Raise a `UsageError` if an A/B test of the model is going on, by its record or by what is served."""
    experiment = record.experiment
    test = experiment.id if experiment is not None and experiment.state != "stopped" else None
    assignment = service.assignment if service is not None else None
    if assignment is not None and (experiment is None or experiment.id != assignment.test):
        test = assignment.test
    if test is not None:
        raise UsageError(
            f"{record.model}: the A/B test {test} is going on. End it first: `gauntlet ab stop "
            f"{record.model}`. Nothing was changed."
        )


def _has_ended(owner: str) -> bool:
    host, _, process = owner.rpartition(":")
    if host != socket.gethostname() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def seen_now(rollout: Rollout, evidence: Evidence) -> tuple[Seen, ...]:
    """What was counted so far. Counts that are smaller than before begin an entry: the target lost them."""
    *earlier, last = rollout.seen
    new = _counts(evidence.arms.get(rollout.revision, ArmCounts()))
    old = _counts(evidence.arms.get(rollout.previous, ArmCounts()))
    pairs = evidence.pairs
    now = Seen(
        step=last.step,
        share=last.share,
        new=new,
        old=old,
        compared=pairs.compared,
        different=pairs.different,
        shadow_errors=pairs.errors,
    )
    is_smaller = new.requests < last.new.requests or old.requests < last.old.requests
    return (*earlier, last, now) if is_smaller else (*earlier, now)


def _counts(arm: ArmCounts) -> Counts:
    return Counts(
        requests=arm.requests,
        errors=arm.errors,
        refused=arm.refused,
        latency_ms={f"{bound:g}": count for bound, count in arm.latency_ms.items()},
        labels=dict(arm.labels),
    )


@dataclass(frozen=True)
class RolledBack:
    """What a rollback of the traffic did. `warnings` say what could not be done."""

    version: str
    since: str
    warnings: tuple[str, ...]


def roll_back(
    deployment: Deployment,
    records: Records,
    release: Release,
    by: str,
    reason: str,
    clock: Clock | None = None,
    ready_seconds: float = 600.0,
) -> RolledBack:
    """Give all requests to `release`, whatever else is going on, and write down who asked and why.

    A rollout that is going on ends. The record is written first; if that fails, the traffic is moved all the
    same. A revision that was stopped is started again.

    Raises:
        UsageError: The target serves nothing.
        GauntletError: The version's server does not start, or the target cannot be reached.
    """
    clock, warnings = clock or SystemClock(), []
    try:
        _end_rollout(records, release, by, reason, clock)
    except GauntletError as error:
        warnings.append(f"the record of the rollout was not written: {error}")
    if deployment.service() is None:
        raise _serves_nothing(release)
    give_all_requests(deployment, release, clock, ready_seconds)
    at = clock.now().isoformat(timespec="seconds")
    return RolledBack(release.version, at, tuple(warnings))


def give_all_requests(
    deployment: Deployment, release: Release, clock: Clock, ready_seconds: float = 600.0
) -> None:
    """Give a release all requests, once it is ready, whatever else changes the traffic at the same time.

    Raises:
        UsageError: The target serves nothing.
        GauntletError: The release's server does not start, or the target cannot be reached.
    """
    revision = when_ready(deployment, release, clock, ready_seconds)
    for attempt in range(SHIFT_ATTEMPTS):
        service = deployment.service()
        if service is None:
            raise _serves_nothing(release)
        try:  # also if it has all requests: a shift that a rollout is about to make is refused after this one
            deployment.shift({revision.id: 100}, service.etag)
            return
        except ConflictError:
            if attempt == SHIFT_ATTEMPTS - 1:
                raise


def when_ready(deployment: Deployment, release: Release, clock: Clock, seconds: float) -> Revision:
    """The revision of a release, once it is ready; it is started if it is not served.

    Raises:
        GauntletError: It fails, or is not ready after so many seconds.
    """
    service = deployment.service()
    found = service.of_bundle(release.bundle_sha256) if service else None
    started = clock.monotonic()
    while found is None or found.state != "ready":
        found = deployment.start(release)
        if found.state == "failed":
            raise GauntletError(
                f"{release.model} {release.version}: its server does not start: {found.reason}. The traffic "
                "was not moved."
            )
        if found.state != "ready":
            if clock.monotonic() - started > seconds:
                raise GauntletError(
                    f"{release.model} {release.version}: not ready after {seconds:.0f} s. The traffic was "
                    "not moved."
                )
            clock.sleep(POLL_SECONDS / 10)
    return found


def _serves_nothing(release: Release) -> UsageError:
    return UsageError(f"{release.model}: the target serves nothing, so there is nothing to roll back.")


def _end_rollout(records: Records, release: Release, by: str, reason: str, clock: Clock) -> None:
    """Write that the rollout, or the version that it brought, is rolled back."""
    at = clock.now().isoformat(timespec="seconds")
    for attempt in range(SHIFT_ATTEMPTS):
        record, generation = records.read()
        if record is None:
            return
        line = f"{at} rolled back to version {release.version} by {by}: {reason}"
        changes: dict[str, Any] = {"history": (*record.history, line), "lock": None}
        rollout = record.rollout
        if rollout is not None and rollout.bundle_sha256 != release.bundle_sha256:
            why = f"{by} rolled it back: {reason}"
            noted = Transition(at=at, phase="rolled back", why=why)
            changes["rollout"] = rollout.model_copy(
                update={"phase": "rolled back", "why": why, "transitions": (*rollout.transitions, noted)}
            )
            rejected = Rejected(version=rollout.version, at=at, why=reason, by=by)
            changes["rejected"] = {**record.rejected, rollout.bundle_sha256: rejected}
        experiment = record.experiment
        if experiment is not None and experiment.state != "stopped":
            ended = {"state": "stopped", "ended": at, "by": by, "why": f"rolled back: {reason}"}
            changes["experiment"] = experiment.model_copy(update=ended)
        try:
            records.write(record.model_copy(update=changes), generation)
            return
        except ConflictError:
            if attempt == SHIFT_ATTEMPTS - 1:
                raise
