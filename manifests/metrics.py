"""What is known of a metric by its name alone: how people read it, and whether more of it is better."""

from __future__ import annotations

import math
from typing import Any

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "mae", "centering_error"})
NOT_MEASURED = "not_measured"
"""In place of a figure: why there is none, for what cannot be measured of a kind of model."""

NAMES = {"macro_f1": "macro-F1", "weighted_f1": "weighted F1", "qwk": "QWK", "mae": "mean absolute error"}


def as_json(content: Any) -> Any:
    """The content with None for NaN and infinity, which JSON does not have: readers take it for no figure."""
    if isinstance(content, dict):
        return {key: as_json(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [as_json(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def metric_name(metric: str) -> str:
    """The metric in words: macro_f1 → macro-F1."""
    return NAMES.get(metric, metric.replace("_", " "))


def as_score(metric: str, value: float) -> float:
    """The value for which higher is better, so a loss is negated. The inverse is the function itself."""
    return -value if metric in LOWER_IS_BETTER else value
