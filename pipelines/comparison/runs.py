"""The edge of a comparison: reads two runs, and says what keeps them from being compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from gauntlet.components.write_report.artifacts import History
from gauntlet.components.write_report.collect import collect
from gauntlet.components.write_report.comparison import Evaluated
from gauntlet.components.write_report.record import RunRecord as CollectedRun
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.kinds import TaskKind, task_kind
from gauntlet.manifests.section import flatten
from gauntlet.pipelines.home import MANIFEST_FILE, STEPS_FOLDER, Home, RunRecord


@dataclass(frozen=True)
class ComparedRun:
    """What a comparison needs of a run.

    Attributes:
        outcome: How it ended, in words.
        settings: Every key of its manifest, joined by dots, with its value as text.
        history: Of its training.
        evaluated: Of the shipped model on the test split; None without an evaluation.
        metrics: The figures of the evaluation, by metric.
    """

    run_id: str
    kind: TaskKind
    outcome: str
    settings: Mapping[str, str]
    collected: CollectedRun
    history: History
    evaluated: Evaluated | None
    metrics: Mapping[str, float | None]


def read_pair(home: Home, first: str, second: str) -> tuple[ComparedRun, ComparedRun]:
    """Two runs by their ids, or `latest`.

    Raises:
        UsageError: One is unknown, not finished or ended before its model was trained, both are the same one,
            or their tasks differ.
        GauntletError: What one left cannot be read.
    """
    records = [home.find_run(run_id) for run_id in (first, second)]
    if records[0] == records[1]:
        raise UsageError(f"run {records[0].run_id!r}: found twice, expected two runs. See `gauntlet runs`.")
    runs = [_read(home.run_folder(record.run_id), record) for record in records]
    kinds = [run.kind.name for run in runs]
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"{runs[0].run_id} is a run of the task {kinds[0]} and {runs[1].run_id} of {kinds[1]}: no figure "
            "of the two compares. Name two runs of one task."
        )
    return runs[0], runs[1]


def _read(folder: Path, record: RunRecord) -> ComparedRun:
    state = record.shown_state()
    if record.finished is None or record.state != "finished":
        action = "Wait for its end" if state == "running" else "Run it again"
        raise UsageError(f"run {record.run_id!r}: found {state}, expected a finished run. {action}.")
    try:
        settings = flatten(yaml.safe_load((folder / MANIFEST_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise GauntletError(f"{folder}: the run cannot be read ({error}). Run it again.") from None
    kind = task_kind(settings.get("task", "unknown"))
    steps = folder / STEPS_FOLDER
    collected = collect(str(steps), next((path.name for path in sorted(steps.glob("*"))), ""), kind.name)
    history = collected.history
    if history is None or not (history.epochs or history.training_tokens):
        raise UsageError(
            f"run {record.run_id!r}: found no training history, expected one: it ended with {state!r}. "
            + " ".join(collected.unreadable)
        )
    evaluation, evaluated = collected.step("evaluate-model").folder, None
    if collected.scores is not None and evaluation is not None:
        evaluated = Evaluated(collected.scores, Path(evaluation) / "predictions")
    return ComparedRun(
        run_id=record.run_id,
        kind=kind,
        outcome=state,
        settings=settings,
        collected=collected,
        history=history,
        evaluated=evaluated,
        metrics=kind.function("report", "metrics")(collected.scores) if evaluated else {},
    )
