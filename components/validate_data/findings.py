"""What a check found, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

from manifests.dataset import RowCheck

Verdict = Literal["pass", "warn", "drop", "fail"]
SHOWN_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """Rows that a row check found, as positions in the table's index.

    Attributes:
        affected: The rows that count against the bound.
        removable: Those of them that `drop` may remove.
        examples: Some of them in words.
    """

    affected: pd.Index[int]
    removable: pd.Index[int]
    examples: Sequence[str]


@dataclass(frozen=True)
class CheckResult:
    """One check's line in the checks JSON, in the report and in the terminal.

    Attributes:
        bound: The manifest's: a fraction of rows, a ratio or a number of rows.
        fraction: `rows_affected` over the rows that were read.
        found: The measured number in words, to be held against `expected`.
        key: The manifest key of the bound.
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

    def as_json(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return {**asdict(self), "examples": list(self.examples)}


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
    )


def percent(fraction: float) -> str:
    """Three significant digits, for one row of 16,000 must not read as none."""
    return f"{100 * fraction:.3g} %"
