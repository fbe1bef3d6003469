"""Texts with labels: what a value of a file means, the checks on labels, and what kinds return of them."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa

from gauntlet.components.validate_data.checks import Examination, json_line, origin
from gauntlet.components.validate_data.classes import check_classes, count_classes, largest_groups
from gauntlet.components.validate_data.text import KEY_FORM, excerpt, is_blank
from gauntlet.manifests.gates import describe_resolution
from gauntlet.tasks.texts.data import (
    CheckedTexts,
    LabelledTextStatistics,
    TextFindings,
    ValueCheck,
    check_texts,
    describe_texts,
    hash_splits,
    split_content,
)
from gauntlet.tasks.texts.manifest import LabelledTextTable
from gauntlet.tasks.texts.pieces import is_missing
from gauntlet.tasks.texts.rows import TextRows

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
MAX_DIGITS = 18
SHOWN_LABELS = 10


def resolve_label(value: Any, labels: Sequence[str]) -> str | None:
    """The label's name; the value as text if it is not one of `labels`; None if it is missing.

    A value that is one of `labels`, as text, is that label in every file format: the integer 1 and the
    boolean true are the labels `1` and `true` if these are labels. If no label is a number, a whole number is
    an index into `labels`, as in files of the Hugging Face hub. Labels are compared in NFC: `é` may be one
    character or two.
    """
    if is_missing(value):
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


def describe_unknown(found: Iterable[str], labels: Sequence[str]) -> list[str]:
    """A line for each label that the manifest lacks, the most frequent first, with the nearest one."""
    counts = Counter(found).most_common()
    by_case = {label.casefold(): label for label in labels}
    lines = []
    for label, count in counts[:SHOWN_LABELS]:
        nearest = get_close_matches(label.casefold(), by_case, n=1)
        meant = f", nearest: {by_case[nearest[0]]}" if nearest else ""
        lines.append(f"label {excerpt(label)}: {count:,} row{'' if count == 1 else 's'}{meant}")
    more = len(counts) - SHOWN_LABELS
    return lines + ([f"and {more} more labels"] if more > 0 else [])


def check_labelled(
    table: TextRows, dataset: LabelledTextTable, of_labels: Mapping[str, ValueCheck]
) -> CheckedTexts:
    """Run every check, whatever the ones before it found, and carve the splits that no file provides.

    Args:
        table: As `read_table` of `texts.data` returns it.
        dataset: The manifest's section.
        of_labels: The kind's checks on single labels, by name.
    """
    checks = dataset.checks
    conflicts = ("conflicting_labels", TextFindings.conflicts)
    checked = check_texts(table, dataset, of_labels, conflicts, checks.rows_per_class.min_rows)
    check_classes(
        checked,
        dataset,
        checks.rows_per_class,
        checks.class_balance,
        lambda: largest_groups(checked.rows),
    )
    return checked


def examined(
    checked: CheckedTexts,
    statistics: LabelledTextStatistics,
    schema: pa.Schema,
    targets: Callable[[pd.DataFrame], pa.Array],
) -> Examination:
    """What `examine` returns; `targets` are those of some rows, as they are written."""
    return Examination(
        table=checked.table,
        checked=checked,
        statistics=statistics,
        content=lambda split: split_content(checked, split, schema, targets),
        fingerprints=KEY_FORM,
        resolution=describe_resolution(
            statistics.class_counts["test"].values(), tested=statistics.rows["test"]
        ),
    )


def describe_labelled(
    checked: CheckedTexts, dataset: LabelledTextTable, column: str, targets: Callable[[Any], Any]
) -> dict[str, Any]:
    """The fields of `LabelledTextStatistics`.

    `targets` makes of a value of the label `column` what stands for it in the content hash.
    """
    return {
        **origin(dataset),
        "labels": dataset.labels,
        "sha256": content_sha256(checked, dataset.labels, column, targets),
        "class_counts": count_classes(checked.rows, dataset.labels),
        **describe_texts(checked),
    }


def content_sha256(
    checked: CheckedTexts, labels: Sequence[str], column: str, targets: Callable[[Any], Any]
) -> str:
    """Hash of the rows in their order, so that it does not change with the parquet library.

    It is fed with one JSON line each: the labels, then for each split its name and its rows as
    [text, target].
    """
    found = pl.Series([json.dumps(targets(value)) for value in checked.rows[column].cat.categories])

    def lines(texts: pl.Series, rows: pd.DataFrame) -> pl.Series:
        return "[" + texts + ", " + found.gather(rows[column].cat.codes.to_numpy()) + "]\n"

    return hash_splits(checked, json_line(list(labels)), lines)
