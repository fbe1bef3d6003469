"""Write what validate-data makes of conversations, each file whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gauntlet.components.step import replacing, write_json
from gauntlet.components.validate_data.outputs import STATISTICS_FILE
from gauntlet.manifests.dataset import SPLITS
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.language.statistics import ConversationStatistics

SPLIT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("question", "asked", "response", "prompt", "target")]
    + [(name, pa.int64()) for name in ("conversation", "row")]
)
"""What the user says last and in all (`asked`), the answer, both as they are rendered (`prompt`, `target`).

Rows of one `conversation` are answers to the same opening, but for case and punctuation; `row` is the record.
"""


FEWEST_TESTED = 2
"""Conversations: how much others would differ cannot be told from one."""


def write_splits(folder: Path, table: pd.DataFrame, statistics: ConversationStatistics) -> None:
    """One parquet file per split, and last `statistics.json`, whose presence says that all are there."""
    asked = [[turn.text for turn in context if turn.role == "user"] for context in table["context"]]
    rows = table.assign(question=[turns[-1] for turns in asked], asked=["\n".join(turns) for turns in asked])
    for split in SPLITS:
        content = rows[rows["split"] == split]
        content = content.assign(conversation=pd.factorize(content["key"])[0])
        with replacing(folder / f"{split}.parquet") as temporary:
            pq.write_table(
                pa.table({name: content[name].tolist() for name in SPLIT_SCHEMA.names}, schema=SPLIT_SCHEMA),
                temporary,
            )
    write_json(folder / STATISTICS_FILE, statistics.as_json())


def require_enough(rows: pd.DataFrame, uri: str) -> None:
    """Refuse splits that are of no use.

    Raises:
        DataError: A split has too few rows.
    """
    kept = {split: rows[rows["split"] == split] for split in SPLITS}
    tested = kept["test"]["key"].nunique()
    if all(len(of_split) for of_split in kept.values()) and tested >= FEWEST_TESTED:
        return
    counts = ", ".join(f"{len(of_split)} {split}" for split, of_split in kept.items())
    raise DataError(
        f"{uri}: kept {counts} rows, the last of {tested} conversations; expected some for training and "
        f"validation, and test rows of at least {FEWEST_TESTED} conversations. Add data, or change "
        "dataset.split."
    )
