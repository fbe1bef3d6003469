"""evaluate-model: the bundle and the champion on the same test rows, with the limits of each metric.

The kind scores them: `evaluate` of its module `evaluation` takes an `EvaluationRun` and gives an `Evaluated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class EvaluationRun(Generic[Settings]):
    """What a kind evaluates, and where it writes.

    Attributes:
        settings: The kind's section `evaluation`.
        name: Of the system: its champion is in the registry under this name.
        bundle: The challenger's.
        splits: The folder that validate-data wrote.
        scores, predictions, report: The outputs: a JSON object, the answers in any format, an HTML page.
    """

    settings: Settings
    name: str
    seed: int
    registry_uri: str
    bundle: Path
    splits: Path
    scores: Path
    predictions: Path
    report: Path


@dataclass(frozen=True)
class Evaluated:
    """What the step logs.

    Attributes:
        headline: The few figures that a run is listed and compared by.
        confusion: Of a classifier: its labels, and rows by true and by predicted class.
    """

    headline: Mapping[str, float]
    confusion: tuple[list[str], list[list[int]]] | None = None
