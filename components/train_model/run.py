"""Runs the trainer, writes the step's outputs, and finds the place of the training's states."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

from gauntlet.backends.processes import RUN_ID_VARIABLE, STATES_VARIABLE
from gauntlet.components.train_model.report import training_page
from gauntlet.contracts.document import write_json, write_text
from gauntlet.contracts.training import History, tracked_name
from gauntlet.trainer.launch import launch
from gauntlet.trainer.run import TrainingRun

FINISHED_FILE = "finished"
"""In the folder of a run whose training has ended: the next training on the volume removes the folder."""


def run(training_run: TrainingRun, history_path: Path, curves_path: Path) -> dict[str, float]:
    """Train, write the outputs, and return the best epoch's metrics; nothing on a job's other machines."""
    training_run = placed(training_run)
    free_volume()
    document = launch(training_run)
    if document is None:
        return {}
    history = History.model_validate(document)
    write_json(history_path, document)
    write_text(curves_path, training_page(history, training_run.name))
    mark_finished(training_run)
    best = history.epochs[history.best_epoch - 1]
    metrics = {tracked_name(metric): value for metric, value in best.validation.items()}
    metrics |= {"best_epoch": history.best_epoch, "seconds": history.seconds, "cost_usd": history.cost_usd}
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def placed(training_run: TrainingRun) -> TrainingRun:
    """The training with the name of the pipeline's run and, on a volume, the run's folder of states."""
    run_id = os.environ.get(RUN_ID_VARIABLE)
    if run_id is None:
        # On this machine and on Vertex AI outputs are in RUN/STEP/; on Kubeflow in RUN_ID/STEP/ID/.
        return replace(training_run, pipeline_run=training_run.checkpoint.parent.parent.name)
    volume = os.environ.get(STATES_VARIABLE)
    states = training_run.resume_dir if volume is None else str(Path(volume) / run_id)
    return replace(training_run, pipeline_run=run_id, resume_dir=states)


def free_volume() -> None:
    """Remove the states of other runs from the volume, unless a run failed and may be retried."""
    volume = os.environ.get(STATES_VARIABLE)
    if volume is None:
        return
    for mark in Path(volume).glob(f"*/{FINISHED_FILE}"):
        if mark.parent.name != os.environ.get(RUN_ID_VARIABLE):
            shutil.rmtree(mark.parent, ignore_errors=True)  # another training may be removing it too


def mark_finished(training_run: TrainingRun) -> None:
    """Mark the end of the training on the volume. States stay until the outputs are uploaded."""
    if os.environ.get(STATES_VARIABLE) is not None:
        Path(training_run.resume_dir, FINISHED_FILE).touch()
