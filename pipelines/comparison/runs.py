"""The edge of a comparison: reads two runs, and says what keeps them from being compared."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gauntlet.components.step import read_json
from gauntlet.components.write_report.artifacts import History
from gauntlet.components.write_report.collect import collect
from gauntlet.components.write_report.record import RunRecord as CollectedRun
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.section import flatten
from gauntlet.pipelines.home import MANIFEST_FILE, STEPS_FOLDER, Home, RunRecord


@dataclass(frozen=True)
class ComparedRun:
    """What a comparison needs of a run.

    Attributes:
        outcome: How it ended, in words.
        settings: Every key of its manifest, joined by dots, with its value as text.
        history: Of its training.
        metrics: Of the shipped model on the test split, by the task's names; empty without an evaluation.
        labels: The names of the classes; empty without an evaluation, or where rows have no class.
        predictions: The shipped model's answers to the test split, a row each; None without an evaluation, or
            where answers are texts.
        answers: Of a language model, what it answered each test prompt; None likewise.
    """

    run_id: str
    outcome: str
    settings: Mapping[str, str]
    collected: CollectedRun
    history: History
    metrics: Mapping[str, float]
    labels: tuple[str, ...]
    predictions: pd.DataFrame | None
    answers: list[dict[str, Any]] | None = None


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
    tasks = [run.settings.get("task", "unknown") for run in runs]
    if tasks[0] != tasks[1]:
        raise UsageError(
            f"{runs[0].run_id} is a run of the task {tasks[0]} and {runs[1].run_id} of {tasks[1]}: no figure "
            "of the two compares. Name two runs of one task."
        )
    return runs[0], runs[1]


def _read(folder: Path, record: RunRecord) -> ComparedRun:
    state = record.shown_state()
    if record.finished is None or record.state != "finished":
        action = "Wait for its end" if state == "running" else "Run it again"
        raise UsageError(f"run {record.run_id!r}: found {state}, expected a finished run. {action}.")
    steps = folder / STEPS_FOLDER
    collected = collect(str(steps), next((path.name for path in sorted(steps.glob("*"))), ""))
    history = collected.history
    if history is None or not (history.epochs or history.training_tokens):
        raise UsageError(
            f"run {record.run_id!r}: found no training history, expected one: it ended with {state!r}. "
            + " ".join(collected.unreadable)
        )
    evaluation = Path(collected.step("evaluate-model").folder or "")
    try:
        settings = flatten(yaml.safe_load((folder / MANIFEST_FILE).read_text(encoding="utf-8")))
        evaluated = (evaluation / "scores").is_file()
        scores = read_json(evaluation / "scores") if evaluated else {"challenger": {}}
        return ComparedRun(
            run_id=record.run_id,
            outcome=state,
            settings=settings,
            collected=collected,
            history=history,
            metrics=_numbers(scores["challenger"]),
            labels=tuple(map(str, scores.get("labels", ()))),
            predictions=_table(evaluation / "predictions"),
            answers=_answers(evaluation / "predictions" / "predictions.json"),
        )
    except (OSError, ValueError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise GauntletError(f"{folder}: the run cannot be read ({error}). Run it again.") from None


def _table(path: Path) -> pd.DataFrame | None:
    return pd.read_parquet(path) if path.is_file() else None


def _answers(path: Path) -> list[dict[str, Any]] | None:
    if not path.is_file():
        return None
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def _numbers(content: Mapping[str, object]) -> dict[str, float]:
    """The metrics that are numbers, or that hold one as their `value` beside its interval."""
    values = {key: value.get("value") if isinstance(value, dict) else value for key, value in content.items()}
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
