"""The geometry of the page's charts: from figures to coordinates. `charts.svg.jinja` draws them.

Coordinates are SVG user units, y downwards. Nothing here is text of the data, so nothing needs escaping.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle

from gauntlet.components.write_report.artifacts import Figure, History
from gauntlet.components.write_report.figures import decimal, general, is_figure, words

WIDTH, HEIGHT = 500, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 118, 16, 36
LABEL_HEIGHT = 15
MOST_POINTS = 240
MOST_DOTS = 12
TARGET_TICKS = 5
LINE_STYLES = ("line-accent", "line-second", "line-quiet")

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Series:
    """One line: (x, y) in data units, and the value that stands beside its name.

    `style` is the CSS class that colours it.
    """

    name: str
    style: str
    points: Points
    value: str


@dataclass(frozen=True)
class Tick:
    """A place on an axis and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """A drawn series; its name and value stand at `label_y`, at the right of the plot."""

    name: str
    style: str
    path: str
    dots: Points
    label_y: float
    value: str


@dataclass(frozen=True)
class LineChart:
    """A line chart ready to draw; `marker` is the x of an upright line with `marker_label`."""

    title: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    marker: float | None = None
    marker_label: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def training_charts(history: History) -> tuple[LineChart, ...]:
    """Loss and quality by epoch, loss and learning rate by optimizer step; those that have figures."""
    epochs = [(float(epoch.epoch), epoch) for epoch in history.epochs]
    steps = [(float(step.step), step) for step in history.steps]
    losses = (
        _ending("training", "line-quiet", _present((x, e.training.get("loss")) for x, e in epochs)),
        _ending("validation", "line-accent", _present((x, e.validation.get("loss")) for x, e in epochs)),
    )
    quality = [
        _ending(words(metric), style, _present((x, e.validation.get(metric)) for x, e in epochs))
        for metric, style in zip(history.metrics, cycle(LINE_STYLES))
    ]
    step_loss = _ending("loss", "line-accent", thinned(_present((x, s.loss) for x, s in steps)))
    rates = _present((x, s.learning_rate) for x, s in steps)
    peak = max((rate for _, rate in rates), default=None)
    rate = Series("rate", "line-second", thinned(rates), f"peak {general(peak)}")
    best = float(history.best_epoch) if history.best_epoch else None
    charts = (
        line_chart("Loss", "epoch", losses, best, "best"),
        line_chart("Quality on the validation split", "epoch", quality, best, "best"),
        line_chart("Training loss", "optimizer step", [step_loss]),
        line_chart("Learning rate", "optimizer step", [rate]),
    )
    return tuple(chart for chart in charts if chart is not None)


def line_chart(
    title: str, x_label: str, series: Sequence[Series], marker: float | None = None, marker_label: str = ""
) -> LineChart | None:
    """Lay out a chart of whole-numbered x, or None if no series has a point."""
    drawn = [s for s in series if s.points]
    if not drawn:
        return None
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    y_values = nice_ticks(min(ys), max(ys))
    x_low, x_high = min(xs), max(xs)

    def place_x(x: float) -> float:
        return place(x, x_low, x_high, LEFT, WIDTH - RIGHT)

    def place_y(y: float) -> float:
        return place(y, y_values[0], y_values[-1], HEIGHT - BOTTOM, TOP)

    label_ys = spread([place_y(s.points[-1][1]) for s in drawn], LABEL_HEIGHT, TOP, HEIGHT - BOTTOM)
    return LineChart(
        title=title,
        x_label=x_label,
        x_ticks=tuple(Tick(place_x(x), f"{x:,.0f}") for x in whole_ticks(x_low, x_high)),
        y_ticks=tuple(
            Tick(place_y(y), label) for y, label in zip(y_values, tick_labels(y_values), strict=True)
        ),
        lines=tuple(
            _line(s, tuple((place_x(x), place_y(y)) for x, y in s.points), label_y)
            for s, label_y in zip(drawn, label_ys, strict=True)
        ),
        marker=None if marker is None or not x_low <= marker <= x_high else place_x(marker),
        marker_label=marker_label,
    )


def tick_labels(values: Sequence[float]) -> tuple[str, ...]:
    """One spelling for all: the same decimals, or powers of ten where those would be many."""
    decimals = [general(value).partition(".")[2] for value in values]
    if any("e" in general(value) for value in values):
        return tuple(general(value) if value == 0 else _power_of_ten(value) for value in values)
    return tuple(f"{value:,.{max(map(len, decimals))}f}" for value in values)


def _power_of_ten(value: float) -> str:
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def nice_ticks(low: float, high: float, target: int = TARGET_TICKS) -> tuple[float, ...]:
    """Round values (1, 2 or 5 times a power of ten apart) from at most `low` to at least `high`."""
    if low == high:
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / target
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return tuple(round(at * step, digits) for at in range(first, last + 1))


def whole_ticks(low: float, high: float, target: int = TARGET_TICKS) -> tuple[float, ...]:
    """Whole values within both bounds: every one of them when they are few."""
    if high - low <= target:
        return tuple(float(x) for x in range(math.ceil(low), math.floor(high) + 1))
    return tuple(x for x in nice_ticks(low, high, target) if low <= x <= high and x.is_integer())


def thinned(points: Points) -> Points:
    """At most `MOST_POINTS` points, each the mean of a run of neighbours; both ends keep their x."""
    if len(points) <= MOST_POINTS:
        return points
    run = math.ceil(len(points) / MOST_POINTS)
    runs = [points[start : start + run] for start in range(0, len(points), run)]
    means = [(sum(x for x, _ in r) / len(r), sum(y for _, y in r) / len(r)) for r in runs]
    return ((points[0][0], means[0][1]), *means[1:-1], (points[-1][0], means[-1][1]))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart, near the wanted ones and in their order, within the bounds if they fit."""
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    placed = [0.0] * len(wanted)
    floor = low
    for at in order:
        placed[at] = max(wanted[at], floor)
        floor = placed[at] + gap
    ceiling = high
    for at in reversed(order):
        placed[at] = min(placed[at], ceiling)
        ceiling = placed[at] - gap
    return placed


def _ending(name: str, style: str, points: Points) -> Series:
    """A series beside whose name its last value stands."""
    return Series(name, style, points, decimal(points[-1][1]) if points else "")


def _line(series: Series, places: Points, label_y: float) -> Line:
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
    return Line(
        series.name, series.style, path, places if len(places) <= MOST_DOTS else (), label_y, series.value
    )


def place(value: float, low: float, high: float, start: float, end: float) -> float:
    """Where `value` lies between `start` and `end`, as it does between `low` and `high`."""
    share = 0.5 if low == high else (value - low) / (high - low)
    return round(start + share * (end - start), 1)


def _present(points: Iterable[tuple[float, Figure]]) -> Points:
    return tuple((x, y) for x, y in points if is_figure(y))
