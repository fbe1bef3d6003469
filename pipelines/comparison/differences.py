"""Where two runs differ, as pure functions of what they left: the first is A, the second B.

Differences are B − A. N = rows, C = classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.components import bootstrap
from gauntlet.components.write_report.artifacts import Figure
from gauntlet.components.write_report.figures import is_figure, words
from gauntlet.manifests.kinds import known_metric
from gauntlet.pipelines.comparison.runs import ComparedRun
from gauntlet.tasks.classification.metrics import resample

RESAMPLES = 2_000
CONFIDENCE = 0.95
SEED = 0

Indices = npt.NDArray[np.int64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Setting:
    """A key of the manifest whose value differs; empty where a run has none."""

    key: str
    first: str
    second: str


@dataclass(frozen=True)
class Difference:
    """A figure of both runs; `interval` is the middle 95 % of a paired bootstrap, where rows are the same."""

    name: str
    first: Figure
    second: Figure
    interval: Interval | None = None
    lower_is_better: bool = False

    @property
    def difference(self) -> Figure:
        """B − A."""
        return self.second - self.first if is_figure(self.first) and is_figure(self.second) else None

    @property
    def is_clear(self) -> bool:
        """Whether other test rows would hardly turn it round: the interval is on one side of 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def tone(self) -> str:
        """Whether B is better (good) or worse (bad), as far as that is clear (else idle)."""
        if self.difference is None or not self.is_clear:
            return "idle"
        return "good" if (self.difference > 0) != self.lower_is_better else "bad"


@dataclass(frozen=True)
class PairedRows:
    """The same test rows as both runs' models answered them: class indices, (N,)."""

    classes: tuple[str, ...]
    truth: Indices
    first: Indices
    second: Indices

    @property
    def outcomes(self) -> Mapping[str, int]:
        """Rows by which of the two was right."""
        first, second = self.first == self.truth, self.second == self.truth
        return {
            "both right": int((first & second).sum()),
            "only A right": int((first & ~second).sum()),
            "only B right": int((~first & second).sum()),
            "both wrong": int((~first & ~second).sum()),
        }

    @property
    def confusion_change(self) -> npt.NDArray[np.int64]:
        """Rows by true and predicted class that B has more than A, (C, C)."""
        size = len(self.classes)
        change = np.zeros((size, size), dtype=np.int64)
        np.add.at(change, (self.truth, self.second), 1)
        np.subtract.at(change, (self.truth, self.first), 1)
        return change


@dataclass(frozen=True)
class Intervals:
    """Of the differences on the same resampled rows, by metric and by class."""

    metrics: Mapping[str, Interval]
    class_f1: Mapping[str, Interval]


def different_settings(first: ComparedRun, second: ComparedRun) -> tuple[Setting, ...]:
    """The keys of the manifests with different values, in the order of the first."""
    keys = dict.fromkeys([*first.settings, *second.settings])
    pairs = (Setting(key, first.settings.get(key, ""), second.settings.get(key, "")) for key in keys)
    return tuple(setting for setting in pairs if setting.first != setting.second)


def paired_rows(first: ComparedRun, second: ComparedRun) -> PairedRows | str:
    """The answers to the same rows, or why there are none."""
    for name, run in (("A", first), ("B", second)):
        if not run.metrics:
            return f"{name} was not evaluated on its test split: {run.outcome}"
    if first.predictions is None or second.predictions is None:
        return "answers are of no classes"
    rows = [_identity(frame) for frame in (first.predictions, second.predictions)]
    if not rows[0].equals(rows[1]):
        return f"the test rows are not the same: {len(rows[0]):,} of A, {len(rows[1]):,} of B"
    answers = (first.predictions["label"], first.predictions["predicted"], second.predictions["predicted"])
    found = pd.concat(answers).astype(str)
    if unknown := set(found) - set(first.labels):
        return f"B has classes that A has not: {', '.join(sorted(unknown))}"
    truth, ours, theirs = np.split(pd.Index(first.labels).get_indexer(found).astype(np.int64), 3)
    return PairedRows(first.labels, truth, ours, theirs)


def paired_intervals(rows: PairedRows) -> Intervals:
    """How far each difference might be from what was found, on other rows of the same kind."""
    first, second = resample(rows.truth, [rows.first, rows.second], len(rows.classes), RESAMPLES, SEED)
    sampled = {name: second[name] - first[name] for name in ("accuracy", "macro_f1", "weighted_f1")}
    class_f1 = second["class_f1"] - first["class_f1"]
    return Intervals(
        metrics={name: bootstrap.interval(values, CONFIDENCE) for name, values in sampled.items()},
        class_f1={
            name: bootstrap.interval(class_f1[:, at], CONFIDENCE) for at, name in enumerate(rows.classes)
        },
    )


def metrics_of_test_split(
    first: ComparedRun, second: ComparedRun, intervals: Mapping[str, Interval]
) -> tuple[Difference, ...]:
    """Every metric of the test split that either run has."""
    return _differences(first.metrics, second.metrics, intervals)


def metrics_of_validation_split(first: ComparedRun, second: ComparedRun) -> tuple[Difference, ...]:
    """Every metric of the validation split at the epoch that was kept."""
    kept = [_kept_epoch(run) for run in (first, second)]
    return _differences(kept[0], kept[1], {})


def _kept_epoch(run: ComparedRun) -> Mapping[str, Figure]:
    """Validation metrics; none of a model whose vendor keeps them to itself."""
    epochs = run.history.epochs
    return epochs[(run.history.best_epoch or 1) - 1].validation if epochs else {}


def class_f1(first: ComparedRun, second: ComparedRun, intervals: Intervals | None) -> tuple[Difference, ...]:
    """F1 of each class on the test split, in the first run's order; empty where rows have no class."""
    scores = [run.collected.scores for run in (first, second)]
    if scores[0] is None or scores[1] is None:
        return ()
    theirs = {row.label: row.f1 for row in scores[1].challenger.per_class}
    found = intervals.class_f1 if intervals else {}
    return tuple(
        Difference(row.label, row.f1, theirs.get(row.label), found.get(row.label))
        for row in scores[0].challenger.per_class
    )


def _differences(
    first: Mapping[str, Figure], second: Mapping[str, Figure], intervals: Mapping[str, Interval]
) -> tuple[Difference, ...]:
    return tuple(
        Difference(
            words(key),
            first.get(key),
            second.get(key),
            intervals.get(key),
            known_metric(key).better == "lower",
        )
        for key in dict.fromkeys([*first, *second])
    )


def _identity(predictions: pd.DataFrame) -> pd.DataFrame:
    """What tells the rows apart, which stands before the answers, and the true class."""
    columns: Sequence[str] = list(predictions.columns)
    return predictions[columns[: columns.index("label") + 1]]
