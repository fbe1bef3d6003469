"""Every check of `dataset.checks`, in order, on one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from components.validate_data.carving import carve
from components.validate_data.classes import check_class_balance, check_rows_per_class, count_classes
from components.validate_data.duplicates import (
    Likeness,
    find_conflicts,
    find_exact,
    find_leaks,
    find_near,
)
from components.validate_data.findings import CheckResult, Finding, judge_rows
from components.validate_data.source import SPLITS
from components.validate_data.text import normalise
from components.validate_data.values import check_values
from manifests.text_classification import TextDataset


@dataclass(frozen=True)
class Inspection:
    """The rows that are left, each in its split, and one result per check."""

    table: pd.DataFrame
    results: tuple[CheckResult, ...]

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that stop the run."""
        return tuple(result for result in self.results if result.verdict == "fail")


def inspect(table: pd.DataFrame, dataset: TextDataset, seed: int) -> Inspection:
    """Run every check, whatever the ones before it found, and carve the splits that no file provides.

    Missing splits are carved after the checks within a split and before the one across splits, so that
    what `drop` removes is gone by then.

    Args:
        table: As `source.read_table` returns it.
        dataset: The manifest's section.
        seed: For the carving.
    """
    checks = dataset.checks
    rows_read = len(table)
    missing = tuple(split for split in SPLITS if split not in set(table["split"]))
    rows, results = check_values(table, dataset)
    rows = rows.assign(key=[normalise(text) for text in rows["text"]])
    likeness = Likeness.among(
        list(dict.fromkeys(rows["key"])), min(checks.near_duplicates.similarity, checks.leakage.similarity)
    )

    def check(name: str, find: Callable[[pd.DataFrame], Finding]) -> None:
        nonlocal rows
        rule = getattr(checks, name)
        finding = find(rows)
        leaving = finding.removable if rule.severity == "drop" else finding.removable[:0]
        results.append(judge_rows(name, rule, finding, rows_read, dropped=len(leaving)))
        rows = rows.drop(leaving)

    check("conflicting_labels", find_conflicts)
    check("exact_duplicates", find_exact)
    check("near_duplicates", lambda left: find_near(left, likeness, checks.near_duplicates.similarity))
    rows = carve(rows, missing, dataset.split, likeness, checks.leakage.similarity, seed)
    check("leakage", lambda left: find_leaks(left, likeness, checks.leakage.similarity))
    counts = count_classes(rows, dataset.labels)
    results.append(check_rows_per_class(counts, checks.rows_per_class, rows_read))
    results.append(check_class_balance(counts, checks.class_balance, rows_read))
    return Inspection(rows, tuple(results))
