"""Texts with one label each: read the table, check it, and describe its splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from gauntlet.components.validate_data.checks import CheckedTable, Examination
from gauntlet.components.validate_data.text import excerpt
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts import data as texts
from gauntlet.tasks.texts.labels import (
    check_labelled,
    describe_labelled,
    describe_unknown,
    examined,
    resolve_label,
)

SPLIT_SCHEMA = pa.schema([("text", pa.string()), ("label", pa.int64()), ("row", pa.int64())])

Statistics = texts.LabelledTextStatistics
sources = texts.sources


def examine(dataset: TextDataset) -> Examination:
    """Read and check a dataset.

    Raises:
        DataError: The data cannot be read.
        UsageError: `dataset` asks for what cannot be read.
        GauntletError: The store that holds the data is unavailable.
    """
    table = read_table(dataset)
    checked = check_table(table, dataset)
    return examined(table, checked, describe(checked.rows, dataset), _content)


def read_table(dataset: TextDataset) -> pd.DataFrame:
    """As `texts.read_table`; a label is one of `dataset.labels`, or else the value as it was found."""

    def named(values: Sequence[Any]) -> dict[str, list[str | None]]:
        return {"label": [resolve_label(value, dataset.labels) for value in values]}

    return texts.read_table(dataset, named)


def check_table(table: pd.DataFrame, dataset: TextDataset) -> CheckedTable:
    """As `check_labelled`, of a table that `read_table` returns."""
    label = table["label"]
    unknown = texts.ValueCheck(
        fails=label.notna() & ~label.isin(dataset.labels),
        describe=lambda row: f"label {excerpt(row.label)} of {excerpt(row.text)}",
        unusable=True,  # it cannot be written as a class index
        column="label",
        summary=lambda found: describe_unknown(found, dataset.labels),
    )
    return check_labelled(table, dataset, {"unknown_labels": unknown})


def describe(table: pd.DataFrame, dataset: TextDataset) -> Statistics:
    """The statistics of a table of `text`, `label` (a name), `key` (the normalised text) and `split`."""
    return Statistics(**describe_labelled(table, dataset, class_indices))


def class_indices(rows: pd.DataFrame, labels: Sequence[str]) -> list[int]:
    """The index of each row's label."""
    index = {label: number for number, label in enumerate(labels)}
    return [index[label] for label in rows["label"]]


def _content(rows: pd.DataFrame, labels: Sequence[str]) -> pa.Table:
    columns = {
        "text": rows["text"].tolist(),
        "label": class_indices(rows, labels),
        "row": rows["row"].tolist(),
    }
    return pa.table(columns, schema=SPLIT_SCHEMA)
