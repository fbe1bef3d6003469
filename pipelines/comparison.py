"""`gauntlet compare`: two runs side by side, in the terminal and on a page with charts.

A is the first run, B the second; a difference is B − A.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import yaml
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from gauntlet.components.write_report.collect import collect
from gauntlet.components.write_report.comparison import CONFIDENCE, Difference, Evaluated, Interval, Paired
from gauntlet.components.write_report.record import CollectedRun
from gauntlet.components.write_report.sections import bill
from gauntlet.contracts.document import write_text
from gauntlet.contracts.training import History
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.kinds import TaskKind, task_kind
from gauntlet.manifests.section import flatten
from gauntlet.pages.charts import Series, curves, present
from gauntlet.pages.formatting import (
    ABSENT,
    NBSP,
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
from gauntlet.pipelines.home import MANIFEST_FILE, STEPS_FOLDER, Home, RunRecord
from gauntlet.pipelines.terminal import NAME_COLUMN, LiteralConsole, borderless, plain, print_json, styled
from gauntlet.trainer.curves import validation_metrics

TEMPLATE = "gauntlet.pipelines:comparison.html.jinja"
TONES = {"A": "accent", "B": "second"}

Figures = Mapping[str, float | None]
COLOURS = {"good": "green", "bad": "red"}


@dataclass(frozen=True)
class ComparedRun:
    """What a comparison needs of a run.

    Attributes:
        outcome: How it ended, in words.
        settings: Every key of its manifest, joined by dots, with its value as text.
        evaluated: Of the shipped model on the test split; None without an evaluation.
        metrics: The figures of the evaluation, by metric.
    """

    run_id: str
    kind: TaskKind
    outcome: str
    settings: Mapping[str, str]
    collected: CollectedRun
    history: History
    evaluated: Evaluated | None
    metrics: Mapping[str, float | None]


def read_pair(home: Home, first: str, second: str) -> tuple[ComparedRun, ComparedRun]:
    """Two runs by their ids, or `latest`.

    Raises:
        UsageError: One is unknown, not finished or ended before its model was trained, both are the same one,
            or their tasks differ.
        GauntletError: What one left cannot be read.
    """
    records = [home.find_run(run_id) for run_id in (first, second)]
    if records[0] == records[1]:
        raise UsageError(f"run {records[0].run_id!r}: found twice, expected two runs. See `gauntlet runs`.")
    runs = [_read(home.run_folder(record.run_id), record) for record in records]
    kinds = [run.kind.name for run in runs]
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"{runs[0].run_id} is a run of the task {kinds[0]} and {runs[1].run_id} of {kinds[1]}: no figure "
            "of the two compares. Name two runs of one task."
        )
    return runs[0], runs[1]


def _read(folder: Path, record: RunRecord) -> ComparedRun:
    state = record.shown_state()
    if record.finished is None or record.state != "finished":
        action = "Wait for its end" if state == "running" else "Run it again"
        raise UsageError(f"run {record.run_id!r}: found {state}, expected a finished run. {action}.")
    try:
        settings = flatten(yaml.safe_load((folder / MANIFEST_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise GauntletError(f"{folder}: the run cannot be read ({error}). Run it again.") from None
    kind = task_kind(settings.get("task", "unknown"))
    steps = folder / STEPS_FOLDER
    collected = collect(str(steps), next((path.name for path in sorted(steps.glob("*"))), ""), kind.name)
    history = collected.history
    if history is None or not (history.epochs or history.training_tokens):
        raise UsageError(
            f"run {record.run_id!r}: found no training history, expected one: it ended with {state!r}. "
            + " ".join(collected.unreadable)
        )
    evaluation, evaluated = collected.step("evaluate-model").folder, None
    if collected.scores is not None and evaluation is not None:
        evaluated = Evaluated(collected.scores, Path(evaluation) / "predictions")
    return ComparedRun(
        run_id=record.run_id,
        kind=kind,
        outcome=state,
        settings=settings,
        collected=collected,
        history=history,
        evaluated=evaluated,
        metrics=kind.function("report", "metrics")(collected.scores) if evaluated else {},
    )


class Row(NamedTuple):
    """A key of the manifest, or a cost, with its value in both runs."""

    name: str
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
    settings: tuple[Row, ...]
    costs: tuple[Row, ...]
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
    settings = _beside(first.settings, second.settings, "")
    return Comparison(
        first=first,
        second=second,
        tested=_differences(first.kind, first.metrics, second.metrics, paired.intervals),
        validated=_differences(first.kind, _kept_epoch(first), _kept_epoch(second), {}),
        paired=paired,
        settings=tuple(row for row in settings if row.first != row.second),
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


def costs(first: ComparedRun, second: ComparedRun) -> tuple[Row, ...]:
    """What each training took and cost, and how large and fast its shipped model is."""
    ours, theirs = ({**_bill(run), **_shipped(run)} for run in (first, second))
    return _beside(ours, theirs, ABSENT)


def _beside(first: Mapping[str, str], second: Mapping[str, str], absent: str) -> tuple[Row, ...]:
    names = dict.fromkeys([*first, *second])
    return tuple(Row(name, first.get(name, absent), second.get(name, absent)) for name in names)


def charts(first: ComparedRun, second: ComparedRun) -> dict[str, Markup]:
    """Loss and every validation metric by epoch, both runs in one picture; the training split is dashed."""
    drawn = {}
    metrics = ["loss", *validation_metrics(first.history), *validation_metrics(second.history)]
    for metric in dict.fromkeys(metrics):
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
    in_training = split == "training"
    title = f"{name}, training" if in_training else name
    return Series(title, points, TONES[name], value, is_dashed=in_training)


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


def compare_runs(home: Home, first: str, second: str, console: LiteralConsole, as_json: bool = False) -> Path:
    """Print two runs side by side, and write their page; returns its path. Raises as `read_pair`."""
    comparison = compare(*read_pair(home, first, second))
    name = f"{comparison.first.run_id}--{comparison.second.run_id}.html"
    page = home.folder / "comparisons" / name
    write_text(page, render(comparison))
    if as_json:
        print_json(_rows(comparison))
    else:
        _print(comparison, console)
        console.say(f"page: {page}")
    return page


def _rows(comparison: Comparison) -> Iterator[dict[str, object]]:
    """The rows of all tables, each with the name of its table."""
    for key, first, second in comparison.settings:
        yield {"table": "settings", "key": key, "first": first, "second": second}
    for table, _, rows in _tables(comparison):
        for row in rows:
            yield {"table": table, **asdict(row), "difference": row.difference, "verdict": row.tone}
    for cost in comparison.costs:
        shown = {key: value.replace(NBSP, " ") for key, value in cost._asdict().items()}
        yield {"table": "costs", **shown}


def _print(comparison: Comparison, console: LiteralConsole) -> None:
    for name, run in (("A", comparison.first), ("B", comparison.second)):
        console.say(styled("{}  [bold]{}[/]  {}", name, run.run_id, run.outcome))
    settings = borderless(NAME_COLUMN("differs in"), "A", "B")
    for setting in comparison.settings:
        settings.add_row(*(plain(value or "–") for value in setting))
    costs = borderless("cost and speed", "A", "B")
    for row in comparison.costs:
        costs.add_row(*(plain(cell.replace(NBSP, " ")) for cell in row))
    differences = (_table(title, rows) for _, title, rows in _tables(comparison))
    for table in (settings, *differences, costs):
        if table.row_count:
            console.print()
            console.print(table)
    console.print()
    evidence = f": {comparison.evidence}" if comparison.evidence else ""
    console.say(styled("[bold]{}[/]{}", comparison.headline, evidence))


def _tables(comparison: Comparison) -> Iterator[tuple[str, str, Iterable[Difference]]]:
    """Name, title and rows of the tables of figures."""
    yield "test", "test split", comparison.tested.values()
    yield "classes", "class, F1", comparison.paired.classes
    yield "validation", "validation", comparison.validated.values()


def _table(title: str, rows: Iterable[Difference]) -> Table:
    rows = list(rows)
    has_intervals = any(row.interval for row in rows)
    columns = [title, "A", "B", "B − A", *([f"{CONFIDENCE:.0%} interval"] if has_intervals else [])]
    table = borderless(*columns)
    for row in rows:
        difference = Text(signed(row.difference, 4), COLOURS.get(row.tone, ""))
        cells = (plain(row.name), decimal(row.first, 4), decimal(row.second, 4))
        table.add_row(*cells, difference, *([shown_interval(row)] if has_intervals else []))
    return table
