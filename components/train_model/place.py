"""Which run of the pipeline train-model is a part of, and where the states of its training lie."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from gauntlet.backends.processes import RUN_ID_VARIABLE, STATES_VARIABLE
from gauntlet.trainer.run import TrainingRun

FINISHED_FILE = "finished"
"""In the folder of a run whose training has ended: the next training on the volume removes the folder."""


def placed(training_run: TrainingRun) -> TrainingRun:
    """The training with the pipeline's run that it is a part of and, on a volume, its folder of states."""
    run_id = os.environ.get(RUN_ID_VARIABLE)
    if run_id is None:
        # Here and on Vertex AI outputs lie in RUN/STEP/; on Kubeflow in RUN_ID/STEP/ID/.
        return replace(training_run, pipeline_run=training_run.checkpoint.parent.parent.name)
    volume = os.environ.get(STATES_VARIABLE)
    states = training_run.checkpoint_uri if volume is None else str(Path(volume) / run_id)
    return replace(training_run, pipeline_run=run_id, checkpoint_uri=states)


def free_volume() -> None:
    """Remove the states of other runs whose training has ended, if this one has a volume.

    Those of a run that failed stay, for it may be retried.
    """
    volume = os.environ.get(STATES_VARIABLE)
    if volume is None:
        return
    for mark in Path(volume).glob(f"*/{FINISHED_FILE}"):
        if mark.parent.name != os.environ.get(RUN_ID_VARIABLE):
            shutil.rmtree(mark.parent, ignore_errors=True)  # another training may be removing it too


def mark_finished(training_run: TrainingRun) -> None:
    """Say on the volume, if there is one, that the training has ended.

    Its states stay for the time being: should the outputs not reach the object store, the step is run again.
    """
    if os.environ.get(STATES_VARIABLE) is not None:
        Path(training_run.checkpoint_uri, FINISHED_FILE).touch()
