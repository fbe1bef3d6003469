"""The Pareto picture: what each candidate costs in time against how good it is.

Coordinates are SVG user units, as in `charts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gauntlet.components.write_report.artifacts import Candidates
from gauntlet.components.write_report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    TOP,
    Tick,
    nice_ticks,
    place,
    spread,
    tick_labels,
)
from gauntlet.components.write_report.figures import is_figure

WIDTH, RIGHT = 560, 170
NAME_HEIGHT = 14

Role = Literal["chosen", "admitted", "refused", "reference"]


@dataclass(frozen=True)
class Mark:
    """A model's place; its name stands at `name_y`, to the right of the plot, and `is_best` on the front."""

    name: str
    role: Role
    x: float
    y: float
    name_y: float
    is_best: bool


@dataclass(frozen=True)
class Scatter:
    """Median milliseconds to the right, macro-F1 on the validation split upwards; `front` is a path."""

    batch_size: int
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    front: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def pareto_picture(table: Candidates) -> Scatter | None:
    """The picture at the batch size that decides; None where fewer than two models were timed."""
    size = table.objective_batch_size or 0
    found: list[tuple[str, Role, float, float]] = []
    for mode, latencies in table.pytorch.latency_ms.items():
        latency = latencies.get(size)
        if latency and is_figure(latency.median) and is_figure(table.pytorch.macro_f1):
            found.append((f"PyTorch, {mode}", "reference", latency.median, table.pytorch.macro_f1))
    for candidate in table.candidates:
        latency = candidate.latency_ms.get(size)
        if latency and is_figure(latency.median) and is_figure(candidate.macro_f1):
            role: Role = "admitted" if candidate.admitted else "refused"
            role = "chosen" if candidate.name == table.chosen else role
            found.append((candidate.name, role, latency.median, candidate.macro_f1))
    if len(found) < 2:
        return None
    xs = nice_ticks(0.0, max(ms for _, _, ms, _ in found))
    ys = nice_ticks(min(f1 for *_, f1 in found), max(f1 for *_, f1 in found))
    places = [
        (
            place(ms, xs[0], xs[-1], LEFT, WIDTH - RIGHT),
            place(macro_f1, ys[0], ys[-1], HEIGHT - BOTTOM, TOP),
        )
        for _, _, ms, macro_f1 in found
    ]
    name_ys = spread([y for _, y in places], NAME_HEIGHT, TOP, HEIGHT - BOTTOM)
    marks = tuple(
        Mark(name, role, x, y, name_y, name in table.pareto_front)
        for (name, role, *_), (x, y), name_y in zip(found, places, name_ys, strict=True)
    )
    front = sorted((mark.x, mark.y) for mark in marks if mark.is_best)
    return Scatter(
        batch_size=size,
        x_ticks=_ticks(xs, LEFT, WIDTH - RIGHT),
        y_ticks=_ticks(ys, HEIGHT - BOTTOM, TOP),
        marks=marks,
        front="M" + "L".join(f"{x:g} {y:g}" for x, y in front) if front else "",
    )


def _ticks(values: Sequence[float], start: float, end: float) -> tuple[Tick, ...]:
    labels = tick_labels(values)
    return tuple(
        Tick(place(value, values[0], values[-1], start, end), label)
        for value, label in zip(values, labels, strict=True)
    )
