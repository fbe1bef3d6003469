"""Rows for people to label: a uniform part that measures, and an uncertain part that teaches.

The column `source` says which. `gauntlet label import` keeps it, and harm is judged by the uniform part
alone: rows that the model is unsure of are wrong more often.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from gauntlet.components.detect_drift.counts import OK, hashes_of
from gauntlet.components.detect_drift.rows import parts_below, read_part

UNIFORM, UNCERTAIN = "uniform", "uncertain"
COLUMNS = ("event_id", "time", "predicted", "confidence", "input")


def write_rows_to_label(place: Path, labelled: Collection[str], count: int, file: Path) -> None:
    """Write rows below `place` without a label: half are drawn by a hash of their ids, half are least sure.

    `input` is there where the log stores it; else a person must find the row by its event id.
    """
    tables = []
    for part in parts_below(place):
        table = read_part(part, (*COLUMNS, "status"))
        tables.append(table.filter(pc.equal(table["status"], OK)).drop_columns(["status"]))
    rows = pa.concat_tables(tables, promote_options="permissive")
    rows = rows.filter(pc.invert(pc.is_in(rows["event_id"], pa.array(list(labelled), pa.string()))))
    by_hash = np.argsort(hashes_of(rows["event_id"]), kind="stable")
    uniform = by_hash[: count - count // 2]
    rest = by_hash[count - count // 2 :]
    chosen = [uniform]
    if "confidence" in rows.column_names:
        confidence = rows["confidence"].to_numpy().astype(float)[rest]
        chosen.append(
            rest[np.argsort(np.where(np.isnan(confidence), 1.0, confidence), kind="stable")][: count // 2]
        )
    sources = [UNIFORM] * len(uniform) + [UNCERTAIN] * sum(map(len, chosen[1:]))
    drawn = rows.take(pa.array(np.concatenate(chosen)))
    parquet.write_table(drawn.append_column("source", pa.array(sources, pa.string())), file)
