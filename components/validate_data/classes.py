"""Checks on classes: each has enough rows in every split, and none is much smaller than another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gauntlet.components.validate_data.checks import CheckedTable
from gauntlet.contracts.data import CheckResult, CheckVerdict
from gauntlet.manifests.dataset import SPLITS, ClassBalanceCheck, LabelledDataset, RowsPerClassCheck, Severity

RATIO_STEPS = 10

SHOWN_CLASSES = 40
"""How many classes with too few rows a message names."""


def each_label(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a row for each label of a row.

    Rows have one label, `label`, unless the table has `labels`: a tuple for each row, which may be empty.
    """
    if "labels" not in table:
        return table
    return table.assign(label=table["labels"].astype("object")).explode("label").dropna(subset="label")


def count_classes(table: pd.DataFrame, labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Rows by split and label; a class or split without rows counts 0."""
    each = each_label(table)
    counts = {split: each["label"][(each["split"] == split).to_numpy()].value_counts() for split in SPLITS}
    return {split: {label: int(found.get(label, 0)) for label in labels} for split, found in counts.items()}


@dataclass(frozen=True)
class LargestGroup:
    """The largest group of near-duplicates in a class, and the split that the group is in."""

    rows: int
    of: int
    split: str


def largest_groups(table: pd.DataFrame) -> dict[str, LargestGroup]:
    """By label, of a table with `group`."""
    sizes = each_label(table).groupby(["label", "group", "split"], sort=False, observed=True).size()
    found: dict[str, LargestGroup] = {}
    for label, of_class in sizes.groupby(level="label", observed=True):
        split = of_class.index[int(of_class.to_numpy().argmax())][2]
        found[str(label)] = LargestGroup(int(of_class.max()), int(of_class.sum()), str(split))
    return found


def check_classes(
    checked: CheckedTable,
    dataset: LabelledDataset,
    rows_per_class: RowsPerClassCheck,
    class_balance: ClassBalanceCheck,
    largest: Callable[[], Mapping[str, LargestGroup]] = dict,
) -> None:
    """Run both checks after those on single rows. `largest` finds near-duplicates that stay together."""
    counts = count_classes(checked.rows, dataset.labels)
    results = [
        check_rows_per_class(counts, rows_per_class, checked.rows_read, largest),
        check_class_balance(counts, class_balance, checked.rows_read),
    ]
    if checked.failed or any(result.verdict == "fail" for result in results):
        settings = _passing_settings(checked, dataset, rows_per_class, class_balance)
        results = [
            result.model_copy(update={"settings": settings.get(result.check, {})}) for result in results
        ]
    checked.results += results


def check_rows_per_class(
    counts: dict[str, dict[str, int]],
    rule: RowsPerClassCheck,
    rows_read: int,
    largest: Callable[[], Mapping[str, LargestGroup]] = dict,
) -> CheckResult:
    """Every class needs `min_rows` rows in every split. Rows of classes with fewer are `rows_affected`.

    `largest` is called if a class has fewer.
    """
    short = [
        (split, label, rows)
        for split, classes in counts.items()
        for label, rows in classes.items()
        if rows < rule.min_rows
    ]
    affected = sum(rows for *_, rows in short)
    smallest = min(rows for classes in counts.values() for rows in classes.values())
    named = ", ".join(f"{label} has {rows} in {split}" for split, label, rows in short[:SHOWN_CLASSES])
    if len(short) > SHOWN_CLASSES:
        named += f" and {len(short) - SHOWN_CLASSES:,} more"
    tied = [
        f"{group.rows} of the {group.of} rows of {label} are near-duplicates of each other, so they stay "
        f"together, in {group.split}"
        for label, group in (largest() if short else {}).items()
        if label in {name for _, name, _ in short} and group.rows > max(1, group.of - 3 * rule.min_rows)
    ]
    named = "; ".join([named, *tied[:SHOWN_CLASSES]])
    return CheckResult(
        check="rows_per_class",
        severity=rule.severity,
        bound=rule.min_rows,
        rows_affected=affected,
        rows_dropped=0,
        fraction=affected / rows_read,
        verdict=_verdict(bool(short), rule.severity),
        found=named or f"{smallest:,} rows in the smallest",
        expected=f"at least {rule.min_rows} rows of every class in every split",
        key="dataset.checks.rows_per_class.min_rows",
        examples=tuple(f"{split}: {rows} rows of {label}" for split, label, rows in short),
    )


def check_class_balance(
    counts: dict[str, dict[str, int]], rule: ClassBalanceCheck, rows_read: int
) -> CheckResult:
    """Rows of the largest training class over those of the smallest; no ratio if the smallest has none.

    `rows_affected` are the rows of the classes that are too small.
    """
    train = counts["train"]
    largest, smallest = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
    too_small = [label for label, rows in train.items() if train[largest] > rule.max_ratio * rows]
    if train[smallest]:
        ratio = f"{train[largest] / train[smallest]:.1f}"
        found = f"{ratio} times ({largest} {train[largest]:,}, {smallest} {train[smallest]:,})"
    else:
        too_small = [label for label, rows in train.items() if not rows or label in too_small]
        found = f"no ratio, for {smallest} has no rows"
    affected = sum(train[label] for label in too_small)
    return CheckResult(
        check="class_balance",
        severity=rule.severity,
        bound=rule.max_ratio,
        rows_affected=affected,
        rows_dropped=0,
        fraction=affected / rows_read,
        verdict=_verdict(bool(too_small), rule.severity),
        found=found,
        expected=f"the largest training class at most {rule.max_ratio:g} times the smallest",
        key="dataset.checks.class_balance.max_ratio",
        examples=tuple(f"train: {train[label]} rows of {label}" for label in too_small),
    )


def _passing_settings(
    checked: CheckedTable,
    dataset: LabelledDataset,
    rows_per_class: RowsPerClassCheck,
    class_balance: ClassBalanceCheck,
) -> Mapping[str, Mapping[str, Any]]:
    """The settings with which each check passes once the rows at fault are dropped, as the report advises."""
    rows = checked.rows
    for result in checked.failed:
        if result.check in checked.findings:
            rows = rows[~np.isin(rows.index, checked.findings[result.check].removable)]
    counts = count_classes(rows, dataset.labels)
    settings: dict[str, dict[str, Any]] = {}
    key = "dataset.checks.rows_per_class"
    if check_rows_per_class(counts, rows_per_class, 1).verdict == "fail":
        smallest = min(number for classes in counts.values() for number in classes.values())
        settings["rows_per_class"] = (
            {f"{key}.min_rows": smallest} if smallest else {f"{key}.severity": "warn"}
        )
    key = "dataset.checks.class_balance"
    if check_class_balance(counts, class_balance, 1).verdict == "fail":
        train = counts["train"].values()
        ratio = math.ceil(RATIO_STEPS * max(train) / min(train)) / RATIO_STEPS if min(train) else None
        bound = {f"{key}.severity": "warn"} if ratio is None else {f"{key}.max_ratio": ratio}
        settings["class_balance"] = {**bound, **dataset.balancing}
    return settings


def _verdict(broken: bool, severity: Severity) -> CheckVerdict:
    return severity if broken else "pass"
