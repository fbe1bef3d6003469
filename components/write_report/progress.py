"""How far a run came: from what each step left to the state of each step.

The DAG is a line with one fork at its end, so the last step that left a trace says where the run stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from gauntlet.components.write_report.record import STEPS, FinalStatus, State, StepRecord

PROMOTE = "promote"
REJECT = "reject"
FAILURE = 1

NO_RESULT = "It ended without a result and without a message, so it was probably killed. Its log says more."
NO_TRACE = "It left nothing behind, so it did not start or was killed at its start. The run's log says more."
CANCELLED = "The run was cancelled before it finished."


@dataclass(frozen=True)
class Trace:
    """The outcome of one step: `done` if its function returned, a message if it failed and could write one.

    `reused_from` is the run whose outputs were put in place instead of running the step.
    """

    folder: str
    done: bool
    ended: datetime | None = None
    message: str | None = None
    exit_code: int | None = None
    reused_from: str | None = None


def step_records(
    traces: Mapping[str, Trace],
    decision: str | None,
    registered: bool,
    final: FinalStatus | None = None,
    run_started: datetime | None = None,
    steps: Sequence[str] = STEPS,
) -> tuple[StepRecord, ...]:
    """The record of each of the DAG's `steps`.

    Args:
        traces: By step; a step that left no folder is missing.
        decision: What the gate's verdict says, or None if there is no readable verdict.
        registered: Whether register-model left a readable version.
        final: What the orchestrator says about the whole run.
        run_started: When the first step started, if that is known.
    """
    reached = max((steps.index(name) for name in traces), default=-1)
    records = [_reached(name, traces.get(name), final) for name in steps[: reached + 1]]
    if records:
        records[-1] = _with_result(records[-1], decision, registered)
    if not records or records[-1].state in ("succeeded", "reused"):
        records += _next(steps[len(records) :], decision, final)
    records += [StepRecord(name, "not reached") for name in steps[len(records) :]]
    return _with_starts(records, run_started)


def _reached(name: str, trace: Trace | None, final: FinalStatus | None) -> StepRecord:
    if trace is None:
        return StepRecord(name, "reused")
    if trace.done:
        state: State = "reused" if trace.reused_from else "succeeded"
        return StepRecord(name, state, trace.folder, ended=trace.ended, reused_from=trace.reused_from)
    message = trace.message or (CANCELLED if _is_cancelled(final) else NO_RESULT)
    return StepRecord(
        name,
        "failed",
        trace.folder,
        ended=trace.ended,
        message=message,
        exit_code=FAILURE if trace.exit_code is None else trace.exit_code,
    )


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
