"""What pages show of a classifier's evaluation, a grader's too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from gauntlet.components.write_report.comparison import Evaluated, Paired
from gauntlet.components.write_report.sections import Column
from gauntlet.contracts.data import ClassStatistics
from gauntlet.manifests.kinds import known_metric
from gauntlet.pages import charts
from gauntlet.pages.formatting import (
    capitalize_first,
    count,
    decimal,
    is_figure,
    minus,
    percent,
    signed,
    words,
)
from gauntlet.pages.page import Cell, Masthead, Section, Tile, partial, render
from gauntlet.tasks.classification.scores import Scored, Scores

__all__ = ["CANDIDATE_COLUMNS", "SCORES", "compare", "evaluation", "metrics", "tiles"]
"""What the report of a kind with classes takes from here with `import *`."""

SCORES = Scores
CANDIDATE_COLUMNS = (
    Column("Same label", lambda candidate: percent(candidate.figures.get("label_agreement"), 1)),
    Column(
        "Macro-F1",
        lambda candidate: decimal(candidate.figures.get("macro_f1"), 4),
        lambda pytorch: decimal(pytorch.figures.get("macro_f1"), 4),
    ),
    Column("Drop, 95 % interval", lambda candidate: _drop(candidate.figures)),
)
EVALUATION = "gauntlet.tasks.classification:report.html.jinja#evaluation"
SHOWN_CLASSES = 60
METRICS = ("macro_f1", "micro_f1", "weighted_f1", "accuracy")
GRADE_METRICS = ("qwk", "mae", "within_one")

Figure = float | None
Interval = tuple[Figure, Figure]


@dataclass(frozen=True)
class MetricRow:
    """A metric of both models; the difference is that on the rows that both are compared on."""

    name: str
    ours: Figure
    interval: Interval | None
    theirs: Figure
    their_interval: Interval | None
    difference: Figure
    better: int


def evaluation_page(scores: Scores, name: str) -> str:
    """The page of evaluate-model for the system `name`."""
    quality, *_ = tiles(scores)
    masthead = Masthead(
        name=name,
        kind="evaluation on the test split",
        headline=f"{quality.label} {quality.value}",
        lead=f"{quality.detail}, on {count(scores.rows)} test rows of {len(scores.labels)} classes.",
    )
    return render(masthead, [Section("evaluation", "Evaluation", evaluation(scores))])


def evaluation(scores: Scores) -> Markup:
    """The body of the section about a classifier's `scores`."""
    rows = metric_rows(scores)
    return partial(
        EVALUATION,
        scores=scores,
        champion=scores.champion,
        grades=scores.challenger.grades,
        metrics=rows,
        decisive=words(decisive_metric(scores)),
        paired=paired(scores),
        chart=_interval_chart(rows),
        classes=_class_rows(scores),
        confusions=confusions(scores),
        several=any(one.predicted is not None for one in scores.challenger.per_class),
        never=[one.label for one in scores.challenger.per_class if one.predicted == 0],
    )


def class_counts(statistics: ClassStatistics) -> Markup:
    """A chart and a table of the rows of each class in each split; of many classes, the largest ones."""
    by_class = {
        label: sum(counts.get(label, 0) for counts in statistics.class_counts.values())
        for label in statistics.labels
    }
    largest = set(sorted(by_class, key=lambda label: -by_class[label])[:SHOWN_CLASSES])
    return partial(
        "gauntlet.tasks.classification:report.html.jinja#classes",
        data=statistics,
        shown=[label for label in statistics.labels if label in largest],
        others=[label for label in statistics.labels if label not in largest],
        balance=charts.shares("Share of each class", "rows", statistics.class_counts, statistics.rows),
    )


def tiles(scores: Scores) -> tuple[Tile, ...]:
    """The figures at the top of a page: the deciding metric, and its difference from the champion's."""
    metric, confidence = decisive_metric(scores), percent(scores.confidence)
    low, high = _interval(scores.challenger, metric) or (None, None)
    value = decimal(_value(scores.challenger, metric))
    quality = Tile(
        capitalize_first(words(metric)), value, f"{confidence} interval {decimal(low)} to {decimal(high)}"
    )
    difference, least, _ = paired(scores)
    if scores.champion is None or scores.paired is None:
        return (quality,)
    bound = f"at least {signed(least)} at {confidence} confidence"
    return quality, Tile(f"Against version {scores.champion.version}", signed(difference), bound)


