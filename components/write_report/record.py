"""What one run left, as data: how far it came, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field

from gauntlet.backends.registry import CHALLENGER, CHAMPION, STAGING
from gauntlet.contracts.conversion import Candidates
from gauntlet.contracts.data import Checks, Sources, Statistics
from gauntlet.contracts.document import Document
from gauntlet.contracts.rollout import Rollout
from gauntlet.contracts.training import History, TrainingRecord
from gauntlet.contracts.verdict import PROMOTE, Verdict, Version
from gauntlet.manifests.errors import DataError, RejectedError, UsageError
from gauntlet.manifests.kinds import Role, TaskKind
from gauntlet.pages.formatting import count, words

STEPS = (
    "fingerprint-data",
    "validate-data",
    "train-model",
    "convert-to-onnx",
    "evaluate-model",
    "gate-model",
    "register-model",
)
OPTIONAL_STEPS = ("deploy-model",)
"""Steps after those that a run has only if its manifest asks for them; a report shows them if they ran."""

REJECT = "reject"
FAILURE = 1

NO_RESULT = "It ended without a result and without a message, so it was probably killed. Its log says more."
NO_TRACE = "It left nothing behind, so it did not start or was killed at its start. The run's log says more."
CANCELLED = "The run was cancelled before it finished."

State = Literal["succeeded", "reused", "failed", "skipped", "not reached"]

Kind = Literal["promoted", "registered", "unchanged", "rejected", "data refused", "failed", "cancelled"]


@dataclass(frozen=True)
class FinalStatus:
    """What the orchestrator says about the run: SUCCEEDED, FAILED or CANCELLED, and why."""

    state: str
    message: str | None = None


@dataclass(frozen=True)
class StepRecord:
    """One step of the DAG. `started` and `ended` are from the times of files: the wait for a machine counts.

    Attributes:
        state: `reused`: the outputs came from an earlier run; `skipped`: the branch that the gate did not
            take.
        message, exit_code: Of a failure, in its own words where it left any.
        reused_from: The run that made a reused step's outputs, if that is known.
    """

    name: str
    state: State
    folder: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    message: str | None = None
    exit_code: int | None = None
    reused_from: str | None = None

    @property
    def duration(self) -> timedelta | None:
        """Wall time, or None where either end is unknown."""
        return self.ended - self.started if self.started and self.ended else None


class Bundle(Document):
    """What the page shows of `bundle/bundle.json`, which serving reads whole; `files` are hashes by name."""

    opset: int | None = None
    lineage: Mapping[str, str] = Field(default_factory=dict)
    files: Mapping[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class CollectedRun:
    """Everything one run left behind; an artifact that is not there is None.

    Attributes:
        steps: One record for each step of the DAG, in the order of `STEPS`.
        kind: The task kind of the model; None if it cannot be loaded.
        before: The statistics of the system's last earlier run that made splits, if they are still there.
        unreadable: Files that exist but could not be read, each with the reason.
        run_command: The shell command that started the run on this machine.
    """

    pipeline_root: str
    job: str
    steps: tuple[StepRecord, ...]
    kind: TaskKind | None = None
    sources: Sources | None = None
    checks: Checks | None = None
    statistics: Statistics | None = None
    before: Statistics | None = None
    history: History | None = None
    training: TrainingRecord | None = None
    candidates: Candidates | None = None
    bundle: Bundle | None = None
    scores: Any = None  # a subclass of contracts.scores.Scores
    verdict: Verdict | None = None
    version: Version | None = None
    rollout: Rollout | None = None
    unreadable: tuple[str, ...] = ()
    final: FinalStatus | None = None
    run_command: str | None = None

    def step(self, name: str) -> StepRecord:
        """The record of a step of the DAG."""
        return next(step for step in self.steps if step.name == name)

    def ask_kind(self, role: Role, name: str, default: Any) -> Any:
        """What a module of the task kind defines; the default if it does not, so that there is a page."""
        try:
            return self.kind.function(role, name) if self.kind else default
        except UsageError:
            return default

    @property
    def local_run(self) -> str | None:
        """The id of a run that `gauntlet run` made, whose steps lie in RUN/steps; None for any other run."""
        *_, run, steps = ["", "", *self.pipeline_root.rstrip("/").split("/")]
        return run if "://" not in self.pipeline_root and steps == "steps" else None

    @property
    def champion_version(self) -> str | int | None:
        """The version that was scored on the same rows, if there was one."""
        return self.scores.champion.version if self.scores and self.scores.champion else None

    @property
    def failed_step(self) -> StepRecord | None:
        """The step that the run ended in, if it ended in one."""
        return next((step for step in self.steps if step.state == "failed"), None)


def freshness(record: CollectedRun) -> str:
    """In words, whether the data were new to the run, and what was reused; empty if there are no splits."""
    validated, trained = record.step("validate-data"), record.step("train-model")
    if validated.state == "reused":
        since = f" since {validated.reused_from}" if validated.reused_from else ""
        return f"unchanged{since}: the splits were reused{_and_training(trained)}."
    if validated.state != "succeeded" or record.statistics is None:
        return ""
    rows = f"{count(sum(record.statistics.rows.values()))} rows"
    others = f"files, settings or code have changed, but none of the {rows}"
    if trained.state == "reused":
        return f"{others}: the steps after validate-data were reused."
    if record.before is None:
        return f"new: {rows}."
    if record.before.sha256 == record.statistics.sha256:
        return f"{others}{_and_training(trained)}."
    before = count(sum(record.before.rows.values()))
    return f"the rows have changed: {rows}, {before} before{_and_training(trained)}."


def _and_training(trained: StepRecord) -> str:
    if trained.state == "reused":
        return ", and so was the trained model"
    return "; the model was trained again" if trained.state == "succeeded" else ""


def step_records(
    traces: Mapping[str, StepRecord],
    decision: str | None,
    registered: bool,
    final: FinalStatus | None = None,
    run_started: datetime | None = None,
    steps: Sequence[str] = STEPS,
) -> tuple[StepRecord, ...]:
    """The record of each of the DAG's `steps`.

    `traces` has each step that left a folder, `decision` the gate's word, `registered` whether there is a
    version, `final` what the orchestrator says about the whole run, which began at `run_started`; None for
    what is not known.
    """
    reached = max((steps.index(name) for name in traces), default=-1)
    records = [_reached(name, traces.get(name), final) for name in steps[: reached + 1]]
    if records:
        records[-1] = _with_result(records[-1], decision, registered)
    if not records or records[-1].state in ("succeeded", "reused"):
        records += _next(steps[len(records) :], decision, final)
    records += [StepRecord(name, "not reached") for name in steps[len(records) :]]
    return _with_starts(records, run_started)


def _reached(name: str, trace: StepRecord | None, final: FinalStatus | None) -> StepRecord:
    if trace is None:
        return StepRecord(name, "reused")
    if trace.state != "failed":
        return trace
    message = trace.message or (CANCELLED if _is_cancelled(final) else NO_RESULT)
    return replace(trace, message=message, exit_code=FAILURE if trace.exit_code is None else trace.exit_code)


def _with_result(last: StepRecord, decision: str | None, registered: bool) -> StepRecord:
    """A gate without a verdict or a registration without a version has not done its work."""
    missing = {
        "gate-model": "verdict" if decision not in (PROMOTE, REJECT) else None,
        "register-model": None if registered else "version",
    }.get(last.name)
    if last.state != "succeeded" or missing is None:
        return last
    message = f"It ended, but left no readable `{missing}` in {last.folder}."
    return replace(last, state="failed", message=message, exit_code=FAILURE)


def _next(remaining: Sequence[str], decision: str | None, final: FinalStatus | None) -> list[StepRecord]:
    """The step after the last one that succeeded: the branch not taken, or a step that left no trace."""
    if not remaining:
        return []
    if list(remaining) == ["register-model"] and decision == REJECT:
        return [StepRecord(remaining[0], "skipped")]
    message = CANCELLED if _is_cancelled(final) else NO_TRACE
    return [StepRecord(remaining[0], "failed", message=message, exit_code=FAILURE)]


def _with_starts(records: list[StepRecord], run_started: datetime | None) -> tuple[StepRecord, ...]:
    timed = []
    previous_end = run_started
    for record in records:
        is_ordered = previous_end and record.ended and previous_end <= record.ended
        timed.append(replace(record, started=previous_end) if is_ordered else record)
        previous_end = record.ended or previous_end
    return tuple(timed)


def _is_cancelled(final: FinalStatus | None) -> bool:
    return final is not None and final.state == "CANCELLED"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        kind: `registered`: it waits for a person to promote it; `unchanged`: an earlier run has registered
            it.
        headline, detail: The outcome in a few words, and in one or two sentences.
        exit_code: 0 promoted, registered or unchanged, 3 rejected by a gate, 4 bad data, else of the failure.
    """

    kind: Kind
    headline: str
    detail: str
    exit_code: int


