"""Texts with one label each: read the table, check it, and describe its splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from gauntlet.components.validate_data.checks import Examination
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
from gauntlet.tasks.texts.rows import TextRows

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
    checked = check_table(read_table(dataset), dataset)
    return examined(
        checked,
        describe(checked, dataset),
        SPLIT_SCHEMA,
        lambda rows: pa.array(class_indices(rows, dataset.labels)),
    )


def read_table(dataset: TextDataset) -> TextRows:
    """As `texts.read_table`; a label is one of `dataset.labels`, or else the value as it was found."""

    def named(values: Sequence[Any]) -> dict[str, list[str | None]]:
        return {"label": [resolve_label(value, dataset.labels) for value in values]}

    return texts.read_table(dataset, named)


def check_table(table: TextRows, dataset: TextDataset) -> texts.CheckedTexts:
    """As `check_labelled`, of a table that `read_table` returns."""
    label = table.small["label"]
    unknown = texts.ValueCheck(
        fails=(label.notna() & ~label.isin(dataset.labels)).to_numpy(),
        describe=lambda row: f"label {excerpt(row.label)} of {excerpt(row.text)}",
        unusable=True,  # it cannot be written as a class index
        column="label",
        summary=lambda found: describe_unknown(found, dataset.labels),
    )
    return check_labelled(table, dataset, {"unknown_labels": unknown})


def describe(checked: texts.CheckedTexts, dataset: TextDataset) -> Statistics:
    """The statistics of the rows that the checks left."""
    index = {label: number for number, label in enumerate(dataset.labels)}
    return Statistics(**describe_labelled(checked, dataset, "label", index.get))


def class_indices(rows: pd.DataFrame, labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """The index of each row's label, (N,)."""
    return pd.Index(labels).get_indexer(rows["label"].cat.categories)[rows["label"].cat.codes]
