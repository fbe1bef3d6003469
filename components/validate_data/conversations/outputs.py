"""Write what validate-data makes of conversations, each file whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.step import replacing, write_json
from components.validate_data.conversations.statistics import ConversationStatistics
from components.validate_data.texts.outputs import STATISTICS_FILE
from manifests.dataset import SPLITS

SPLIT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("question", "response", "prompt", "target")]
    + [(name, pa.int64()) for name in ("conversation", "row")]
)
"""What the user says last and the answer, both as they are rendered (`prompt`, `target`), and the record.

Rows of one `conversation` are answers to the same opening, word for word.
"""


def write_splits(folder: Path, table: pd.DataFrame, statistics: ConversationStatistics) -> None:
    """One parquet file per split, and last `statistics.json`, whose presence says that all are there."""
    rows = table.assign(
        question=[context[-1][1] for context in table["context"]],
        conversation=pd.factorize(table["key"])[0],
    )
    for split in SPLITS:
        content = rows[rows["split"] == split][SPLIT_SCHEMA.names]
        with replacing(folder / f"{split}.parquet") as temporary:
            pq.write_table(
                pa.table({name: content[name].tolist() for name in SPLIT_SCHEMA.names}, schema=SPLIT_SCHEMA),
                temporary,
            )
    write_json(folder / STATISTICS_FILE, statistics.as_json())
