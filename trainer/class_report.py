"""The kept epoch on each class of the validation split: as metrics to track, and as a text to read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainer.history import tracked_name
from trainer.metrics import class_metrics

MOST_MISTAKES = 10
NOT_IN_A_NAME = re.compile(r"[^\w. -]")  # of a metric; a slash would have it counted by optimizer steps

Confusion = Sequence[Sequence[int]]


def tracked_class_metrics(confusion: Confusion, labels: Sequence[str]) -> dict[str, float]:
    """Precision, recall and F1 of each class by the name that trackers show: `validation_f1.Shirt`."""
    return {
        f"{tracked_name(figure)}.{NOT_IN_A_NAME.sub('_', label)}": value
        for figure, values in class_metrics(confusion).items()
        for label, value in zip(labels, values, strict=True)
    }


def class_report(confusion: Confusion, labels: Sequence[str]) -> str:
    """A table of the classes, and the classes that are taken for one another most often."""
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
