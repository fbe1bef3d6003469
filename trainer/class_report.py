"""The kept epoch on each class of the validation split: as metrics to track, and as a text to read."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from gauntlet.tasks.classification.training_metrics import class_metrics
from gauntlet.trainer.history import tracked_name

MOST_MISTAKES = 10
NOT_IN_A_NAME = re.compile(r"[^\w. -]")  # of a metric; one with a slash is counted by optimizer steps
LONGEST_NAME = 200  # of a class in a metric; MLflow takes 250 characters in all

Confusion = Sequence[Sequence[int]]


def tracked_class_metrics(confusion: Confusion, labels: Sequence[str]) -> dict[str, float]:
    """Precision, recall and F1 of each class by the name that trackers show: `validation_f1.Shirt`."""
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
    index = 0
    while index < len(names):
        shared = _times(names)
        index = next((at for at in range(index, len(names)) if shared[at] > 1), len(names))
        if index < len(names):
            names[index] = f"{names[index]}.{index}"
    return names


def _written(label: str, replacement: Callable[[re.Match[str]], str]) -> str:
    written = " ".join(NOT_IN_A_NAME.sub(replacement, label).split()).strip(". ")
    return (written or "_")[:LONGEST_NAME]


def _spelled(character: re.Match[str]) -> str:
    return f" {unicodedata.name(character[0], f'{ord(character[0]):x}').lower()} "


def _times(names: Sequence[str]) -> list[int]:
    """How many of the names each one is, for a tracker that does not tell capitals from small letters."""
    times = Counter(name.casefold() for name in names)
    return [times[name.casefold()] for name in names]


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
