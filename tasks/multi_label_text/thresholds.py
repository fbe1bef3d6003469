"""The probability from which on a text is given a label: one for each label, chosen on validation.

N = rows, C = labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gauntlet.serving.bundle import BundleError

THRESHOLDS_FILE = "thresholds.json"
WITHOUT_ROWS = 0.5
"""The threshold of a label that no row has, or that every row has."""

Probabilities = npt.NDArray[np.float32]
Thresholds = npt.NDArray[np.float32]


def sigmoid(logits: npt.NDArray[np.float32]) -> Probabilities:
    """Probabilities of logits, of any shape; each label's is independent of the others'."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)), dtype=np.float32)


def choose_thresholds(probabilities: Probabilities, truth: npt.NDArray[Any]) -> Thresholds:
    """For each label the threshold with the best F1 on rows that have the labels `truth`, (N, C); (C,).

    It lies half-way between two neighbouring probabilities, so that rounding changes no row. Of thresholds
    that are equally good it is the one nearest to 1/2.
    """
    return np.array(
        [_best(probabilities[:, c], truth[:, c].astype(bool)) for c in range(truth.shape[1])],
        dtype=np.float32,
    )


def _best(scores: Probabilities, has_label: npt.NDArray[np.bool_]) -> float:
    if not has_label.any() or has_label.all():
        return WITHOUT_ROWS
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order].astype(np.float64), np.cumsum(has_label[order])
    given = np.arange(1, len(scores) + 1)
    f1 = 2 * hits / (given + hits[-1])
    below = np.append(ordered[1:], 0.0)
    last_of_equals = ordered > below  # rows of one probability are given the label together
    last_of_equals[-1] = True
    middles = (ordered + below) / 2
    best = last_of_equals & (f1 >= f1[last_of_equals].max() - 1e-12)
    candidates = middles[best]
    return float(candidates[np.abs(candidates - WITHOUT_ROWS).argmin()])


def write_thresholds(path: Path, labels: Sequence[str], thresholds: Thresholds) -> Path:
    """Write the file of a bundle: the threshold of each label by its name."""
    content = dict(zip(labels, map(float, thresholds), strict=True))
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return path


def read_thresholds(folder: Path, labels: Sequence[str]) -> Thresholds:
    """The thresholds in a bundle's folder, in the order of its labels, (C,).

    Raises:
        BundleError: The file is missing, or has not one number from 0 to 1 for each label.
    """
    path = folder / THRESHOLDS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, Mapping) or set(content) != set(labels):
        raise BundleError(f"{path}: expected a threshold for each of {', '.join(labels)} and no others")
    wrong = [label for label, value in content.items() if not _is_probability(value)]
    if wrong:
        raise BundleError(
            f"{path}: {wrong[0]}: found {content[wrong[0]]!r:.100}, expected a number from 0 to 1"
        )
    return np.array([content[label] for label in labels], dtype=np.float32)


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
