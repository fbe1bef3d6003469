"""Texts with one label each: read the table, check it, and describe its splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from gauntlet.components.validate_data.checks import CheckedTable, Examination, json_line, origin
from gauntlet.components.validate_data.classes import check_classes, count_classes, largest_groups
from gauntlet.components.validate_data.duplicates import find_conflicts
from gauntlet.components.validate_data.text import KEY_FORM, excerpt
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.manifests.gates import describe_resolution
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts import data as texts
from gauntlet.tasks.texts.labels import describe_unknown, resolve_label

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
    statistics = describe(checked.rows, dataset)
    return Examination(
        table=table,
        checked=checked,
        statistics=statistics,
        content=lambda split: _content(checked.rows[checked.rows["split"] == split], dataset.labels),
        fingerprints=KEY_FORM,
        resolution=describe_resolution(statistics.class_counts["test"].values()),
    )


def read_table(dataset: TextDataset) -> pd.DataFrame:
    """As `texts.read_table`; a label is one of `dataset.labels`, or else the value as it was found."""

    def named(values: Sequence[Any]) -> dict[str, list[str | None]]:
        return {"label": [resolve_label(value, dataset.labels) for value in values]}

    return texts.read_table(dataset, named)


def check_table(table: pd.DataFrame, dataset: TextDataset) -> CheckedTable:
    """Run every check, whatever the ones before it found, and carve the splits that no file provides.

    Args:
        table: As `read_table` returns it.
        dataset: The manifest's section.
    """
    checks, label = dataset.checks, table["label"]
    unknown = texts.ValueCheck(
        fails=label.notna() & ~label.isin(dataset.labels),
        describe=lambda row: f"label {excerpt(row.label)} of {excerpt(row.text)}",
        unusable=True,  # it cannot be written as a class index
        column="label",
        summary=lambda found: describe_unknown(found, dataset.labels),
    )
    least = checks.rows_per_class.min_rows
    conflicts = ("conflicting_labels", find_conflicts)
    checked = texts.check_texts(table, dataset, {"unknown_labels": unknown}, conflicts, least)
    check_classes(checked, dataset, checks.rows_per_class, checks.class_balance, largest_groups(checked.rows))
    return checked


def describe(table: pd.DataFrame, dataset: TextDataset) -> Statistics:
    """The statistics of a table of `text`, `label` (a name), `key` (the normalised text) and `split`."""
    by_split = {split: table[table["split"] == split] for split in SPLITS}
    return Statistics(
        **origin(dataset),
        labels=dataset.labels,
        sha256=content_sha256(by_split, dataset.labels),
        class_counts=count_classes(table, dataset.labels),
        **texts.describe_texts(table),
    )


def content_sha256(splits: Mapping[SplitName, pd.DataFrame], labels: Sequence[str]) -> str:
    """Hash of the rows in their order, so that it does not change with the parquet library.

    It is fed with one JSON line each: the labels, then for each split its name and its rows as
    [text, class index].
    """
    index = {label: number for number, label in enumerate(labels)}
    digest = hashlib.sha256(json_line(list(labels)))
    for split in SPLITS:
        digest.update(json_line(split))
        for text, label in zip(splits[split]["text"], splits[split]["label"], strict=True):
            digest.update(json_line([text, index[label]]))
    return digest.hexdigest()


def _content(rows: pd.DataFrame, labels: Sequence[str]) -> pa.Table:
    index = {label: number for number, label in enumerate(labels)}
    return pa.table(
        {
            "text": rows["text"].tolist(),
            "label": [index[label] for label in rows["label"]],
            "row": rows["row"].tolist(),
        },
        schema=SPLIT_SCHEMA,
    )
