"""The validation as one self-contained HTML page: no script, no network, readable in light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined

from gauntlet.components.validate_data.inspection import Inspection
from gauntlet.manifests.dataset import SPLITS

VERDICT_WORDS = {
    "pass": "passed",
    "warn": "warning",
    "drop": "rows dropped",
    "fail": "failed",
}
CHART_WIDTH, CHART_HEIGHT, CHART_MARGIN = 960.0, 220.0, 24.0
BAR_GAP = 0.24  # of a bin's width


class Statistics(Protocol):
    """What the page says of any dataset."""

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows of each split."""


class ClassStatistics(Statistics, Protocol):
    """What it says of one with classes."""

    @property
    def labels(self) -> Sequence[str]:
        """Class names."""

    @property
    def class_counts(self) -> Mapping[str, Mapping[str, int]]:
        """Rows by split and label."""


@dataclass(frozen=True)
class Histogram:
    """How many `things` of each split are in each bin; a bin begins at its edge and ends below the next."""

    things: str
    edges: Sequence[int]
    counts: Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Bar:
    """A rectangle of the histogram in the chart's units, with what it stands for."""

    split: str
    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Tick:
    """A label under the edge of a bin."""

    x: float
    text: str


@dataclass(frozen=True)
class Share:
    """A class's rows in one split; `width` is in percent of the largest share of all."""

    split: str
    rows: int
    share: float
    width: float


def render(
    template: str,
    statistics: Statistics,
    inspection: Inspection,
    rows_read: int,
    histogram: Histogram,
    classes: Sequence[tuple[str, list[Share]]] = (),
    **own: Any,
) -> str:
    """The page from a task's own template. Whatever comes from the data is escaped.

    `classes` are the `class_shares` of a dataset that has classes.
    """
    environment = Environment(
        loader=PackageLoader("gauntlet.components.validate_data", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        statistics=statistics,
        results=inspection.results,
        failed=inspection.failed,
        rows_read=rows_read,
        rows_kept=sum(statistics.rows.values()),
        splits=SPLITS,
        words=VERDICT_WORDS,
        classes=classes,
        bars=bars(histogram),
        ticks=ticks(histogram),
        chart_width=CHART_WIDTH,
        chart_height=CHART_HEIGHT,
        chart_margin=CHART_MARGIN,
        **own,
    )


def class_shares(statistics: ClassStatistics) -> list[tuple[str, list[Share]]]:
    """For each label, the share that its rows are of each split."""
    shares = {
        (label, split): rows / max(1, statistics.rows[split])
        for split in SPLITS
        for label, rows in statistics.class_counts[split].items()
    }
    largest = max(shares.values()) or 1.0
    return [
        (
            label,
            [
                Share(
                    split=split,
                    rows=statistics.class_counts[split][label],
                    share=shares[label, split],
                    width=100 * shares[label, split] / largest,
                )
                for split in SPLITS
            ],
        )
        for label in statistics.labels
    ]


def bars(histogram: Histogram) -> list[Bar]:
    """One bar per bin and split; heights are shares of the split, so that splits of any size compare."""
    shares = {
        split: [count / max(1, sum(counts)) for count in counts] for split, counts in histogram.counts.items()
    }
    tallest = max(max(of_split) for of_split in shares.values()) or 1.0
    bin_width = CHART_WIDTH / len(histogram.edges)
    bar_width = bin_width * (1 - BAR_GAP) / len(SPLITS)
    return [
        Bar(
            split=split,
            x=(number + BAR_GAP / 2) * bin_width + place * bar_width,
            y=CHART_HEIGHT * (1 - share / tallest),
            width=bar_width,
            height=CHART_HEIGHT * share / tallest,
            title=f"{split}: {histogram.counts[split][number]:,} {histogram.things} ({share:.1%})",
        )
        for place, split in enumerate(SPLITS)
        for number, share in enumerate(shares[split])
    ]


def ticks(histogram: Histogram) -> list[Tick]:
    """The lower edge of every bin."""
    bin_width = CHART_WIDTH / len(histogram.edges)
    return [Tick(number * bin_width, f"{edge:,}") for number, edge in enumerate(histogram.edges)]
