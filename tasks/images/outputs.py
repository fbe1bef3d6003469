"""Write what validate-data makes of images, each file whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.components.step import replacing, write_json
from gauntlet.manifests.dataset import SPLITS
from gauntlet.tasks.images.statistics import ImageStatistics

STATISTICS_FILE = "statistics.json"


def write_splits(
    folder: Path,
    table: pd.DataFrame,
    pixels: npt.NDArray[np.uint8],
    labels: Sequence[str],
    statistics: ImageStatistics,
    targets: Mapping[str, npt.NDArray[Any]] | None = None,
) -> None:
    """One npz file per split, and last `statistics.json`, whose presence says that all are there.

    An npz file holds `images` uint8, N rows of `pixels`, `label` and `row`, int64 (N,), and the rows of each
    of the `targets`.
    """
    index = {label: number for number, label in enumerate(labels)}
    for split in SPLITS:
        rows = table[table["split"] == split]
        label = np.array([index[name] for name in rows["label"]], dtype=np.int64)
        with replacing(folder / f"{split}.npz") as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                images=pixels[rows.index],
                label=label,
                row=rows["row"].to_numpy(dtype=np.int64),
                **{name: values[rows.index] for name, values in (targets or {}).items()},
            )
    write_json(folder / STATISTICS_FILE, statistics.as_json())