def outcome(record: CollectedRun) -> Outcome:
    """How the run of `record` ended."""
    failed = record.failed_step
    if failed is not None:
        return _failure(record, failed)
    if record.version is None:
        return _rejection(record)
    version = record.version
    if version.overruled:
        return _overruling(version)
    if not version.registered:
        return _unchanged(version)
    if CHAMPION in version.aliases:
        return Outcome("promoted", f"Promoted as version {version.version}", _promotion_detail(record), 0)
    if STAGING in version.aliases:
        detail = "It met every rule of staging, and waits there for the approval that production needs."
    elif CHALLENGER in version.aliases:
        detail = (
            "It met every rule and waits for you: promotion is manual for this system, or the champion went "
            "through promotion stages, which this model did not."
        )
    else:
        detail = "It met every rule, but was champion before, so its aliases were left as they are."
    return Outcome("registered", f"Passed, and registered as version {version.version}", detail, 0)


def _overruling(version: Version) -> Outcome:
    headline = f"Rejected by {_listed(list(version.overruled or ()))}, then promoted by {version.approved_by}"
    at = (version.approved_at or "")[:16]
    detail = f"It is version {version.version}, promoted at {at} UTC. {version.reason}"
    return Outcome("promoted", headline, detail, 0)


def _unchanged(version: Version) -> Outcome:
    cached = "Data and settings have not changed, so the bundle came from the cache"
    if CHAMPION in version.aliases:
        headline = f"Unchanged: version {version.version} is still the champion"
        detail = f"{cached}: it is the champion's own. Nothing was registered or promoted."
    else:
        headline = f"Unchanged: the bundle is that of version {version.version}"
        detail = (
            f"{cached}. Version {version.version} was champion before and has been replaced, which is left "
            "as it is. Nothing was registered or promoted."
        )
    return Outcome("unchanged", headline, detail, 0)


