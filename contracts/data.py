"""What fingerprint-data and validate-data write: sources, checks, and the statistics of the splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from gauntlet.contracts.document import Document

STATISTICS_FILE = "statistics.json"
"""In the folder of the splits; written last, so its presence says that the splits are complete."""

REJECTED_FILE = "rejected.csv"

SNAPSHOT_MARK = "@"
"""Before the time at which tables of BigQuery were fingerprinted, at the end of the fingerprint."""

CheckVerdict = Literal["pass", "warn", "drop", "fail"]


class Sources(Document):
    """The output `sources` of fingerprint-data.

    Attributes:
        fingerprint: Changes when a file of the dataset does, or its section of the manifest.
        files: The identity of each file by its URI; None for one that is not there.
        fault: Why the files could not be found or read; `fingerprint` is then unique to the run.
    """

    written_by: ClassVar[str] = "fingerprint-data"

    fingerprint: str
    files: Mapping[str, str | None] = Field(default_factory=dict)
    fault: str | None = None


class CheckResult(Document):
    """One check of the data.

    Attributes:
        bound: The manifest's: a fraction of rows, a ratio or a number of rows; `key` is its key.
        fraction: `rows_affected` over the rows that were read.
        found: The measured number in words, to be compared with `expected`.
        settings: Manifest keys and values with which the data would pass unchanged.
    """

    check: str
    severity: str = ""
    bound: int | float | None = None
    rows_affected: int | None = None
    rows_dropped: int | None = None
    fraction: float | None = None
    verdict: CheckVerdict
    found: str = ""
    expected: str = ""
    key: str = ""
    examples: tuple[str, ...] = ()
    settings: Mapping[str, Any] = Field(default_factory=dict)


class Checks(Document):
    """The output `checks` of validate-data. `rejected` counts the lines in the file of rejected rows.

    `resolution` says the smallest difference between two models that the test split can show.
    """

    written_by: ClassVar[str] = "validate-data"

    passed: bool
    checks: tuple[CheckResult, ...] = ()
    rejected: int = 0
    resolution: str = ""


class Statistics(Document):
    """`statistics.json` in the folder of the splits: what later steps need, and the baseline for drift.

    Attributes:
        sha256: Of the rows of the three splits in their order.
        labels: Class names in the order of the class indices; none if the kind has no classes.
        rows: By split.
    """

    written_by: ClassVar[str] = "validate-data"
    omits_none: ClassVar[bool] = True
    origin: ClassVar[frozenset[str]] = frozenset({"name", "version", "commit_hash", "created", "uri"})
    """The fields that say where the rows come from; no later step's result depends on them."""

    name: str
    version: str
    commit_hash: str | None = None
    created: str | None = None
    uri: str
    labels: tuple[str, ...] = ()
    sha256: str
    rows: Mapping[str, int]


class ClassStatistics(Statistics):
    """Statistics of rows with classes. `class_counts` are rows by split and label."""

    class_counts: Mapping[str, Mapping[str, int]]
