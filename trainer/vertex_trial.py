"""Reporting to a Vertex AI hyperparameter tuning job, which reads a trial's scores from a file.

One JSON object a line, as Google's `cloudml-hypertune` writes them:
https://github.com/GoogleCloudPlatform/cloudml-hypertune
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from gauntlet.backends.tracking import TrackedRun
from gauntlet.manifests.errors import GauntletError
from gauntlet.trainer.history import tracked_name

TRIAL_VARIABLE = "CLOUD_ML_TRIAL_ID"
FILE_VARIABLE = "CLOUD_ML_HP_METRIC_FILE"
DEFAULT_FILE = "/tmp/hypertune/output.metrics"


def vertex_trial(metric: str) -> VertexTrial | None:
    """Where the scores go when this process is a trial of a tuning job, which its environment says."""
    trial = os.environ.get(TRIAL_VARIABLE)
    if trial is None:
        return None
    return VertexTrial(trial, metric, Path(os.environ.get(FILE_VARIABLE, DEFAULT_FILE)))


class VertexTrial(TrackedRun):
    """A run that reports only to the tuning job: `metric` after every epoch.

    The job decides on what is written here, so a file that cannot be written ends the training.
    """

    def __init__(self, trial: str, metric: str, file: Path) -> None:
        super().__init__()
        self._trial = trial
        self._metric = metric
        self._file = file

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add the epoch's line; metrics without the epoch's score are not the tuning job's concern.

        Raises:
            GauntletError: The file cannot be written.
        """
        score = metrics.get(tracked_name(self._metric))
        if score is None:
            return
        line = {
            "timestamp": time.time(),
            "trial": self._trial,
            self._metric: str(float(score)),
            "global_step": str(step),
        }
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, sort_keys=True) + "\n")
        except OSError as error:
            raise GauntletError(
                f"{self._file}: cannot be written ({error.strerror}), so the tuning job learns no score. "
                f"{FILE_VARIABLE} names it: make its folder writable."
            ) from None
