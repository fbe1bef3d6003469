"""Two runs as one page: figures side by side, curves in one picture, what is taken for what more often."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gauntlet.components.write_report.artifacts import Figure
from gauntlet.components.write_report.bill import bill
from gauntlet.components.write_report.charts import LineChart, Series, line_chart
from gauntlet.components.write_report.figures import (
    ABSENT,
    capitalize_first,
    decimal,
    is_figure,
    megabytes,
    milliseconds,
    signed,
    times,
    words,
)
from gauntlet.components.write_report.render import page_environment, render_page
from gauntlet.pipelines.comparison.answers import answer_intervals
from gauntlet.pipelines.comparison.differences import (
    CONFIDENCE,
    Difference,
    Interval,
    PairedRows,
    Setting,
    class_f1,
    different_settings,
    metrics_of_test_split,
    metrics_of_validation_split,
    paired_intervals,
    paired_rows,
)
from gauntlet.pipelines.comparison.runs import ComparedRun

TEMPLATE = "compare.html.jinja"
STYLES = {"A": "line-accent", "B": "line-second"}
DECISIVE = words("macro_f1")


@dataclass(frozen=True)
class Cell:
    """How many more rows B has than A in a cell of the confusion; the tone says whether that is better."""

    change: int
    tone: str
    shade: float


@dataclass(frozen=True)
class Comparison:
    """All that is told of two runs. `unpaired` says why differences have no intervals, if they have none."""

    first: ComparedRun
    second: ComparedRun
    tested: tuple[Difference, ...]
    validated: tuple[Difference, ...]
    classes: tuple[Difference, ...]
    rows: PairedRows | None
    unpaired: str
    settings: tuple[Setting, ...]
    costs: tuple[tuple[str, str, str], ...]
    charts: tuple[LineChart, ...]

    @property
    def decisive(self) -> Difference | None:
        """The metric of the test split that says which run is better."""
        named = (row for row in self.tested if row.name == DECISIVE)
        return next(named, None) or next(iter(self.tested), None)

    @property
    def headline(self) -> str:
        """Which one is better on the test split, if that is clear."""
        if self.decisive is None or self.decisive.difference is None:
            return "Compared by their training alone"
        if self.decisive.interval is None:
            return "Compared without an interval"
        if not self.decisive.is_clear:
            return "No clear difference"
        return "B is better" if self.decisive.tone == "good" else "B is worse"

    @property
    def evidence(self) -> str:
        """The figure behind the headline."""
        row = self.decisive
        if row is None or row.difference is None:
            return self.unpaired
        change = f"{row.name} {signed(row.difference, 4)}"
        if row.interval is None:
            return f"{change}: {self.unpaired}"
        return f"{change}, {CONFIDENCE:.0%} interval {shown_interval(row)}"


def shown_interval(row: Difference) -> str:
    """Both ends, or nothing."""
    return f"{signed(row.interval[0], 4)} to {signed(row.interval[1], 4)}" if row.interval else ""


def compare(first: ComparedRun, second: ComparedRun) -> Comparison:
    """Hold two runs of one task side by side."""
    rows, intervals, unpaired = None, None, ""
    metric_intervals: Mapping[str, Interval] = {}
    if first.answers is not None or second.answers is not None:
        of_answers = answer_intervals(first, second)
        unpaired = of_answers if isinstance(of_answers, str) else ""
        metric_intervals = {} if isinstance(of_answers, str) else of_answers
    else:
        found = paired_rows(first, second)
        unpaired = found if isinstance(found, str) else ""
        rows = found if isinstance(found, PairedRows) else None
        intervals = paired_intervals(rows) if rows else None
        metric_intervals = intervals.metrics if intervals else {}
    return Comparison(
        first=first,
        second=second,
        tested=metrics_of_test_split(first, second, metric_intervals),
        validated=metrics_of_validation_split(first, second),
        classes=class_f1(first, second, intervals),
        rows=rows,
        unpaired=unpaired,
        settings=different_settings(first, second),
        costs=costs(first, second),
        charts=charts(first, second),
    )


def render(comparison: Comparison) -> str:
    """The page, with nothing loaded from anywhere."""
    rows = comparison.rows
    return render_page(
        page_environment("gauntlet.pipelines.comparison").get_template(TEMPLATE),
        comparison=comparison,
        confidence=CONFIDENCE,
        shown_interval=shown_interval,
        outcomes=rows.outcomes if rows else {},
        confusion=confusion_cells(rows) if rows else (),
    )


def costs(first: ComparedRun, second: ComparedRun) -> tuple[tuple[str, str, str], ...]:
    """What each training took and cost, and how large and fast its shipped model is."""
    ours, theirs = ({**_bill(run), **_shipped(run)} for run in (first, second))
    return tuple(
        (name, ours.get(name, ABSENT), theirs.get(name, ABSENT)) for name in dict.fromkeys([*ours, *theirs])
    )


def charts(first: ComparedRun, second: ComparedRun) -> tuple[LineChart, ...]:
    """Loss and every validation metric by epoch, those of both runs in one picture; training is dashed."""
    metrics = dict.fromkeys(["loss", *first.history.metrics, *second.history.metrics])
    drawn = (
        line_chart(
            capitalize_first(words(metric)),
            "epoch",
            [
                _curve(name, run, metric, split)
                for split in ("validation", "training")
                for name, run in (("A", first), ("B", second))
            ],
        )
        for metric in metrics
    )
    return tuple(chart for chart in drawn if chart is not None)


def confusion_cells(rows: PairedRows) -> tuple[tuple[Cell, ...], ...]:
    """The change of the confusion; shaded by its share of the true class's rows, as a square root."""
    change = rows.confusion_change.tolist()
    sizes = [int((rows.truth == at).sum()) for at in range(len(rows.classes))]
    return tuple(
        tuple(
            Cell(
                change=count,
                tone="good" if (count > 0) == (true == predicted) else "bad",
                shade=round(math.sqrt(abs(count) / size), 4) if size else 0.0,
            )
            for predicted, count in enumerate(counts)
        )
        for true, (counts, size) in enumerate(zip(change, sizes, strict=True))
    )


def _curve(name: str, run: ComparedRun, metric: str, split: str) -> Series:
    points = tuple(
        (float(epoch.epoch), value)
        for epoch in run.history.epochs
        if is_figure(value := getattr(epoch, split).get(metric))
    )
    value = decimal(points[-1][1]) if points else ""
    if split == "training":
        return Series(f"{name}, training", f"{STYLES[name]} dashed", points, value)
    return Series(name, STYLES[name], points, value)


def _bill(run: ComparedRun) -> Mapping[str, str]:
    return {entry.label: entry.value for entry in bill(run.history)}


def _shipped(run: ComparedRun) -> Mapping[str, str]:
    candidates = run.collected.candidates
    if candidates is None or candidates.winner is None:
        return {}
    winner, size = candidates.winner, candidates.objective_batch_size or 0
    latency: Figure = winner.latency_ms[size].median if size in winner.latency_ms else None
    return {
        "Shipped": winner.name,
        "Model size": megabytes(winner.size_mb),
        f"Latency, batch {size}": milliseconds(latency),
        "Speed-up over PyTorch": times(candidates.chosen_speedup),
    }