def metrics(scores: Scores) -> dict[str, Figure]:
    """The figures that two runs are compared by."""
    ours = scores.challenger
    names = (*METRICS, *(GRADE_METRICS if ours.grades else ()))
    return {name: _value(ours, name) for name in names if name != "micro_f1" or ours.micro_f1 is not None}


def compare(first: Evaluated, second: Evaluated) -> Paired:
    """How surely two runs differ, from their answers."""
    from gauntlet.tasks.classification import comparison  # imports pandas, which no page needs

    return comparison.compare(first, second)


def decisive_metric(scores: Scores) -> str:
    """The metric that champion and challenger are compared by."""
    return "macro_f1" if scores.challenger.grades is None else "qwk"


def paired(scores: Scores) -> tuple[Figure, Figure, Figure]:
    """The deciding metric minus the champion's: the difference and its one-sided bounds."""
    found = scores.paired
    if found is None:
        return None, None, None
    if scores.challenger.grades is None:
        return found.macro_f1_difference, found.lower_bound, found.upper_bound
    return found.qwk_difference, found.qwk_lower_bound, found.qwk_upper_bound


def metric_rows(scores: Scores) -> tuple[MetricRow, ...]:
    """Each metric that the challenger has."""
    ours, theirs = scores.challenger, scores.champion
    compared = scores.challenger_on_clean_rows or ours
    rows = []
    for metric in (*METRICS, *(GRADE_METRICS if ours.grades else ())):
        if not is_figure(_value(ours, metric)):
            continue
        champion = _value(theirs, metric) if theirs else None
        rows.append(
            MetricRow(
                name=capitalize_first(words(metric)),
                ours=_value(ours, metric),
                interval=_interval(ours, metric),
                theirs=champion,
                their_interval=_interval(theirs, metric) if theirs else None,
                difference=minus(_value(compared, metric), champion),
                better=1 if known_metric(metric).better == "higher" else -1,
            )
        )
    return tuple(rows)


def confusions(scores: Scores) -> tuple[tuple[str, Sequence[Sequence[Cell]]], ...]:
    """The titled confusion matrices of both models, without those that are absent or of other labels."""
    titled = [("Confusion", scores.challenger)]
    if scores.champion is not None:
        titled.append((f"Confusion of the champion, version {scores.champion.version}", scores.champion))
    size = len(scores.labels)
    return tuple(
        (title, [list(_cells(row, true)) for true, row in enumerate(model.confusion)])
        for title, model in titled
        if model.confusion and {len(model.confusion), *map(len, model.confusion)} == {size}
    )


def _drop(figures: Mapping[str, Any]) -> str:
    low, high = figures.get("metric_drop_interval") or (None, None)
    return f"{signed(figures.get('metric_drop'), 4)}, {signed(low)} … {signed(high)}"


def _cells(row: Sequence[int], true: int) -> Iterator[Cell]:
    """The shade is the square root of the share of the true class, so that single mistakes can be seen."""
    for predicted, number in enumerate(row):
        share = number / sum(row) if sum(row) else 0.0
        tone = "good" if true == predicted else "bad"
        yield Cell(count(number), tone, round(math.sqrt(share), 4), f"{percent(share, 1)} of the row")


def _class_rows(scores: Scores) -> list[dict[str, Any]]:
    """Each class of the challenger, with the champion's F1 of the same class."""
    champion = {score.label: score.f1 for score in scores.champion.per_class} if scores.champion else {}
    differences = scores.paired.class_f1_difference if scores.paired else {}
    intervals = scores.paired.class_f1_intervals if scores.paired else {}
    return [
        {
            "score": score,
            "champion_f1": champion.get(score.label),
            "difference": differences.get(score.label),
            "interval": intervals.get(score.label),
        }
        for score in scores.challenger.per_class
    ]


def _interval_chart(rows: Sequence[MetricRow]) -> Markup:
    estimates = [
        charts.Estimate(row.name, value, low, high, tone)
        for row in rows
        for value, interval, tone in (
            (row.ours, row.interval, "accent"),
            (row.theirs, row.their_interval, "second"),
        )
        if interval and is_figure(value) and is_figure(low := interval[0]) and is_figure(high := interval[1])
        if row.better > 0
    ]
    return charts.intervals("Metrics with their intervals", estimates)


def _value(model: Scored, metric: str) -> Figure:
    holder = model.grades if metric in GRADE_METRICS else model
    value: Figure = getattr(holder, metric, None)
    return value


def _interval(model: Scored, metric: str) -> Interval | None:
    holder = model.grades if metric in GRADE_METRICS else model
    return holder.intervals.get(metric) if holder else None
