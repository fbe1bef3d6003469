"""Text datasets: read the table, check it, and describe its splits."""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from gauntlet.backends import storage
from gauntlet.components.validate_data.carving import carve, group_names
from gauntlet.components.validate_data.checks import (
    SHOWN_EXAMPLES,
    CheckedTable,
    Examination,
    Finding,
    json_line,
    origin,
)
from gauntlet.components.validate_data.classes import check_classes, count_classes, largest_groups
from gauntlet.components.validate_data.duplicates import find_conflicts, find_exact, find_leaks, find_near
from gauntlet.components.validate_data.text import KEY_FORM, excerpt, find_fault, is_blank, normalise, repair
from gauntlet.contracts.data import ClassStatistics
from gauntlet.contracts.document import Document
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.manifests.errors import DataError
from gauntlet.manifests.gates import describe_resolution
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.text_classification.records import SUFFIX_FORMATS, Records, parse, read_joined
from gauntlet.tasks.text_classification.tokens import check_tokens
from gauntlet.tasks.texts.files import SourceFile, find_files, format_of, verify
from gauntlet.tasks.texts.similarity import TextLikeness, words_of
from gauntlet.tasks.texts.times import with_times

SPLIT_SCHEMA = pa.schema([("text", pa.string()), ("label", pa.int64()), ("row", pa.int64())])
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
MAX_DIGITS = 18
# Fixed, so that histograms of different data can be compared bin by bin. Characters.
LENGTH_EDGES = (0, 20, 40, 60, 80, 100, 125, 150, 200, 250, 300, 400, 500, 750, 1000, 2000)
TOP_WORDS = 200
# A row without a text or a known label cannot be written as (text, class index), so it leaves the splits
# whatever the severity; the severity decides what else happens.
UNUSABLE = ("empty_values", "unknown_labels")
SHOWN_LABELS = 10


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


def sources(dataset: TextDataset) -> tuple[str, ...]:
    """The URIs of the files. Raises what `find_files` does."""
    return tuple(file.uri for file in _files(dataset))


def _files(dataset: TextDataset) -> tuple[SourceFile, ...]:
    return find_files(dataset, lambda name: format_of(name, dataset.format, SUFFIX_FORMATS) is not None)


# --- reading -----------------------------------------------------------------------------------------


def read_table(dataset: TextDataset) -> pd.DataFrame:
    """Every row of every file.

    Columns: `text` and `label` (None if missing; a label is one of `dataset.labels`, or else the value as it
    was found), `fault` (the first encoding fault in words, or None), `split` (of the file), `place` (file and
    line) and `row` (position in the split's files, from 0); `time` as it was found, if the manifest names its
    column. Texts and labels are valid Unicode: invalid characters are replaced by U+FFFD.

    Raises:
        DataError: A file is missing, empty, altered (sha256), malformed or without a column; the faults of
            all files together.
        UsageError: The manifest asks for what cannot be read.
    """
    contents = {file: storage.read_bytes(file.uri) for file in _files(dataset)}
    verify(dataset, contents)
    frames: list[pd.DataFrame] = []
    faults: list[str] = []
    for file, data in contents.items():
        try:
            read = partial(parse, data, file.name, dataset.format, encoding=dataset.encoding)
            records = read_joined(dataset, read)
            before = sum(len(frame) for frame in frames if frame["split"].iat[0] == file.split)
            frames.append(_frame(records, file, dataset.labels, before))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return pd.concat(frames, ignore_index=True)


