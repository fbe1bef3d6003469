"""Texts with any number of labels: read the table, check it, and describe its splits. C = labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from gauntlet.components.validate_data.checks import Examination
from gauntlet.components.validate_data.duplicates import Flags
from gauntlet.components.validate_data.text import excerpt
from gauntlet.manifests.dataset import SPLITS
from gauntlet.manifests.proposal import Proposal
from gauntlet.tasks.classification.scores import name_labels
from gauntlet.tasks.multi_label_text.manifest import MultiLabelDataset
from gauntlet.tasks.texts import data as texts
from gauntlet.tasks.texts.labels import (
    check_labelled,
    describe_labelled,
    describe_unknown,
    examined,
    resolve_label,
)
from gauntlet.tasks.texts.look import ColumnLook, as_text, column_keys, look_at_texts
from gauntlet.tasks.texts.pieces import is_missing
from gauntlet.tasks.texts.rows import TextRows

sources = texts.sources
YES, NO = ("1", "true"), ("0", "false", "")
"""The values of a column that says whether rows have one label, in lower case."""


class Statistics(texts.LabelledTextStatistics):
    """The content of `statistics.json`. `class_counts` are the rows that have a label, also with others.

    Attributes:
        labels_per_row: By split, how many rows have how many labels.
        together: Of the training rows, how many have both of two labels: by the first, then by the second.
            Pairs that no row has are absent.
    """

    labels_per_row: Mapping[str, Mapping[int, int]]
    together: Mapping[str, Mapping[str, int]]


def examine(dataset: MultiLabelDataset) -> Examination:
    """Read and check a dataset.

    Raises:
        DataError: The data cannot be read.
        UsageError: `dataset` asks for what cannot be read.
        GauntletError: The store that holds the data is unavailable.
    """
    checked = check_table(read_table(dataset), dataset)
    numbers = pa.list_(pa.field("element", pa.int8()), len(dataset.labels))
    schema = pa.schema([("text", pa.string()), ("labels", numbers), ("row", pa.int64())])
    return examined(checked, describe(checked, dataset), schema, lambda rows: _written(rows, dataset.labels))


# --- reading -----------------------------------------------------------------------------------------


def read_table(dataset: MultiLabelDataset) -> TextRows:
    """As `texts.read_table`, with these columns.

    `labels`: a tuple of the row's labels in the order of `dataset.labels`. `label`: the same in words, or
    None if the row has none and needs one. `unknown_labels`: what else the row names. `repeated_labels`: what
    it names more than once.
    """

    def named(values: Sequence[Any]) -> dict[str, list[Any]]:
        found = [read_labels(value, dataset) for value in values]
        known = [tuple(label for label in dataset.labels if label in names) for names in found]
        unknown = [tuple(dict.fromkeys(n for n in names if n not in dataset.labels)) for names in found]
        repeated = [tuple(n for n, count in Counter(names).items() if count > 1) for names in found]
        words = [
            name_labels(names) if names or dataset.allow_unlabelled else None
            for names in (mine + others for mine, others in zip(known, unknown, strict=True))
        ]
        return {"label": words, "labels": known, "unknown_labels": unknown, "repeated_labels": repeated}

    return texts.read_table(dataset, named)


def read_labels(value: Any, dataset: MultiLabelDataset) -> tuple[str, ...]:
    """What a value names, in its order: labels of the dataset, or else the text as it was found.

    A value is a list, also one in JSON; names or indices between separators; or a tuple with the values of
    one column for each label.
    """
    if isinstance(value, tuple):
        return _of_columns(value, dataset.labels)
    if isinstance(value, str):
        value = _split(value, dataset.label_separator)
    elif is_missing(value):
        value = ()
    elif not isinstance(value, list):
        value = [value]
    names = (resolve_label(one, dataset.labels) for one in value)
    return tuple(name for name in names if name is not None)


def _split(value: str, separator: str) -> list[Any]:
    if value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            return found
    return value.split(separator)


def _of_columns(values: tuple[Any, ...], labels: Sequence[str]) -> tuple[str, ...]:
    """The labels whose column says yes. A value that is neither yes nor no is a label of its own."""
    found = []
    for label, value in zip(labels, values, strict=True):
        shown = "" if is_missing(value) else str(value).strip().lower().removesuffix(".0")
        if shown in YES:
            found.append(label)
        elif shown not in NO:
            found.append(f"{label}={value}")
    return tuple(found)


# --- checks ------------------------------------------------------------------------------------------


def check_table(table: TextRows, dataset: MultiLabelDataset) -> texts.CheckedTexts:
    """As `check_labelled`, of a table that `read_table` returns."""

    def named(column: str) -> Flags:
        values = table.small[column].cat
        return np.array([len(names) > 0 for names in values.categories], dtype=np.bool_)[values.codes]

    of_labels = {
        "unknown_labels": texts.ValueCheck(
            fails=named("unknown_labels"),
            describe=lambda row: f"{_called(row.unknown_labels)} of {excerpt(row.text)}",
            unusable=True,  # its labels cannot all be written
            column="unknown_labels",
            summary=lambda found: describe_unknown(found.astype("object").explode(), dataset.labels),
        ),
        "repeated_labels": texts.ValueCheck(
            fails=named("repeated_labels"),
            describe=lambda row: f"{_called(row.repeated_labels)} more than once for {excerpt(row.text)}",
            column="repeated_labels",
        ),
    }
    return check_labelled(table, dataset, of_labels)


def _called(names: Sequence[str]) -> str:
    return f"label{'' if len(names) == 1 else 's'} {', '.join(map(excerpt, names))}"


# --- splits and their statistics ---------------------------------------------------------------------


def describe(checked: texts.CheckedTexts, dataset: MultiLabelDataset) -> Statistics:
    """The statistics of the rows that the checks left."""
    rows, labelled = checked.rows, checked.rows["labels"]
    counts = {
        split: labelled[rows["split"] == split].cat.remove_unused_categories().value_counts()
        for split in SPLITS
    }
    sizes = {split: Counter[int]() for split in SPLITS}
    pairs = Counter[tuple[str, str]]()
    for split, of_split in counts.items():
        for labels, number in zip(of_split.index.tolist(), of_split.tolist(), strict=True):
            sizes[split][len(labels)] += number
            if split == "train":
                pairs.update(dict.fromkeys(combinations(labels, 2), number))
    together: dict[str, dict[str, int]] = {}
    for (first, second), number in sorted(pairs.items()):
        together.setdefault(first, {})[second] = number
    index = {label: number for number, label in enumerate(dataset.labels)}
    return Statistics(
        **describe_labelled(checked, dataset, "labels", lambda names: [index[name] for name in names]),
        labels_per_row={split: dict(sorted(found.items())) for split, found in sizes.items()},
        together=together,
    )


def _written(rows: pd.DataFrame, labels: Sequence[str]) -> pa.Array:
    """For each row a list of C numbers, 1 for a label that the row has, else 0."""
    sets = rows["labels"].cat
    has = np.array([[label in names for label in labels] for names in sets.categories], dtype=np.int8)
    return pa.FixedSizeListArray.from_arrays(pa.array(has[sets.codes].reshape(-1)), len(labels))


def label_sets(frame: pd.DataFrame) -> npt.NDArray[np.float32]:
    """1 for each label that a row of a written split has, else 0, (N, C)."""
    return np.array(frame["labels"].tolist(), dtype=np.float32)


MOST_LABELS = 100
"""More different parts than these are no labels but words."""


def propose(uri: str) -> Proposal | None:
    """A manifest for a table with a column of texts, and one or several of labels; None for other data."""
    found = look_at_texts(uri)
    if found is None:
        return None
    look, text = found
    gates = {"min_macro_f1": 0.5}
    comments = {
        "gates.min_macro_f1": "the lower end of the 95 % interval must reach it: set what your use needs",
        "dataset.allow_unlabelled": "a text may have none of them",
    }
    others = look.others(text.name)
    dataset: dict[str, Any]
    for column in others:
        several = _several(column)
        if several is not None:
            separator, labels = several
            dataset = {**column_keys(look, text, column), "labels": labels}
            if separator not in (None, ","):
                dataset["label_separator"] = separator
            why = f"{text} holds texts, {column} any number of {len(labels)} labels"
            return Proposal(0.9, why, {"dataset": dataset, "gates": gates}, comments)
    flags = [column.name for column in others if {*map(str.lower, column.counts)} <= {*YES, *NO}]
    if len(flags) < 2:  # one such column is two classes
        return None
    dataset = {
        "columns": {**({} if text.name == "text" else {"text": text.name}), "label": flags},
        "labels": flags,
        "allow_unlabelled": True,
    }
    why = f"{text} holds texts, and {len(flags)} columns say by 0 and 1 which labels a text has"
    return Proposal(0.85, why, {"dataset": dataset, "gates": gates}, comments)


def _several(column: ColumnLook) -> tuple[str | None, list[str]] | None:
    """The sign between labels (None: the values are lists) and the labels; None if a value is one label."""
    if all(isinstance(value, list) for value in column.values):
        parts = [[as_text(part) for part in value] for value in column.values]
        return (None, _labels(parts)) if _are_labels(parts) else None
    if not all(isinstance(value, str) for value in column.values):
        return None
    for sign in ("|", ";", ",", "/"):
        parts = [[part.strip() for part in value.split(sign)] for value in column.values]
        if any(len(each) > 1 for each in parts) and _are_labels(parts):
            return sign, _labels(parts)
    return None


def _are_labels(parts: Sequence[Sequence[str]]) -> bool:
    """Whether the parts are few and short, and some parts occur alone or with others."""
    different = {part for each in parts for part in each}
    sets = {frozenset(each) for each in parts}
    short = all(part and len(part.split()) <= 4 for part in different)  # words of a label
    few = 2 <= len(different) <= MOST_LABELS and len(sets) <= len(parts)
    return few and short and len(sets) > len(different) / 2


def _labels(parts: Sequence[Sequence[str]]) -> list[str]:
    return [label for label, _ in Counter(part for each in parts for part in each).most_common()]
