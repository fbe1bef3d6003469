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
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.proposal import Proposal
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts import data as texts
from gauntlet.tasks.texts.labels import (
    check_labelled,
    describe_labelled,
    describe_unknown,
    examined,
    resolve_label,
)
from gauntlet.tasks.texts.look import LABEL_NAMES, column_keys, look_at_texts
from gauntlet.tasks.texts.rows import TextRows

SPLIT_SCHEMA = pa.schema([("text", pa.string()), ("label", pa.int64()), ("row", pa.int64())])

Statistics = texts.LabelledTextStatistics
sources = texts.sources


def labelled_columns(dataset: TextDataset) -> dict[str, str]:
    """The columns of a logged text, its label and its time, for rows that are added to the dataset.

    Raises:
        UsageError: They have no names, or several columns are one text.
    """
    columns = dataset.columns
    named = {"input": columns.text, "label": columns.label or "label", "time": columns.time}
    if faults := [key for key, name in named.items() if not isinstance(name, str | None)]:
        found = "; ".join(f"{key} {named[key]!r}" for key in faults)
        raise UsageError(
            f"dataset.columns: found {found}, expected the name of one column each: monitoring.rows writes "
            "rows with these columns. Name them, or leave monitoring.rows out."
        )
    return {key: name for key, name in named.items() if isinstance(name, str)}


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


def propose(uri: str) -> Proposal | None:
    """A manifest for a table with a column of texts and one of classes; None for other data."""
    found = look_at_texts(uri)
    if found is None:
        return None
    look, text = found
    classes = [column for column in look.others(text.name) if column.is_class]
    if not classes:
        return None
    label, others = classes[0], classes[1:]
    counts = label.counts.most_common()
    named = label.named_as(LABEL_NAMES)
    comments = {
        "dataset.labels": f"rows of each: {', '.join(str(count) for _, count in counts)}",
        "gates.min_macro_f1": "the lower end of the 95 % interval must reach it: set what your use needs",
    }
    if others:
        comments["dataset.columns"] = f"{', '.join(map(str, others))} could be the label too"
    return Proposal(
        fit=0.8 if named or (len(look.columns) == 2 and label.numbers is None) else 0.6,
        why=f"{text} holds texts, {label} one of {len(counts)} classes",
        sections={
            "dataset": {**column_keys(look, text, label), "labels": [name for name, _ in counts]},
            "gates": {"min_macro_f1": 0.5},
        },
        comments=comments,
    )