def resolve_label(value: Any, labels: Sequence[str]) -> str | None:
    """The label's name; the value as text if it is not one of `labels`; None if it is missing.

    A value that is one of `labels`, as text, is that label in every file format: the integer 1 and the
    boolean true are the labels `1` and `true` if these are labels. If no label is a number, a whole number is
    an index into `labels`, as in files of the Hugging Face hub. Labels are compared in NFC: `é` may be one
    character or two.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        spellings = [value.strip()]
    else:
        spellings = [json.dumps(value, ensure_ascii=False, default=str), str(value)]
        if isinstance(value, float) and value.is_integer():  # an integer column with gaps arrives as floats
            spellings.insert(0, str(int(value)))
        elif isinstance(value, int) and not isinstance(value, bool):  # JSON has 1 for 1.0 in a float column
            spellings.append(f"{value}.0")
    known = _by_form(tuple(labels))
    for spelling in spellings:
        if (form := unicodedata.normalize("NFC", spelling)) in known:
            return known[form]
    found = unicodedata.normalize("NFC", spellings[0])
    if found.isascii() and found.isdecimal() and not any(map(NUMBER.fullmatch, labels)):
        index = int(found[:MAX_DIGITS])
        if index < len(labels):
            return labels[index]
    return None if is_blank(found) else found


@cache
def _by_form(labels: tuple[str, ...]) -> dict[str, str]:
    return {unicodedata.normalize("NFC", label): label for label in labels}


def _frame(records: Records, file: SourceFile, labels: Sequence[str], before: int) -> pd.DataFrame:
    """The file's rows; `before` are in earlier files of its split."""
    texts = [
        _text(value, f"{file.name} {place}")
        for value, place in zip(records.texts, records.places, strict=True)
    ]
    resolved = [resolve_label(value, labels) for value in records.labels]
    faults = [_row_fault(text, label) for text, label in zip(texts, resolved, strict=True)]
    times = {} if records.times is None else {"time": pd.Series(list(records.times), dtype="object")}
    return pd.DataFrame(
        {
            **times,
            "text": pd.Series([text and repair(text) for text in texts], dtype="str"),
            "label": pd.Series([label and repair(label) for label in resolved], dtype="str"),
            "fault": pd.Series(faults, dtype="str"),
            "split": file.split,
            "place": [f"{file.name} {place}" for place in records.places],
            "row": range(before, before + len(texts)),
        }
    )


def _text(value: Any, place: str) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str):
        raise DataError(
            f"{place}: found {excerpt(str(value))} ({type(value).__name__}) in the text column, "
            "expected a string. Set dataset.columns.text to the column that holds the text"
        )
    return None if is_blank(value) else value


def _row_fault(text: str | None, label: str | None) -> str | None:
    return (text and find_fault(text)) or (label and find_fault(label)) or None


# --- checks ------------------------------------------------------------------------------------------


def check_table(table: pd.DataFrame, dataset: TextDataset) -> CheckedTable:
    """Run every check, whatever the ones before it found, and carve the splits that no file provides.

    Missing splits are carved after the checks within a split and before the one across splits, so that the
    rows that `drop` removes are gone by then.

    Args:
        table: As `read_table` returns it.
        dataset: The manifest's section.
    """
    checks = dataset.checks
    missing = tuple(split for split in SPLITS if split not in set(table["split"]))
    checked = CheckedTable(table, len(table))
    _check_values(checked, dataset)
    check_tokens(checked, dataset)
    rows = checked.rows.assign(
        key=[normalise(text) for text in checked.rows["text"]],
        shown=[excerpt(text) for text in checked.rows["text"]],
    )
    rows = with_times(rows, dataset.uri) if missing else rows
    near, leaking = checks.near_duplicates.similarity, checks.leakage.similarity
    likeness = TextLikeness(list(dict.fromkeys(rows["key"])), min(near, leaking))
    checked.rows = rows.assign(group=group_names(rows["key"].tolist(), likeness, leaking))
    checked.groups = dict(zip(rows["key"], checked.rows["group"], strict=True))
    checked.check("conflicting_labels", checks.conflicting_labels, find_conflicts)
    checked.check("exact_duplicates", checks.exact_duplicates, find_exact)
    checked.check("near_duplicates", checks.near_duplicates, lambda left: find_near(left, likeness, near))
    fractions = {split: getattr(dataset.split, split) for split in SPLITS}
    checked.rows = carve(checked.rows, missing, fractions, checks.rows_per_class.min_rows, dataset.split.key)
    checked.check("leakage", checks.leakage, lambda left: find_leaks(left, likeness, leaking))
    check_classes(checked, dataset, checks.rows_per_class, checks.class_balance, largest_groups(checked.rows))
    return checked


def _check_values(checked: CheckedTable, dataset: TextDataset) -> None:
    """The four checks on single values. A row counts only in the first check that removes it."""
    failing = _failing_rows(checked.rows, dataset)
    for name in ("encoding", "empty_values", "unknown_labels", "text_length"):
        rule = getattr(dataset.checks, name)
        find = partial(_find_value, name=name, failing=failing[name], labels=dataset.labels)
        checked.check(name, rule, find, unusable=name in UNUSABLE)


def _find_value(rows: pd.DataFrame, name: str, failing: pd.Index[int], labels: Sequence[str]) -> Finding:
    affected = rows.index.intersection(failing)
    shown_rows = rows.loc[affected[:SHOWN_EXAMPLES]].itertuples()
    examples = [f"{row.place}: {_describe(name, row)}" for row in shown_rows]
    if name == "unknown_labels" and len(affected):
        examples = [*_unknown(rows.loc[affected, "label"], labels), *examples]
    column = "label" if name == "unknown_labels" else None
    return Finding(affected, affected, examples, column, partial(_reasons, name))


