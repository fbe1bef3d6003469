"""Every check of an image dataset's `checks`, in order, on one table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.components.validate_data.carving import carve, group_names
from gauntlet.components.validate_data.classes import check_class_balance, check_rows_per_class, count_classes
from gauntlet.components.validate_data.duplicates import (
    Likeness,
    find_conflicts,
    find_exact,
    find_leaks,
    outside_test,
)
from gauntlet.components.validate_data.findings import SHOWN_EXAMPLES, Finding
from gauntlet.components.validate_data.inspection import Inspecting, Inspection
from gauntlet.tasks.image_classification.manifest import ImageDataset
from gauntlet.tasks.image_classification.source import ImageTable

NOTHING_ALIKE = Likeness({})
"""No two images are alike unless they are equal."""

EQUAL = 1.0


def inspect(table: ImageTable, dataset: ImageDataset) -> Inspection:
    """Run every check, whatever the ones before it found, and carve validation from the training file.

    It is carved after the checks within a split and before the one across splits, so that what `drop`
    removes is gone by then. The index of the rows that are left is their position in `table.pixels`.

    Args:
        table: As `source.read_images` returns it.
        dataset: The manifest's section.
    """
    checks = dataset.checks
    keys = table.rows["key"].tolist()
    rows = table.rows.assign(group=group_names(keys, NOTHING_ALIKE, EQUAL))
    inspecting = Inspecting(rows, len(rows))
    # Such a row cannot be written as (image, class index), so it leaves whatever the severity.
    inspecting.check(
        "unknown_labels", checks.unknown_labels, lambda rows: find_unknown(rows, dataset), unusable=True
    )
    inspecting.check("empty_images", checks.empty_images, lambda rows: find_empty(rows, table.pixels))
    inspecting.check("conflicting_labels", checks.conflicting_labels, find_conflicts)
    inspecting.check("exact_duplicates", checks.exact_duplicates, find_exact)
    share = dataset.validation_fraction
    inspecting.rows = carve(
        inspecting.rows,
        ("validation",),
        {"train": 1 - share, "validation": share},
        checks.rows_per_class.min_rows,
    )
    inspecting.check("leakage", checks.leakage, lambda rows: find_leaks(rows, NOTHING_ALIKE, EQUAL))
    counts = count_classes(inspecting.rows, dataset.labels)
    return Inspection(
        inspecting.rows,
        (
            *inspecting.results,
            check_rows_per_class(counts, checks.rows_per_class, inspecting.rows_read),
            check_class_balance(counts, checks.class_balance, inspecting.rows_read),
        ),
        dict(zip(keys, rows["group"], strict=True)),
    )


def find_unknown(rows: pd.DataFrame, dataset: ImageDataset) -> Finding:
    """Rows whose label is the index of no class."""
    unknown = rows[~rows["label"].isin(dataset.labels)]
    examples = [
        f"{row.place}: label {row.label}, and the last of dataset.labels is {len(dataset.labels) - 1}"
        for row in unknown.head(SHOWN_EXAMPLES).itertuples()
    ]
    return Finding(unknown.index, unknown.index, examples, column="label")


def find_empty(rows: pd.DataFrame, pixels: npt.NDArray[np.uint8]) -> Finding:
    """Rows whose pixels are all the same."""
    flat = pixels[rows.index].reshape(len(rows), -1)
    empty = rows.index[flat.min(axis=1) == flat.max(axis=1)]
    examples = [
        f"{row.place}: every pixel is {pixels[row.Index].min()}"
        for row in rows.loc[empty[:SHOWN_EXAMPLES]].itertuples()
    ]
    return Finding(
        empty,
        outside_test(rows, empty),
        examples,
        reasons=lambda _, some: [f"every pixel is {pixels[row].min()}" for row in some.tolist()],
    )
