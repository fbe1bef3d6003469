"""A dataset of any task that was read and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gauntlet.components.validate_data.inspection import Inspection


@dataclass(frozen=True)
class Examination:
    """The findings of the checks, and the rows that are passed on if no check failed.

    Attributes:
        rows_read: Before any check.
        rows: Those that are kept, by split.
        fingerprints: The kind of the rows' fingerprints; it changes when the rules for keys change.
        resolution: In words, the smallest difference between two models that the test split can show.
        report: The HTML page.
        write_splits: Writes the splits and their statistics into a folder.
        table: The rows as they were read, with what a row shows and its `place`.
        require_enough: Raises DataError where a split has too few rows, and no check says so.
    """

    inspection: Inspection
    rows_read: int
    rows: Mapping[str, int]
    fingerprints: str
    resolution: str
    report: str
    write_splits: Callable[[Path], None]
    table: pd.DataFrame
    require_enough: Callable[[], None] = lambda: None
