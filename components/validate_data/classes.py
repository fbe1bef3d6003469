"""Checks on classes: enough rows of each in every split, and no class drowned by another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from gauntlet.components.validate_data.findings import CheckResult, Verdict
from gauntlet.manifests.dataset import SPLITS, ClassBalanceCheck, RowsPerClassCheck, Severity


def count_classes(table: pd.DataFrame, labels: Sequence[str]) -> dict[str, dict[str, int]]:
    """Rows by split and label; a class or split without rows counts 0."""
    counts = Counter(zip(table["split"].tolist(), table["label"].tolist(), strict=True))
    return {split: {label: counts[split, label] for label in labels} for split in SPLITS}


@dataclass(frozen=True)
class LargestGroup:
    """The largest group of near-duplicates in a class, and the split that the group is in."""

    rows: int
    of: int
    split: str


def largest_groups(table: pd.DataFrame) -> dict[str, LargestGroup]:
    """By label, of a table with `group`."""
    sizes = table.groupby(["label", "group", "split"], sort=False).size()
    found: dict[str, LargestGroup] = {}
    for label, of_class in sizes.groupby(level="label"):
        split = of_class.index[int(of_class.to_numpy().argmax())][2]
        found[str(label)] = LargestGroup(int(of_class.max()), int(of_class.sum()), str(split))
    return found


def check_rows_per_class(
    counts: dict[str, dict[str, int]],
    rule: RowsPerClassCheck,
    rows_read: int,
    largest: Mapping[str, LargestGroup] | None = None,
) -> CheckResult:
    """Every class needs `min_rows` rows in every split. `rows_affected` are the rows of the short ones.

    `largest` has the near-duplicates that keep a class from being divided.
    """
    short = [
        (split, label, rows)
        for split, classes in counts.items()
        for label, rows in classes.items()
        if rows < rule.min_rows
    ]
    affected = sum(rows for *_, rows in short)
    smallest = min(rows for classes in counts.values() for rows in classes.values())
    named = ", ".join(f"{label} has {rows} in {split}" for split, label, rows in short)
    tied = [
        f"{group.rows} of the {group.of} rows of {label} are near-duplicates of each other, so they stay "
        f"together, in {group.split}"
        for label, group in (largest or {}).items()
        if label in {name for _, name, _ in short} and group.rows > max(1, group.of - 3 * rule.min_rows)
    ]
    named = "; ".join([named, *tied])
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
    """Rows of the largest training class over those of the smallest; without rows there is no ratio.

    `rows_affected` are the rows of the classes that are too small beside the largest.
    """
    train = counts["train"]
    largest, smallest = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
    drowned = [label for label, rows in train.items() if train[largest] > rule.max_ratio * rows]
    if train[smallest]:
        ratio = f"{train[largest] / train[smallest]:.1f}"
        found = f"{ratio} times ({largest} {train[largest]:,}, {smallest} {train[smallest]:,})"
    else:
        drowned = [label for label, rows in train.items() if not rows or label in drowned]
        found = f"no ratio, for {smallest} has no rows"
    affected = sum(train[label] for label in drowned)
    return CheckResult(
        check="class_balance",
        severity=rule.severity,
        bound=rule.max_ratio,
        rows_affected=affected,
        rows_dropped=0,
        fraction=affected / rows_read,
        verdict=_verdict(bool(drowned), rule.severity),
        found=found,
        expected=f"the largest training class at most {rule.max_ratio:g} times the smallest",
        key="dataset.checks.class_balance.max_ratio",
        examples=tuple(f"train: {train[label]} rows of {label}" for label in drowned),
    )


def _verdict(broken: bool, severity: Severity) -> Verdict:
    return severity if broken else "pass"
