"""What a training reports: to a tracker, to a Vertex AI tuning job, and to TensorBoard.

A Vertex AI hyperparameter tuning job reads a trial's scores from a file with one JSON object a line, as
Google's `cloudml-hypertune` writes them: https://github.com/GoogleCloudPlatform/cloudml-hypertune
"""

from __future__ import annotations

import json
import os
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gauntlet.backends.tracking import TrackedRun
from gauntlet.contracts.training import TrainingHistory, tracked_name
from gauntlet.manifests.errors import GauntletError

TRIAL_VARIABLE = "CLOUD_ML_TRIAL_ID"
FILE_VARIABLE = "CLOUD_ML_HP_METRIC_FILE"
DEFAULT_FILE = "/tmp/hypertune/output.metrics"

MOST_MISTAKES = 10
NOT_IN_A_NAME = re.compile(r"[^\w. -]")  # of a metric; one with a slash is counted by optimizer steps
LONGEST_NAME = 200  # of a class in a metric; MLflow takes 250 characters in all

Confusion = Sequence[Sequence[int]]


def vertex_trial(metric: str) -> VertexTrial | None:
    """The report to the tuning job, if the environment says that this process is one of its trials."""
    trial = os.environ.get(TRIAL_VARIABLE)
    file = Path(os.environ.get(FILE_VARIABLE, DEFAULT_FILE))
    return None if trial is None else VertexTrial(trial, metric, file)


class VertexTrial(TrackedRun):
    """A tracker that reports `metric` to the tuning job after every epoch, and nothing else.

    The job depends on this file, so training ends if it cannot be written.
    """

    def __init__(self, trial: str, metric: str, file: Path) -> None:
        super().__init__()
        self._trial = trial
        self._metric = metric
        self._file = file

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add the epoch's line, if the metrics have a score, or raise a `GauntletError`."""
        score = metrics.get(tracked_name(self._metric))
        if score is None:
            return
        line = {"timestamp": time.time(), "trial": self._trial, "global_step": str(step)}
        line[self._metric] = str(float(score))
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, sort_keys=True) + "\n")
        except OSError as error:
            raise GauntletError(
                f"{self._file}: cannot be written ({error.strerror}), so the tuning job gets no score. "
                f"{FILE_VARIABLE} names it: make its folder writable."
            ) from None


class StudentTracker:
    """Renames a student's metrics for a tracker: `student_validation_macro_f1`, `step/student_loss`."""

    def __init__(self, tracker: TrackedRun) -> None:
        self._tracker = tracker

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics by the student's own epochs or steps."""
        renamed = {}
        for name, value in metrics.items():
            folder, slash, metric = name.rpartition("/")
            renamed[f"{folder}{slash}student_{metric}"] = value
        self._tracker.log_metrics(renamed, step)


def track_classes(history: TrainingHistory, labels: Sequence[str], tracker: TrackedRun) -> None:
    """Track the best epoch's metrics of each class, if rows have classes."""
    if history.confusion:
        tracker.log_metrics(tracked_class_metrics(history.confusion, labels), history.best_epoch)
        tracker.log_text("classes.txt", class_report(history.confusion, labels))


def track_files(document: dict[str, Any], tracker: TrackedRun) -> None:
    """Track the history and its curves, if there is a tracker."""
    if tracker.has_trackers:
        from gauntlet.trainer.curves import curves_svg

        tracker.log_text("history.json", json.dumps(document, indent=2))
        tracker.log_text("curves.svg", curves_svg(TrainingHistory.model_validate(document)))


def write_tensorboard(history: TrainingHistory, folder: str) -> None:
    """Write the history as TensorBoard scalars, to a path or `gs://`."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        for step in history.steps:
            writer.add_scalar("train/loss", step.loss, step.step)
            writer.add_scalar("train/learning_rate", step.learning_rate, step.step)
        for epoch in history.epochs:
            for key, value in epoch.tracked().items():
                writer.add_scalar(f"epoch/{key}", value, epoch.epoch)


def tracked_class_metrics(confusion: Confusion, labels: Sequence[str]) -> dict[str, float]:
    """Precision, recall and F1 of each class by its name in a tracker, such as `validation_f1.Shirt`."""
    names = class_names(labels)
    return {
        f"{tracked_name(figure)}.{name}": value
        for figure, values in class_metrics(confusion).items()
        for name, value in zip(names, values, strict=True)
    }


def class_names(labels: Sequence[str]) -> list[str]:
    """A unique name for each class that trackers accept.

    Characters that they do not accept become `_`: `T-shirt/top` is `T-shirt_top`. If two classes would share
    a name, these characters are spelt out, so `C+` is `C plus sign`. If the names are still equal, the
    class's index is added.
    """
    shortened = [_written(label, lambda _: "_") for label in labels]
    spelled = [_written(label, _spelled) for label in labels]
    names = [
        name if shared == 1 else longer
        for name, shared, longer in zip(shortened, _times(shortened), spelled, strict=True)
    ]
    for index in range(len(names)):
        while _times(names)[index] > 1:
            names[index] = f"{names[index]}.{index}"
    return names


def _written(label: str, replacement: Callable[[re.Match[str]], str]) -> str:
    written = " ".join(NOT_IN_A_NAME.sub(replacement, label).split()).strip(". ")
    return (written or "_")[:LONGEST_NAME]


def _spelled(character: re.Match[str]) -> str:
    return f" {unicodedata.name(character[0], f'{ord(character[0]):x}').lower()} "


def _times(names: Sequence[str]) -> list[int]:
    """How often each name occurs, for a tracker that ignores case."""
    times = Counter(name.casefold() for name in names)
    return [times[name.casefold()] for name in names]


def class_metrics(confusion: Confusion) -> dict[str, list[float]]:
    """Precision, recall and F1 by class of a confusion (C, C), true classes first; 0 for an absent class."""
    from sklearn.metrics import precision_recall_fscore_support  # 1 s, so only if rows have classes

    classes = np.arange(len(confusion))
    truth, predicted = np.repeat(classes, len(classes)), np.tile(classes, len(classes))
    figures = precision_recall_fscore_support(
        truth, predicted, labels=classes, sample_weight=np.asarray(confusion).ravel(), zero_division=0
    )
    return {
        name: [float(value) for value in values]
        for name, values in zip(("precision", "recall", "f1"), figures, strict=False)
    }


def class_report(confusion: Confusion, labels: Sequence[str]) -> str:
    """A table of the metrics of each class, and the most frequent mistakes."""
    width = max(map(len, labels))
    figures = class_metrics(confusion)
    lines = [f"{'class':<{width}}  precision  recall      F1   rows"]
    for label, precision, recall, f1, row in zip(labels, *figures.values(), confusion, strict=True):
        lines.append(f"{label:<{width}}  {precision:9.4f}  {recall:6.4f}  {f1:6.4f}  {sum(row):5}")
    mistakes = sorted(
        (-count, label, other)
        for label, row in zip(labels, confusion, strict=True)
        for other, count in zip(labels, row, strict=True)
        if count and other != label
    )
    lines += ["", "most frequent mistakes"]
    lines += [f"{-count:5}  {label} taken for {other}" for count, label, other in mistakes[:MOST_MISTAKES]]
    return "\n".join(lines) + "\n"
