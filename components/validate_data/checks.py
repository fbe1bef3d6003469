"""What a dataset's checks found, and the rows that are left: what every task kind's `examine` returns."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from gauntlet.components.pictures import ClassPicture
from gauntlet.components.training_rows import HashedGroups
from gauntlet.contracts.data import CheckResult, CheckVerdict, Statistics
from gauntlet.manifests.dataset import Dataset, RowCheck, SplitName

SHOWN_EXAMPLES = 5
BOUND_STEPS = 1_000
TEXT_COLUMNS = ("text", "opening", "shown")
"""The first of these columns that a table has represents its rows."""


class ReadTable(Protocol):
    """A table as it was read, as a `pandas.DataFrame` is one; its texts may be on disk."""

    @property
    def columns(self) -> Any:
        """The names of the columns."""

    @property
    def loc(self) -> Any:
        """All columns of some rows by their index, as a `pandas.DataFrame`: `table.loc[rows]`."""


Reasons = Callable[[Any, "pd.Index[int]"], Sequence[str]]
"""In words, what is wrong with each of some rows, given the table as it was read and their index in it."""

SplitContent: TypeAlias = pa.Table | pa.RecordBatchReader | Mapping[str, npt.NDArray[Any]]
"""The rows of a split: a table, in pieces or not, which is written as parquet, or arrays by name (npz)."""


@dataclass(frozen=True)
class Alike:
    """Rows that are alike, as positions in the table's index.

    Attributes:
        similarity: That of two rows; None of rows with one key.
        labels: What each row is to be answered with, in words; by default the table's `label`.
    """

    rows: tuple[int, ...]
    similarity: float | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """Rows that a check on single rows found, as positions in the table's index.

    Attributes:
        affected: The rows that count against the bound; `drop` may remove the `removable` ones of them.
        examples: Some of them in words.
        column: The column whose value is at fault; None if it is what represents the row.
        reasons: What is wrong with each row; None if the name of the check says it.
        alike: Of a check that compares rows, those that are most alike.
    """

    affected: pd.Index[int]
    removable: pd.Index[int]
    examples: Sequence[str]
    column: str | None = None
    reasons: Reasons | None = None
    alike: tuple[Alike, ...] = ()


@dataclass
class CheckedTable:
    """The rows that are left after the checks so far, each in its split, and the results of these checks.

    Attributes:
        rows_read: Before any check.
        findings: The rows that each check on single rows found, by its name.
        groups: The name of the group of near-duplicates of every key that was read, also of dropped rows.
    """

    rows: pd.DataFrame
    rows_read: int
    results: list[CheckResult] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)
    groups: Mapping[str, str] | HashedGroups = field(default_factory=dict)

    def check(
        self, name: str, rule: RowCheck, find: Callable[[pd.DataFrame], Finding], unusable: bool = False
    ) -> None:
        """Judge the rows that `find` finds. `drop` removes them, and `unusable` ones always leave."""
        finding = find(self.rows)
        dropped = finding.removable if rule.severity == "drop" else finding.removable[:0]
        leaving = finding.affected if unusable else dropped
        self.results.append(judge_rows(name, rule, finding, self.rows_read, dropped=len(leaving)))
        self.findings[name] = finding
        if len(leaving):
            self.rows = self.rows[~np.isin(self.rows.index, leaving)]

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        """The checks that stop the run."""
        return tuple(result for result in self.results if result.verdict == "fail")

    @property
    def warned(self) -> tuple[CheckResult, ...]:
        """The checks that exceeded their bound but let the run continue."""
        return tuple(result for result in self.results if result.verdict == "warn")


@dataclass(frozen=True)
class Examination:
    """A dataset that was read and checked.

    Attributes:
        table: The rows as they were read, with their `place` and a column that represents them.
        content: The rows of a split as they are written; called only if no check failed.
        fingerprints: The kind of the rows' fingerprints; it changes when the rules for keys change.
        resolution: In words, the smallest difference between two models that the test split can show.
        pictures: Rows of each class for the report, if they are images.
        picture: A PNG in a data URI of the row with a position in the table's index, if rows are images.
        groups: The values of `label` in their order, if the statistics have no labels.
        fault: Why the splits cannot be used although no check failed, in words, or None.
    """

    table: ReadTable
    checked: CheckedTable
    statistics: Statistics
    content: Callable[[SplitName], SplitContent]
    fingerprints: str
    resolution: str
    pictures: tuple[ClassPicture, ...] = ()
    picture: Callable[[int], str] | None = None
    groups: tuple[str, ...] = ()
    fault: str | None = None


def judge_rows(name: str, rule: RowCheck, finding: Finding, rows_read: int, dropped: int) -> CheckResult:
    """Compare the number of affected rows with the bound; above it, `drop` fails like `fail`."""
    affected = len(finding.affected)
    fraction = affected / rows_read
    verdict: CheckVerdict = "pass"
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
        settings=_passing_settings(name, rule, fraction) if verdict == "fail" else {},
    )


def _passing_settings(name: str, rule: RowCheck, fraction: float) -> dict[str, Any]:
    key = f"dataset.checks.{name}"
    bound = math.ceil(fraction * BOUND_STEPS) / BOUND_STEPS
    severity = {} if rule.severity == "drop" else {f"{key}.severity": "drop"}
    return {**severity, f"{key}.max_fraction": bound}


def percent(fraction: float) -> str:
    """Three significant digits, so that one row of 16,000 is not shown as 0 %."""
    return f"{100 * fraction:.3g} %"


def origin(dataset: Dataset) -> dict[str, Any]:
    """The fields of `Statistics` that say where the data come from."""
    return dataset.model_dump(mode="json", include={"name", "version", "commit_hash", "created", "uri"})


def json_line(value: object) -> bytes:
    """One line of JSON, as the content hashes of the splits are fed with."""
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
