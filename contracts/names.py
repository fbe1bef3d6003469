"""Names of files that one step writes and another reads."""

from __future__ import annotations

STATISTICS_FILE = "statistics.json"
"""In the folder of the splits; written last, so its presence says that the splits are complete."""

REJECTED_FILE = "rejected.csv"