def _failing_rows(table: pd.DataFrame, dataset: TextDataset) -> dict[str, pd.Index[int]]:
    """Index of the rows that fail each check."""
    text, label, bounds = table["text"], table["label"], dataset.checks.text_length
    fails = {
        "encoding": table["fault"].notna(),
        "empty_values": text.isna() | label.isna(),
        "unknown_labels": label.notna() & ~label.isin(dataset.labels),
        "text_length": text.notna() & ~text.str.len().between(bounds.min_chars, bounds.max_chars),
    }
    return {name: table.index[failing] for name, failing in fails.items()}


def _unknown(found: pd.Series[str], labels: Sequence[str]) -> list[str]:
    """The labels that the manifest does not have, most frequent first, each with the nearest that it has."""
    counts = found.value_counts(sort=True)
    lines = []
    by_case = {label.casefold(): label for label in labels}
    for label, count in list(counts.items())[:SHOWN_LABELS]:
        nearest = get_close_matches(str(label).casefold(), by_case, n=1)
        meant = f", nearest: {by_case[nearest[0]]}" if nearest else ""
        lines.append(f"label {excerpt(str(label))}: {count:,} row{'' if count == 1 else 's'}{meant}")
    more = len(counts) - SHOWN_LABELS
    return lines + ([f"and {more} more labels"] if more > 0 else [])


def _reasons(name: str, table: pd.DataFrame, rows: pd.Index[int]) -> Sequence[str]:
    """`Reasons`."""
    return [_describe(name, row) for row in table.loc[rows].itertuples()]


def _describe(name: str, row: object) -> str:
    text, label, fault = (getattr(row, field) for field in ("text", "label", "fault"))
    if name == "encoding":
        return str(fault)
    if name == "empty_values":
        missing = [field for field in ("text", "label") if pd.isna(getattr(row, field))]
        return f"no {' and no '.join(missing)}" + ("" if pd.isna(text) else f" for {excerpt(text)}")
    if name == "unknown_labels":
        return f"label {excerpt(label)} of {excerpt(text)}"
    return f"{len(text):,} characters: {excerpt(text)}"


# --- splits and their statistics ---------------------------------------------------------------------


class LengthStatistics(Document):
    """Characters per text of one split.

    Attributes:
        count: Texts. The figures after it are absent if there are none.
        edges: Lower bounds of the bins; a bin ends below the next edge, and the last one has no end.
        counts: Texts in each bin.
    """

    count: int
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    mean: float | None = None
    p5: float | None = None
    p50: float | None = None
    p95: float | None = None
    max: int | None = None


class Statistics(ClassStatistics):
    """The content of `statistics.json`.

    Attributes:
        words: All words of the training texts, in normal form (`words_of`).
        top_words: The 200 most frequent of them with their counts, most frequent first.
    """

    text_length: Mapping[str, LengthStatistics]
    words: int
    top_words: Mapping[str, int]


def describe(table: pd.DataFrame, dataset: TextDataset) -> Statistics:
    """The statistics of a table of `text`, `label` (a name), `key` (the normalised text) and `split`."""
    by_split = {split: table[table["split"] == split] for split in SPLITS}
    words = Counter(word for key in by_split["train"]["key"] for word in words_of(key))
    frequent = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:TOP_WORDS]
    return Statistics(
        **origin(dataset),
        labels=dataset.labels,
        sha256=content_sha256(by_split, dataset.labels),
        rows={split: len(rows) for split, rows in by_split.items()},
        class_counts=count_classes(table, dataset.labels),
        text_length={split: describe_lengths(rows["text"].tolist()) for split, rows in by_split.items()},
        words=sum(words.values()),
        top_words=dict(frequent),
    )


def describe_lengths(texts: Sequence[str]) -> LengthStatistics:
    """Mean, percentiles (linear interpolation) and histogram of the texts' lengths."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    counts, _ = np.histogram(lengths, bins=[*LENGTH_EDGES, np.inf])
    histogram = tuple(int(count) for count in counts)
    if not texts:
        return LengthStatistics(count=0, edges=LENGTH_EDGES, counts=histogram)
    p5, p50, p95 = (float(value) for value in np.percentile(lengths, (5, 50, 95)))
    return LengthStatistics(
        count=len(texts),
        edges=LENGTH_EDGES,
        counts=histogram,
        mean=float(lengths.mean()),
        p5=p5,
        p50=p50,
        p95=p95,
        max=int(lengths.max()),
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
