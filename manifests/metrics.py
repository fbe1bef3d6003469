"""What is known of a metric by its name alone: how people read it, and whether more of it is better."""

from __future__ import annotations

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "mae", "centering_error"})
NOT_MEASURED = "not_measured"
"""In place of a figure: why there is none, for what cannot be measured of a kind of model."""

NAMES = {"macro_f1": "macro-F1", "weighted_f1": "weighted F1", "qwk": "QWK", "mae": "mean absolute error"}


def metric_name(metric: str) -> str:
    """The metric in words: macro_f1 → macro-F1."""
    return NAMES.get(metric, metric.replace("_", " "))


def as_score(metric: str, value: float) -> float:
    """The value for which higher is better, so a loss is negated. The inverse is the function itself."""
    return -value if metric in LOWER_IS_BETTER else value
