"""What one run left behind, as data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from gauntlet.components.write_report.artifacts import (
    Bundle,
    Candidates,
    Checks,
    DataSources,
    History,
    Statistics,
    Training,
    Verdict,
    Version,
)
from gauntlet.components.write_report.scores import LanguageScores, Scores

STEPS = (
    "fingerprint-data",
    "validate-data",
    "train-model",
    "convert-to-onnx",
    "evaluate-model",
    "gate-model",
    "register-model",
)

NOT_OF_MANAGED = "convert-to-onnx"
"""The step that the DAG of a managed model does not have."""

State = Literal["succeeded", "reused", "failed", "skipped", "not reached"]


@dataclass(frozen=True)
class FinalStatus:
    """What the orchestrator says about the run: SUCCEEDED, FAILED or CANCELLED, and why."""

    state: str
    message: str | None = None


@dataclass(frozen=True)
class StepRecord:
    """One step of the DAG.

    Attributes:
        state: `reused` is a step whose outputs came from an earlier run: on this machine they were put in
            place here, elsewhere a later step ran, but this one left nothing in this run. `skipped` is the
            branch that the gate did not take.
        started: About when: the previous step's end, so it includes the wait for a machine.
        ended: About when: the time of the file that marks the end.
        message: Why it failed, in its own words where it left any.
        exit_code: What its failure ends `gauntlet run` with.
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


@dataclass(frozen=True)
class RunRecord:
    """Everything one run left behind; an artifact that is not there is None.

    Attributes:
        steps: One record for each step of the DAG, in the order of `STEPS`.
        unreadable: Files that exist but could not be read, each with the reason.
        run_command: The shell command that started the run on this machine.
    """

    pipeline_root: str
    job: str
    steps: tuple[StepRecord, ...]
    sources: DataSources | None = None
    checks: Checks | None = None
    statistics: Statistics | None = None
    history: History | None = None
    training: Training | None = None
    candidates: Candidates | None = None
    bundle: Bundle | None = None
    scores: Scores | None = None
    language_scores: LanguageScores | None = None
    verdict: Verdict | None = None
    version: Version | None = None
    unreadable: tuple[str, ...] = ()
    final: FinalStatus | None = None
    run_command: str | None = None

    def step(self, name: str) -> StepRecord:
        """The record of a step of the DAG."""
        return next(step for step in self.steps if step.name == name)

    @property
    def local_run(self) -> str | None:
        """The id of a run that `gauntlet run` made, whose steps lie in RUN/steps; None for any other run."""
        *_, run, steps = ["", "", *self.pipeline_root.rstrip("/").split("/")]
        return run if "://" not in self.pipeline_root and steps == "steps" else None

    @property
    def champion_version(self) -> str | int | None:
        """The version that was scored on the same rows, if there was one."""
        scores = self.scores or self.language_scores
        return scores.champion.version if scores and scores.champion else None

    @property
    def failed_step(self) -> StepRecord | None:
        """The step that the run ended in, if it ended in one."""
        return next((step for step in self.steps if step.state == "failed"), None)
