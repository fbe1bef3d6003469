"""Labelled rows of the log as rows of the dataset, so that a training learns something new."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pyarrow import parquet

from gauntlet.backends.storage import upload
from gauntlet.manifests.errors import DataError


def write_rows(labelled: Path, columns: Mapping[str, str], name: str, version: str, folder: str) -> int:
    """Write the labelled rows of a version to its file in `folder`, a path or a URI; returns how many.

    A text that was asked for several times is one row, with its newest label: validate-data refuses rows that
    are there twice. The rows of all windows are in one file, so that the next window adds to it.

    Raises:
        DataError: The log does not store what was asked.
    """
    newest: dict[str, dict[str, str]] = {}
    for row in parquet.read_table(labelled).to_pylist():  # in the order of time
        if row["input"] is not None:
            given = {"input": row["input"], "label": row["label"], "time": row["time"].isoformat()}
            newest[row["input"]] = {name: given[key] for key, name in columns.items()}
    if not newest:
        raise DataError(
            f"{labelled}: input: found nothing in any row, expected what was asked: monitoring.rows needs a "
            "log with --store full. Log so, or leave the key out."
        )
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in newest.values())
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / f"{name}-labelled-{version}.jsonl").write_text(lines, encoding="utf-8")
        upload(Path(scratch), folder)
    return len(newest)
