"""Reading what validate-data wrote: parquet splits and their statistics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from manifests.dataset import SplitName
from manifests.errors import UsageError

STATISTICS_FILE = "statistics.json"


def read_split(folder: Path, split: SplitName) -> pd.DataFrame:
    """A split as validate-data wrote it, in its order."""
    path = folder / f"{split}.parquet"
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file, expected a folder written by the step validate-data. "
            "Run `gauntlet run` once, or name its splits folder."
        )
    return pd.read_parquet(path)


def read_statistics(folder: Path) -> dict[str, Any]:
    """The statistics of the splits, among them `labels` and the content's `sha256`."""
    path = folder / STATISTICS_FILE
    if not path.is_file():
        raise UsageError(f"{path}: no such file, expected a folder written by the step validate-data.")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def read_labels(folder: Path) -> tuple[str, ...]:
    """Class names in the order of the label indices."""
    return tuple(read_statistics(folder)["labels"])
