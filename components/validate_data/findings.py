"""What a check found, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pandas as pd

from gauntlet.manifests.dataset import RowCheck

Verdict = Literal["pass", "warn", "drop", "fail"]
SHOWN_EXAMPLES = 5
BOUND_STEPS = 1_000

Reasons = Callable[[pd.DataFrame, "pd.Index[int]"], Sequence[str]]
"""In words, what is wrong with each of some rows, given the table as read and their index in it."""


@dataclass(frozen=True)
class Finding:
    """Rows that a row check found, as positions in the table's index.

    Attributes:
        affected: The rows that count against the bound.
        removable: Those of them that `drop` may remove.
        examples: Some of them in words.
        column: The column whose value is at fault; None: the row's text, or what else it shows.
        reasons: What is wrong with each row; None if the name of the check says it.
    """

    affected: pd.Index[int]
    removable: pd.Index[int]
    examples: Sequence[str]
    column: str | None = None
    reasons: Reasons | None = None


@dataclass(frozen=True)
class CheckResult:
    """One check's line in the checks JSON, in the report and in the terminal.

    Attributes:
        bound: The manifest's: a fraction of rows, a ratio or a number of rows.
        fraction: `rows_affected` over the rows that were read.
        found: The measured number in words, to be held against `expected`.
        key: The manifest key of the bound.
        settings: Manifest keys and values with which the data would pass unchanged.
        finding: The rows, of a check on single rows; not among the JSON.
    """

    check: str
    severity: str
    bound: float
    rows_affected: int
    rows_dropped: int
    fraction: float
    verdict: Verdict
    found: str
    expected: str
    key: str
    examples: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    finding: Finding | None = field(default=None, repr=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """The fields as plain JSON types, without the rows."""
        content = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "finding"}
        return {**content, "examples": list(self.examples), "settings": dict(self.settings)}


def judge_rows(name: str, rule: RowCheck, finding: Finding, rows_read: int, dropped: int) -> CheckResult:
    """Hold the number of affected rows against the bound; over it, `drop` fails like `fail`."""
    affected = len(finding.affected)
    fraction = affected / rows_read
    verdict: Verdict = "pass"
    if fraction > rule.max_fraction:
        verdict = "warn" if rule.severity == "warn" else "fail"
    elif affected and rule.severity == "drop":
        verdict = "drop"
    return CheckResult(
        check=name,
        severity=rule.severity,
        bound=rule.max_fraction,
        rows_affected=affected,
        rows_dropped=dropped,
        fraction=fraction,
        verdict=verdict,
        found=f"{affected:,} row{'' if affected == 1 else 's'} ({percent(fraction)})",
        expected=f"at most {percent(rule.max_fraction)} of the rows",
        key=f"dataset.checks.{name}.max_fraction",
        examples=tuple(finding.examples),
        settings=_letting_through(name, rule, fraction) if verdict == "fail" else {},
        finding=finding,
    )


def _letting_through(name: str, rule: RowCheck, fraction: float) -> dict[str, Any]:
    """The settings with which the check passes: they leave out the rows that may be left out."""
    key = f"dataset.checks.{name}"
    bound = math.ceil(fraction * BOUND_STEPS) / BOUND_STEPS
    severity = {} if rule.severity == "drop" else {f"{key}.severity": "drop"}
    return {**severity, f"{key}.max_fraction": bound}


def percent(fraction: float) -> str:
    """Three significant digits, for one row of 16,000 must not read as none."""
    return f"{100 * fraction:.3g} %"
