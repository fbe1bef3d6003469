"""Write what validate-data makes, each file whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gauntlet.components.step import replacing, write_json
from gauntlet.manifests.dataset import SPLITS
from gauntlet.tasks.text_classification.statistics import TextStatistics

STATISTICS_FILE = "statistics.json"
SPLIT_SCHEMA = pa.schema([("text", pa.string()), ("label", pa.int64()), ("row", pa.int64())])


def write_splits(
    folder: Path, table: pd.DataFrame, labels: Sequence[str], statistics: TextStatistics
) -> None:
    """One parquet file per split, and last `statistics.json`, whose presence says that all are there."""
    index = {label: number for number, label in enumerate(labels)}
    for split in SPLITS:
        rows = table[table["split"] == split]
        content = pa.table(
            {
                "text": rows["text"].tolist(),
                "label": [index[label] for label in rows["label"]],
                "row": rows["row"].tolist(),
            },
            schema=SPLIT_SCHEMA,
        )
        with replacing(folder / f"{split}.parquet") as temporary:
            pq.write_table(content, temporary)
    write_json(folder / STATISTICS_FILE, statistics.as_json())
