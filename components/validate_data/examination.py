"""A dataset that was read and checked, of whichever task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from components.validate_data.inspection import Inspection


@dataclass(frozen=True)
class Examination:
    """What the checks found, and what is handed on when none of them failed.

    Attributes:
        rows_read: Before any check.
        rows: Those that are kept, by split.
        report: The HTML page.
        write_splits: Writes the splits and their statistics into a folder.
        table: The rows as they were read, with what a row shows and its `place`.
    """

    inspection: Inspection
    rows_read: int
    rows: Mapping[str, int]
    report: str
    write_splits: Callable[[Path], None]
    table: pd.DataFrame
