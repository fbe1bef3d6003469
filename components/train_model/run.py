"""Runs the trainer and writes what the step hands on."""

from __future__ import annotations

from pathlib import Path

from gauntlet.components.step import write_json, write_text
from gauntlet.components.train_model.place import free_volume, mark_finished, placed
from gauntlet.components.train_model.report import training_page
from gauntlet.trainer.history import tracked_name
from gauntlet.trainer.launch import launch
from gauntlet.trainer.run import TrainingRun


def run(training_run: TrainingRun, history_path: Path, curves_path: Path) -> dict[str, float]:
    """Train, write the history and its picture, and return the best epoch's metrics.

    On a machine of the job that is not the first there is none of these, and the metrics are empty.
    """
    training_run = placed(training_run)
    free_volume()
    history = launch(training_run)
    if history is None:
        return {}
    write_json(history_path, history)
    write_text(curves_path, training_page(history, training_run.name))
    mark_finished(training_run)
    best = history["epochs"][history["best_epoch"] - 1]
    return {tracked_name(metric): value for metric, value in best["validation"].items()} | {
        "best_epoch": history["best_epoch"],
        "seconds": history["seconds"],
        "cost_usd": history["cost_usd"],
    }
