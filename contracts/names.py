"""Names that one step writes and another reads."""

from __future__ import annotations

STATISTICS_FILE = "statistics.json"
"""In the folder of the splits; written last, so its presence says that the splits are complete."""

REJECTED_FILE = "rejected.csv"

NOT_MEASURED = "not_measured"
"""In place of a figure: why there is none, for what cannot be measured of a kind of model."""
