"""Find the settings of the manifest with which refused data would pass, all of them together.

Leaving rows out makes their classes smaller, so the checks on classes are run again without these rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gauntlet.components.validate_data.classes import check_class_balance, check_rows_per_class, count_classes
from gauntlet.components.validate_data.findings import CheckResult
from gauntlet.components.validate_data.inspection import Inspection
from gauntlet.manifests.dataset import Dataset, LabelledDataset

RATIO_STEPS = 10


def with_settings(inspection: Inspection, section: Dataset) -> tuple[CheckResult, ...]:
    """The results; each failed check has the settings with which its rows would pass."""
    if not inspection.failed or not isinstance(section, LabelledDataset):
        return inspection.results
    found = _class_settings(inspection, section)
    return tuple(
        replace(result, settings=found[result.check]) if result.check in found else result
        for result in inspection.results
    )


def _class_settings(inspection: Inspection, section: LabelledDataset) -> Mapping[str, Mapping[str, Any]]:
    """For each check on classes that would fail: the settings with which the remaining rows pass."""
    rows = inspection.table
    for result in inspection.failed:
        if result.finding is not None:
            rows = rows.drop(rows.index.intersection(result.finding.removable))
    counts = count_classes(rows, section.labels)
    checks: Any = section.checks  # type: ignore[attr-defined]
    settings: dict[str, dict[str, Any]] = {}
    key = "dataset.checks.rows_per_class"
    if check_rows_per_class(counts, checks.rows_per_class, 1).verdict == "fail":
        smallest = min(number for classes in counts.values() for number in classes.values())
        settings["rows_per_class"] = (
            {f"{key}.min_rows": smallest} if smallest else {f"{key}.severity": "warn"}
        )
    key = "dataset.checks.class_balance"
    if check_class_balance(counts, checks.class_balance, 1).verdict == "fail":
        train = counts["train"].values()
        ratio = math.ceil(RATIO_STEPS * max(train) / min(train)) / RATIO_STEPS if min(train) else None
        bound = {f"{key}.severity": "warn"} if ratio is None else {f"{key}.max_ratio": ratio}
        settings["class_balance"] = {**bound, **section.balancing}
    return settings
