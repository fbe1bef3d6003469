"""Every check of a card dataset's `checks`, in order, on one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd

from gauntlet.components.validate_data.carving import group_names
from gauntlet.components.validate_data.classes import check_class_balance, check_rows_per_class, count_classes
from gauntlet.components.validate_data.duplicates import find_conflicts, find_leaks, find_near, outside_test
from gauntlet.components.validate_data.findings import SHOWN_EXAMPLES, Finding
from gauntlet.components.validate_data.inspection import Inspecting, Inspection
from gauntlet.tasks.ordinal_grading.hashing import alike
from gauntlet.tasks.ordinal_grading.manifest import CardDataset
from gauntlet.tasks.ordinal_grading.source import CardTable


def inspect(table: CardTable, dataset: CardDataset) -> Inspection:
    """Run every check, whatever the ones before it found.

    The index of the rows that are left is their position in `table.pixels`.
    """
    checks = dataset.checks
    inspecting = Inspecting(table.rows, len(table.rows))
    # Such a row cannot be written as (two images, grade), so it leaves whatever the severity.
    for name, rule, column in (
        ("missing_sides", checks.missing_sides, "missing"),
        ("unreadable_images", checks.unreadable_images, "unreadable"),
        ("grade_range", checks.grade_range, "out_of_range"),
    ):
        inspecting.check(name, rule, partial(find_noted, column=column), unusable=True)
    size, aspect = checks.image_size, checks.aspect
    inspecting.check(
        "image_size", size, partial(find_sizes, is_wrong=lambda wide, high: min(wide, high) < size.min_side)
    )
    inspecting.check(
        "aspect",
        aspect,
        partial(
            find_sizes, is_wrong=lambda wide, high: not aspect.min_ratio <= wide / high <= aspect.max_ratio
        ),
    )
    inspecting.check("conflicting_grades", checks.conflicting_grades, find_conflicts)
    left = inspecting.rows
    least = min(checks.duplicates.similarity, checks.leakage.similarity)
    keys = left["key"].tolist()
    likeness = alike(keys, table.hashes[left.index], least)
    groups = dict(zip(keys, group_names(keys, likeness, checks.leakage.similarity), strict=True))
    inspecting.check(
        "duplicates",
        checks.duplicates,
        lambda rows: find_repeated(rows, find_near(rows, likeness, checks.duplicates.similarity)),
    )
    inspecting.check(
        "leakage", checks.leakage, lambda rows: find_leaks(rows, likeness, checks.leakage.similarity)
    )
    counts = count_classes(inspecting.rows, dataset.labels)
    return Inspection(
        inspecting.rows,
        (
            *inspecting.results,
            check_rows_per_class(counts, checks.rows_per_class, inspecting.rows_read),
            check_class_balance(counts, checks.class_balance, inspecting.rows_read),
        ),
        groups,
    )


def find_noted(rows: pd.DataFrame, column: str) -> Finding:
    """Rows in which reading them noted a fault."""
    faulty = rows[rows[column] != ""]
    examples = [f"{row['place']}: {row[column]}" for row in faulty.head(SHOWN_EXAMPLES).to_dict("records")]
    return Finding(
        faulty.index, faulty.index, examples, reasons=lambda table, some: table.loc[some, column].tolist()
    )


def find_sizes(rows: pd.DataFrame, is_wrong: Callable[[int, int], bool]) -> Finding:
    """Rows with a scan whose width and height are wrong."""
    wrong = rows[[any(is_wrong(*size) for size in sizes) for sizes in rows["sizes"]]]
    examples = [
        f"{row['place']}: {_sizes(row['sizes'])}" for row in wrong.head(SHOWN_EXAMPLES).to_dict("records")
    ]
    return Finding(
        wrong.index,
        outside_test(rows, wrong.index),
        examples,
        reasons=lambda table, some: [_sizes(sizes) for sizes in table.loc[some, "sizes"]],
    )


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    return f"{' and '.join(f'{wide} × {high}' for wide, high in sizes)} pixels"


def find_repeated(rows: pd.DataFrame, near: Finding) -> Finding:
    """Rows whose certificate an earlier row of their split has, and those that look like an earlier one."""
    again = rows.index[rows.duplicated(["split", "key"], keep="first")]
    affected = again.union(near.affected)
    examples = [f"{row['place']}: {row['shown']} again" for row in rows.loc[again].to_dict("records")]
    pairs = set(near.affected.tolist())

    def reasons(table: pd.DataFrame, some: pd.Index[int]) -> list[str]:
        return [
            near.reasons(table, pd.Index([row]))[0] if near.reasons and row in pairs else f"{shown} again"
            for row, shown in zip(some.tolist(), table.loc[some, "shown"], strict=True)
        ]

    return Finding(
        affected,
        outside_test(rows, affected),
        [*near.examples, *examples][:SHOWN_EXAMPLES],
        reasons=reasons,
    )
