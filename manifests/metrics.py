"""Figures in documents between steps."""

from __future__ import annotations

import math
from typing import Any

NOT_MEASURED = "not_measured"
"""In place of a figure: why there is none, for what cannot be measured of a kind of model."""


def as_json(content: Any) -> Any:
    """The content with None for NaN and infinity, which JSON does not have: readers take it for no figure."""
    if isinstance(content, dict):
        return {key: as_json(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [as_json(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
