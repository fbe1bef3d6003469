"""Every check of a text dataset's `checks`, in order, on one table."""

from __future__ import annotations

import pandas as pd

from gauntlet.components.validate_data.carving import carve, group_names
from gauntlet.components.validate_data.classes import (
    check_class_balance,
    check_rows_per_class,
    count_classes,
    largest_groups,
)
from gauntlet.components.validate_data.duplicates import find_conflicts, find_exact, find_leaks, find_near
from gauntlet.components.validate_data.inspection import Inspecting, Inspection
from gauntlet.components.validate_data.text import excerpt, normalise
from gauntlet.components.validate_data.times import with_times
from gauntlet.manifests.dataset import SPLITS
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.text_classification.tokens import check_tokens
from gauntlet.tasks.text_classification.values import check_values
from gauntlet.tasks.texts.similarity import likeness_among


def inspect(table: pd.DataFrame, dataset: TextDataset) -> Inspection:
    """Run every check, whatever the ones before it found, and carve the splits that no file provides.

    Missing splits are carved after the checks within a split and before the one across splits, so that
    what `drop` removes is gone by then.

    Args:
        table: As `source.read_table` returns it.
        dataset: The manifest's section.
    """
    checks = dataset.checks
    missing = tuple(split for split in SPLITS if split not in set(table["split"]))
    rows, results = check_values(table, dataset)
    inspecting = Inspecting(rows, len(table), results)
    check_tokens(inspecting, dataset)
    rows = inspecting.rows.assign(
        key=[normalise(text) for text in inspecting.rows["text"]],
        shown=[excerpt(text) for text in inspecting.rows["text"]],
    )
    rows = with_times(rows, dataset.uri) if missing else rows
    near, leaking = checks.near_duplicates.similarity, checks.leakage.similarity
    likeness = likeness_among(list(dict.fromkeys(rows["key"])), min(near, leaking))
    inspecting.rows = rows.assign(group=group_names(rows["key"].tolist(), likeness, leaking))
    groups = dict(zip(rows["key"], inspecting.rows["group"], strict=True))
    inspecting.check("conflicting_labels", checks.conflicting_labels, find_conflicts)
    inspecting.check("exact_duplicates", checks.exact_duplicates, find_exact)
    inspecting.check("near_duplicates", checks.near_duplicates, lambda left: find_near(left, likeness, near))
    fractions = {split: getattr(dataset.split, split) for split in SPLITS}
    inspecting.rows = carve(
        inspecting.rows, missing, fractions, checks.rows_per_class.min_rows, dataset.split.key
    )
    inspecting.check("leakage", checks.leakage, lambda left: find_leaks(left, likeness, leaking))
    counts = count_classes(inspecting.rows, dataset.labels)
    ties = largest_groups(inspecting.rows)
    return Inspection(
        inspecting.rows,
        (
            *inspecting.results,
            check_rows_per_class(counts, checks.rows_per_class, len(table), ties),
            check_class_balance(counts, checks.class_balance, len(table)),
        ),
        groups,
    )
