"""Texts with labels: what a value of a file means, the checks on labels, and what kinds return of them."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

import pandas as pd
import pyarrow as pa

from gauntlet.components.validate_data.checks import CheckedTable, Examination, json_line, origin
from gauntlet.components.validate_data.classes import check_classes, count_classes, largest_groups
from gauntlet.components.validate_data.duplicates import find_conflicts
from gauntlet.components.validate_data.text import KEY_FORM, excerpt, is_blank
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.manifests.gates import describe_resolution
from gauntlet.tasks.texts.data import (
    LabelledTextStatistics,
    ValueCheck,
    check_texts,
    describe_texts,
    is_missing,
)
from gauntlet.tasks.texts.manifest import LabelledTextTable

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
    table: pd.DataFrame, dataset: LabelledTextTable, of_labels: Mapping[str, ValueCheck]
) -> CheckedTable:
    """Run every check, whatever the ones before it found, and carve the splits that no file provides.

    Args:
        table: As `read_table` of `texts.data` returns it.
        dataset: The manifest's section.
        of_labels: The kind's checks on single labels, by name.
    """
    checks = dataset.checks
    conflicts = ("conflicting_labels", find_conflicts)
    checked = check_texts(table, dataset, of_labels, conflicts, checks.rows_per_class.min_rows)
    check_classes(checked, dataset, checks.rows_per_class, checks.class_balance, largest_groups(checked.rows))
    return checked


def examined(
    table: pd.DataFrame,
    checked: CheckedTable,
    statistics: LabelledTextStatistics,
    content: Callable[[pd.DataFrame, Sequence[str]], pa.Table],
) -> Examination:
    """What `examine` returns; `content` makes what is written of some rows and the labels."""
    return Examination(
        table=table,
        checked=checked,
        statistics=statistics,
        content=lambda split: content(checked.rows[checked.rows["split"] == split], statistics.labels),
        fingerprints=KEY_FORM,
        resolution=describe_resolution(
            statistics.class_counts["test"].values(), tested=statistics.rows["test"]
        ),
    )


def describe_labelled(
    table: pd.DataFrame,
    dataset: LabelledTextTable,
    targets: Callable[[pd.DataFrame, Sequence[str]], Iterable[Any]],
) -> dict[str, Any]:
    """The fields of `LabelledTextStatistics`, of a table of `text`, labels, `key` and `split`.

    `targets` are those of some rows, given the labels, in the form in which `content_sha256` reads them.
    """
    by_split = {split: table[table["split"] == split] for split in SPLITS}
    return {
        **origin(dataset),
        "labels": dataset.labels,
        "sha256": content_sha256(by_split, dataset.labels, targets),
        "class_counts": count_classes(table, dataset.labels),
        **describe_texts(table),
    }


def content_sha256(
    splits: Mapping[SplitName, pd.DataFrame],
    labels: Sequence[str],
    targets: Callable[[pd.DataFrame, Sequence[str]], Iterable[Any]],
) -> str:
    """Hash of the rows in their order, so that it does not change with the parquet library.

    It is fed with one JSON line each: the labels, then for each split its name and its rows as
    [text, target]. `targets` are those of some rows, given the labels.
    """
    digest = hashlib.sha256(json_line(list(labels)))
    for split in SPLITS:
        digest.update(json_line(split))
        rows = splits[split]
        for text, target in zip(rows["text"], targets(rows, labels), strict=True):
            digest.update(json_line([text, target]))
    return digest.hexdigest()
