"""What validate-data writes of the splits: one file for each, and last their statistics."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from gauntlet.components.validate_data.checks import SplitContent
from gauntlet.contracts.data import Statistics
from gauntlet.contracts.document import replacing
from gauntlet.contracts.names import STATISTICS_FILE
from gauntlet.manifests.dataset import SPLITS, Dataset, SplitName


def write_splits(folder: Path, content: Callable[[SplitName], SplitContent], statistics: Statistics) -> None:
    """Write each file whole or not at all, and `statistics.json` last, which says that all are there."""
    for split in SPLITS:
        rows = content(split)
        suffix = "npz" if isinstance(rows, Mapping) else "parquet"
        with replacing(folder / f"{split}.{suffix}") as temporary, temporary.open("wb") as file:
            if isinstance(rows, Mapping):
                np.savez(file, allow_pickle=False, **rows)
            else:
                pq.write_table(rows, file)
    statistics.write(folder / STATISTICS_FILE)


def origin(dataset: Dataset) -> dict[str, Any]:
    """The fields of `Statistics` that say where the data come from."""
    return dataset.model_dump(mode="json", include={"name", "version", "commit_hash", "created", "uri"})


def json_line(value: object) -> bytes:
    """One line of JSON, as the content hashes of the splits are fed with."""
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
