"""What the checks of a dataset found, and the rows that are left after them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from gauntlet.components.validate_data.findings import CheckResult, Finding, judge_rows
from gauntlet.manifests.dataset import RowCheck


@dataclass(frozen=True)
class Inspection:
    """The rows that are left, each in its split, and one result per check.

    Attributes:
        groups: The name of the group of near-duplicates of every key that was read, also of dropped rows.
    """

    table: pd.DataFrame
    results: tuple[CheckResult, ...]
    groups: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that stop the run."""
        return tuple(result for result in self.results if result.verdict == "fail")

    @property
    def warned(self) -> tuple[CheckResult, ...]:
        """The checks that exceeded their bound but let the run continue."""
        return tuple(result for result in self.results if result.verdict == "warn")


@dataclass
class Inspecting:
    """A table on its way through the checks, whatever the ones before found."""

    rows: pd.DataFrame
    rows_read: int
    results: list[CheckResult] = field(default_factory=list)

    def check(
        self, name: str, rule: RowCheck, find: Callable[[pd.DataFrame], Finding], unusable: bool = False
    ) -> None:
        """Judge what `find` finds among the rows; they leave when the rule is to drop them, or `unusable`."""
        finding = find(self.rows)
        leaving = finding.removable if unusable or rule.severity == "drop" else finding.removable[:0]
        self.results.append(judge_rows(name, rule, finding, self.rows_read, dropped=len(leaving)))
        self.rows = self.rows.drop(leaving)
