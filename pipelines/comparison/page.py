"""Two runs as one page: figures side by side, curves in one picture, what changed in the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from gauntlet.components.write_report.comparison import CONFIDENCE, Difference, Interval, Paired
from gauntlet.components.write_report.sections import bill
from gauntlet.manifests.kinds import TaskKind
from gauntlet.pages.charts import Series, curves, present
from gauntlet.pages.formatting import (
    ABSENT,
    capitalize_first,
    decimal,
    megabytes,
    milliseconds,
    signed,
    times,
    words,
)
from gauntlet.pages.page import Masthead, Section, partial
from gauntlet.pages.page import render as render_page
from gauntlet.pipelines.comparison.runs import ComparedRun

TEMPLATE = "gauntlet.pipelines.comparison:comparison.html.jinja"
TONES = {"A": "accent", "B": "second"}

Figures = Mapping[str, float | None]


class Setting(NamedTuple):
    """A key of the manifest whose value differs; empty where a run has none."""

    key: str
    first: str
    second: str


@dataclass(frozen=True)
class Comparison:
    """All that is known of two runs side by side; `tested` and `validated` are by metric."""

    first: ComparedRun
    second: ComparedRun
    tested: Mapping[str, Difference]
    validated: Mapping[str, Difference]
    paired: Paired
    settings: tuple[Setting, ...]
    costs: tuple[tuple[str, str, str], ...]
    charts: Mapping[str, Markup]

    @property
    def decisive(self) -> Difference | None:
        """The metric of the test split that says which run is better."""
        named = self.tested.get(self.first.kind.metrics[0].name)
        return named or next(iter(self.tested.values()), None)

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
            return self.paired.unpaired
        change = f"{row.name} {signed(row.difference, 4)}"
        if row.interval is None:
            return f"{change}: {self.paired.unpaired}"
        return f"{change}, {CONFIDENCE:.0%} interval {shown_interval(row)}"


def shown_interval(row: Difference) -> str:
    """Both ends, or nothing."""
    return f"{signed(row.interval[0], 4)} to {signed(row.interval[1], 4)}" if row.interval else ""


def compare(first: ComparedRun, second: ComparedRun) -> Comparison:
    """Compare two runs of one task kind."""
    paired = _paired(first, second)
    return Comparison(
        first=first,
        second=second,
        tested=_differences(first.kind, first.metrics, second.metrics, paired.intervals),
        validated=_differences(first.kind, _kept_epoch(first), _kept_epoch(second), {}),
        paired=paired,
        settings=different_settings(first, second),
        costs=costs(first, second),
        charts=charts(first, second),
    )


def render(comparison: Comparison) -> str:
    """The page, with nothing loaded from anywhere."""
    first, second = comparison.first, comparison.second
    shown = Markup('<span class="key {}"></span><span class="mono">{}</span> · {}')
    masthead = Masthead(
        name="Two runs",
        kind=first.kind.title,
        headline=comparison.headline,
        lead=comparison.evidence,
        facts={
            "A": shown.format("ours", first.run_id, first.outcome),
            "B": shown.format("theirs", second.run_id, second.outcome),
        },
    )
    sections = [
        Section(part, title, partial(TEMPLATE, part=part, comparison=comparison, confidence=CONFIDENCE))
        for part, title in (
            ("test", "On the test split"),
            ("settings", "What was set differently"),
            ("training", "Training"),
            *((("classes", "Classes"),) if comparison.paired.classes else ()),
            ("cost", "Cost and speed"),
        )
    ]
    return render_page(masthead, sections)


def different_settings(first: ComparedRun, second: ComparedRun) -> tuple[Setting, ...]:
    """The keys of the manifests with different values, in the order of the first."""
    keys = dict.fromkeys([*first.settings, *second.settings])
    pairs = (Setting(key, first.settings.get(key, ""), second.settings.get(key, "")) for key in keys)
    return tuple(setting for setting in pairs if setting.first != setting.second)


def costs(first: ComparedRun, second: ComparedRun) -> tuple[tuple[str, str, str], ...]:
    """What each training took and cost, and how large and fast its shipped model is."""
    ours, theirs = ({**_bill(run), **_shipped(run)} for run in (first, second))
    return tuple(
        (name, ours.get(name, ABSENT), theirs.get(name, ABSENT)) for name in dict.fromkeys([*ours, *theirs])
    )


def charts(first: ComparedRun, second: ComparedRun) -> dict[str, Markup]:
    """Loss and every validation metric by epoch, both runs in one picture; the training split is dashed."""
    drawn = {}
    for metric in dict.fromkeys(["loss", *first.history.metrics, *second.history.metrics]):
        title = capitalize_first(words(metric))
        series = [
            _curve(name, run, metric, split)
            for split in ("validation", "training")
            for name, run in (("A", first), ("B", second))
        ]
        drawn[title] = curves(title, "epoch", series)
    return {title: chart for title, chart in drawn.items() if chart}


def _paired(first: ComparedRun, second: ComparedRun) -> Paired:
    for name, run in (("A", first), ("B", second)):
        if run.evaluated is None:
            return Paired(unpaired=f"{name} was not evaluated on its test split: {run.outcome}")
    paired: Paired = first.kind.function("report", "compare")(first.evaluated, second.evaluated)
    return paired


def _kept_epoch(run: ComparedRun) -> Figures:
    """Validation metrics of the epoch that was kept; none of a model whose vendor does not publish them."""
    epochs = run.history.epochs
    return epochs[(run.history.best_epoch or 1) - 1].validation if epochs else {}


def _differences(
    kind: TaskKind, first: Figures, second: Figures, intervals: Mapping[str, Interval]
) -> dict[str, Difference]:
    return {
        name: Difference(
            metric.title, first.get(name), second.get(name), intervals.get(name), metric.better == "lower"
        )
        for name in dict.fromkeys([*first, *second])
        for metric in [kind.metric(name)]
    }


def _curve(name: str, run: ComparedRun, metric: str, split: str) -> Series:
    points = present((float(epoch.epoch), getattr(epoch, split).get(metric)) for epoch in run.history.epochs)
    value = decimal(points[-1][1]) if points else ""
    if split == "training":
        return Series(f"{name}, training", points, TONES[name], value, is_dashed=True)
    return Series(name, points, TONES[name], value)


def _bill(run: ComparedRun) -> Mapping[str, str]:
    return {entry.label: entry.value for entry in bill(run.history)}


def _shipped(run: ComparedRun) -> Mapping[str, str]:
    candidates = run.collected.candidates
    if candidates is None or candidates.winner is None:
        return {}
    winner, size = candidates.winner, candidates.objective_batch_size or 0
    latency = (winner.latency_ms or {}).get(size)
    return {
        "Shipped": winner.name,
        "Model size": megabytes(winner.size_mb),
        f"Latency, batch {size}": milliseconds(latency.median if latency else None),
        "Speed-up over PyTorch": times((winner.speedup or {}).get(size)),
    }
