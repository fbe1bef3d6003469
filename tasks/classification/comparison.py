"""Two models on the same test rows: the intervals of their differences, and how their answers differ.

N = rows, C = classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from gauntlet.components import bootstrap
from gauntlet.components.write_report.comparison import (
    CONFIDENCE,
    RESAMPLES,
    SEED,
    Difference,
    Evaluated,
    Interval,
    Paired,
)
from gauntlet.manifests.errors import GauntletError
from gauntlet.pages.formatting import count, signed
from gauntlet.pages.page import NOTHING, Cell, partial
from gauntlet.tasks.classification.metrics import Sets, number_sets, resample, single_sets
from gauntlet.tasks.classification.scores import METRICS, Scores

Indices = npt.NDArray[np.int64]
TRUE, GIVEN = "true_", "given_"
"""What the columns of predictions begin with that say which classes a row has, and was given."""


@dataclass(frozen=True)
class PairedRows:
    """The same test rows as both runs' models answered them: numbers of `sets` of classes, (N,)."""

    classes: tuple[str, ...]
    sets: Sets
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


def compare(first: Evaluated, second: Evaluated) -> Paired:
    """Compare two models; if they answered different rows, only the F1 of each class.

    Raises:
        GauntletError: The predictions of a run cannot be read.
    """
    rows = paired_rows(first, second)
    if isinstance(rows, str):
        return Paired(classes=class_f1(first.scores, second.scores, {}), unpaired=rows)
    metrics, of_classes = paired_intervals(rows)
    outcomes = ", ".join(f"{name} {count(number)}" for name, number in rows.outcomes.items())
    return Paired(
        intervals=metrics,
        classes=class_f1(first.scores, second.scores, of_classes),
        summary=f"Both answered the same {count(len(rows.truth))} rows: {outcomes}.",
        body=_confusion_change(rows),
    )


def paired_rows(first: Evaluated, second: Evaluated) -> PairedRows | str:
    """The answers to the same rows, or why there are none."""
    ours, theirs = (_predictions(one.predictions) for one in (first, second))
    if ours is None or theirs is None:
        return "answers are of no classes"
    rows = [_identity(frame) for frame in (ours, theirs)]
    if not rows[0].equals(rows[1]):
        return f"the test rows are not the same: {len(rows[0]):,} of A, {len(rows[1]):,} of B"
    classes = tuple(first.scores.labels)
    if any(str(column).startswith(GIVEN) for column in ours):
        return _of_sets(classes, ours, theirs)
    found = pd.concat((ours["label"], ours["predicted"], theirs["predicted"])).astype(str)
    if unknown := set(found) - set(classes):
        return f"B has classes that A has not: {', '.join(sorted(unknown))}"
    truth, answers, others = np.split(pd.Index(classes).get_indexer(found).astype(np.int64), 3)
    return PairedRows(classes, single_sets(len(classes)), truth, answers, others)


def _of_sets(classes: tuple[str, ...], ours: pd.DataFrame, theirs: pd.DataFrame) -> PairedRows | str:
    """The answers of models that give a row several classes."""
    if missing := [label for label in classes if f"{GIVEN}{label}" not in theirs]:
        return f"A has classes that B has not: {', '.join(missing)}"
    frames = (ours, TRUE), (ours, GIVEN), (theirs, GIVEN)
    answers = (frame[[f"{what}{label}" for label in classes]].to_numpy(dtype=bool) for frame, what in frames)
    sets, (truth, first, second) = number_sets(*answers)
    return PairedRows(classes, sets, truth, first, second)


def _confusion_change(rows: PairedRows) -> Markup:
    """Nothing if a row may have several classes."""
    if len(rows.sets) != len(rows.classes) or not (rows.sets.sum(axis=1) == 1).all():
        return NOTHING
    return partial(
        "gauntlet.tasks.classification:report.html.jinja#change",
        labels=rows.classes,
        rows=confusion_cells(rows),
    )


def paired_intervals(rows: PairedRows) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Intervals of the differences on resampled rows: by metric, and by class."""
    first, second = resample(rows.truth, [rows.first, rows.second], rows.sets, RESAMPLES, SEED)
    metrics = {name: bootstrap.interval(second[name] - first[name], CONFIDENCE) for name in METRICS}
    of_classes = second["class_f1"] - first["class_f1"]
    return metrics, {
        name: bootstrap.interval(of_classes[:, at], CONFIDENCE) for at, name in enumerate(rows.classes)
    }


def class_f1(first: Scores, second: Scores, intervals: Mapping[str, Interval]) -> tuple[Difference, ...]:
    """F1 of each class on the test split, in the first run's order."""
    theirs = {row.label: row.f1 for row in second.challenger.per_class}
    return tuple(
        Difference(row.label, row.f1, theirs.get(row.label), intervals.get(row.label))
        for row in first.challenger.per_class
    )


def confusion_cells(rows: PairedRows) -> tuple[tuple[Cell, ...], ...]:
    """The change of the confusion. The shade is the square root of its share of the true class's rows."""
    sizes = [int((rows.truth == at).sum()) for at in range(len(rows.classes))]
    return tuple(
        tuple(
            Cell(
                text=signed(float(number), 0) if number else "0",
                tone="good" if (number > 0) == (true == predicted) else "bad",
                shade=round(math.sqrt(abs(number) / size), 4) if size else 0.0,
            )
            for predicted, number in enumerate(numbers)
        )
        for true, (numbers, size) in enumerate(zip(rows.confusion_change.tolist(), sizes, strict=True))
    )


def _predictions(path: Path) -> pd.DataFrame | None:
    try:
        return pd.read_parquet(path) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise GauntletError(f"{path}: the run cannot be read ({error}). Run it again.") from None


def _identity(predictions: pd.DataFrame) -> pd.DataFrame:
    """The columns before the answers, which identify a row, and the true class."""
    columns: Sequence[str] = list(predictions.columns)
    return predictions[columns[: columns.index("label") + 1]]