def _failure(record: CollectedRun, failed: StepRecord) -> Outcome:
    message = failed.message or ""
    exit_code = FAILURE if failed.exit_code is None else failed.exit_code
    if record.final is not None and record.final.state == "CANCELLED":
        return Outcome("cancelled", f"Cancelled during {failed.name}", message, exit_code)
    if exit_code == DataError.exit_code:
        return Outcome(
            "data refused", f"Data refused by {failed.name}", _refusal_detail(record, failed), exit_code
        )
    if failed.name in OPTIONAL_STEPS and exit_code == RejectedError.exit_code:
        return Outcome("failed", f"Rolled back by {failed.name}", message, exit_code)
    return Outcome("failed", f"Failed in {failed.name}", message, exit_code)


def _refusal_detail(record: CollectedRun, failed: StepRecord) -> str:
    failing = (
        [check.check for check in record.checks.checks if check.verdict == "fail"] if record.checks else []
    )
    if not failing:
        return failed.message or "The data could not be used."
    checks = f"{len(failing)} check{'s' if len(failing) > 1 else ''}"
    return f"The data failed {checks} ({_listed(failing)}), so nothing was trained."


def _rejection(record: CollectedRun) -> Outcome:
    rules = [rule.rule for rule in record.verdict.rules if rule.verdict == "fail"] if record.verdict else []
    by = f" by {_listed(rules)}" if rules else " by the gate"
    champion = record.champion_version
    keeps = (
        f"Version {champion} stays the champion."
        if champion is not None
        else "No model was registered or promoted."
    )
    return Outcome("rejected", f"Rejected{by}", keeps, RejectedError.exit_code)


def _promotion_detail(record: CollectedRun) -> str:
    champion = record.champion_version
    if champion is None:
        return "It met every rule. There was no champion to compare with, so the floors alone decided."
    return f"It met every rule and takes over from version {champion}, scored on the same rows."


def _listed(names: list[str]) -> str:
    *first, last = (words(name) for name in names)
    return f"{', '.join(first)} and {last}" if first else last
