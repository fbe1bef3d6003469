"""The evaluation as tables: metrics with their intervals, classes beside the champion's, the confusion."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gauntlet.components.write_report.artifacts import Figure, Interval
from gauntlet.components.write_report.charts import Tick, nice_ticks, tick_labels
from gauntlet.components.write_report.figures import is_figure
from gauntlet.components.write_report.scores import ClassScore, Scored, Scores

METRICS = {"macro_f1": "Macro-F1", "weighted_f1": "Weighted F1", "accuracy": "Accuracy"}
AXIS_TICKS = 3


@dataclass(frozen=True)
class Whisker:
    """A value and its interval as percentages of the axis' width."""

    low: float
    at: float
    high: float


@dataclass(frozen=True)
class MetricRow:
    """A metric of both models; the whiskers of all rows share one axis."""

    name: str
    challenger: Figure
    interval: Interval | None
    whisker: Whisker | None
    champion: Figure
    champion_interval: Interval | None
    champion_whisker: Whisker | None
    difference: Figure


@dataclass(frozen=True)
class MetricTable:
    """The metrics and the axis that their whiskers are drawn on."""

    rows: tuple[MetricRow, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class ClassRow:
    """A class of the challenger, and the champion's F1 of the same class."""

    score: ClassScore
    champion_f1: Figure
    difference: Figure
    interval: Interval | None


@dataclass(frozen=True)
class Cell:
    """A count of the confusion matrix; `share` is of its true class's rows.

    `shade` is the square root of `share`, or single mistakes would not be seen.
    """

    count: int
    share: float
    shade: float
    is_correct: bool


Matrix = tuple[tuple[Cell, ...], ...]


def metric_table(scores: Scores) -> MetricTable:
    """Each metric that the challenger has."""
    models = [scores.challenger, *([scores.champion] if scores.champion else [])]
    shown = [edge for model in models for metric in METRICS for edge in _edges(model, metric)]
    if not shown:
        return MetricTable((), ())
    values = nice_ticks(min(shown), max(shown), AXIS_TICKS)
    axis = (values[0], values[-1])
    rows = tuple(
        _metric_row(scores, metric, title, axis)
        for metric, title in METRICS.items()
        if is_figure(getattr(scores.challenger, metric))
    )
    labels = zip(values, tick_labels(values), strict=True)
    return MetricTable(rows, tuple(Tick(_share(value, axis), label) for value, label in labels))


def class_rows(scores: Scores) -> tuple[ClassRow, ...]:
    """Each class of the challenger, in its order."""
    champion = {score.label: score.f1 for score in scores.champion.per_class} if scores.champion else {}
    differences = scores.paired.class_f1_difference if scores.paired else {}
    intervals = scores.paired.class_f1_intervals if scores.paired else {}
    return tuple(
        ClassRow(score, champion.get(score.label), differences.get(score.label), intervals.get(score.label))
        for score in scores.challenger.per_class
    )


def confusions(scores: Scores) -> tuple[tuple[str, Matrix], ...]:
    """The titled confusion matrices of both models, without those that are absent or of other labels."""
    titled = [("Confusion", scores.challenger)]
    if scores.champion is not None:
        titled.append((f"Confusion of the champion, version {scores.champion.version}", scores.champion))
    size = len(scores.labels)
    return tuple(
        (title, shaded(model))
        for title, model in titled
        if model.confusion and {len(model.confusion), *map(len, model.confusion)} == {size}
    )


def shaded(scored: Scored) -> Matrix:
    """The confusion matrix with the share of each cell in its row; an empty class has shares of 0."""
    return tuple(
        tuple(_cell(number, sum(row), is_correct=true == predicted) for predicted, number in enumerate(row))
        for true, row in enumerate(scored.confusion)
    )


def _cell(number: int, rows: int, is_correct: bool) -> Cell:
    share = number / rows if rows else 0.0
    return Cell(number, share, round(math.sqrt(share), 4), is_correct)


def _metric_row(scores: Scores, metric: str, title: str, axis: tuple[float, float]) -> MetricRow:
    challenger, champion = scores.challenger, scores.champion
    ours: Figure = getattr(challenger, metric)
    theirs: Figure = getattr(champion, metric) if champion else None
    compared: Figure = getattr(scores.challenger_on_clean_rows or challenger, metric)
    return MetricRow(
        name=title,
        challenger=ours,
        interval=challenger.intervals.get(metric),
        whisker=_whisker(challenger, metric, axis),
        champion=theirs,
        champion_interval=champion.intervals.get(metric) if champion else None,
        champion_whisker=_whisker(champion, metric, axis) if champion else None,
        difference=compared - theirs if is_figure(compared) and is_figure(theirs) else None,
    )


def _edges(model: Scored, metric: str) -> list[float]:
    return [edge for edge in (getattr(model, metric), *model.intervals.get(metric, ())) if is_figure(edge)]


def _whisker(model: Scored, metric: str, axis: tuple[float, float]) -> Whisker | None:
    at: Figure = getattr(model, metric)
    low, high = model.intervals.get(metric, (None, None))
    if not is_figure(at):
        return None
    return Whisker(
        low=_share(low if is_figure(low) else at, axis),
        at=_share(at, axis),
        high=_share(high if is_figure(high) else at, axis),
    )


def _share(value: float, axis: tuple[float, float]) -> float:
    return round(100 * (value - axis[0]) / (axis[1] - axis[0]), 2)
