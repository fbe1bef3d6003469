"""The target of a model, as its checkpoint and its bundle describe it. Serving imports it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

TARGET_FILE = "target.json"


@dataclass(frozen=True)
class Target:
    """The numbers that a model was trained on.

    Attributes:
        name: The column's.
        mean, std: Of the training split.
        min, max: The range that the manifest declares.
        coverage: The share of true numbers that the interval of an answer holds; None if answers have none.
    """

    name: str
    mean: float
    std: float
    min: float | None = None
    max: float | None = None
    coverage: float | None = None

    def write(self, folder: Path) -> None:
        """Write `target.json`."""
        (folder / TARGET_FILE).write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Target:
        """The content of a checkpoint's or a bundle's `target.json`.

        Raises:
            ValueError: It has other content.
        """
        try:
            target = cls(**json.loads((folder / TARGET_FILE).read_text(encoding="utf-8")))
            for name, found in asdict(target).items():
                if name != "name" and (found is not None or name in ("mean", "std")):
                    _require_number(name, found)
            return target
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{folder / TARGET_FILE}: found no description of a target: {error}") from None


def _require_number(name: str, found: object) -> None:
    is_number = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    lowest, words = (0.0, " over 0") if name in ("std", "coverage") else (-math.inf, "")
    if not is_number or not float(found) > lowest:  # type: ignore[arg-type]
        raise ValueError(f"{name}: found {found!r}, expected a number{words}")
