"""The geometry of the DAG's picture, lying for wide pages and standing for narrow ones.

The line of steps ends in a fork: promote leads to register-model, reject to the end of the run.
Coordinates are SVG user units, y downwards. `dag.svg.jinja` draws it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from gauntlet.components.write_report.figures import duration
from gauntlet.components.write_report.progress import PROMOTE, REJECT
from gauntlet.components.write_report.record import RunRecord, State, StepRecord

NODE_WIDTH, NODE_HEIGHT = 150, 56
GAP, FORK_GAP, FORK_SPREAD = 22, 76, 92
STANDING_WIDTH, STANDING_GAP, STANDING_FORK_GAP = 340, 26, 52
MARGIN = 8
HEAD = 5
GATE = "gate-model"

STATE_TONES: dict[State, str] = {
    "succeeded": "good",
    "reused": "good",
    "failed": "bad",
    "skipped": "idle",
    "not reached": "idle",
}

Way = Literal["taken", "promoted", "rejected", "open", "not taken"]
Point = tuple[float, float]


@dataclass(frozen=True)
class Node:
    """A box: a step, or the end of a rejected run. `anchor` is the section of the page that it links to."""

    title: str
    caption: str
    tone: str
    anchor: str
    x: float
    y: float
    width: float
    height: float = NODE_HEIGHT


@dataclass(frozen=True)
class Edge:
    """An arrow; a branch has a `label` at `label_at`. A way that may still be gone is `open`."""

    path: str
    head: str
    way: Way
    label: str = ""
    label_at: Point = (0.0, 0.0)


@dataclass(frozen=True)
class Dag:
    """The picture: its size, its boxes and its arrows."""

    width: float
    height: float
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    is_lying: bool


def lay_out(record: RunRecord, lying: bool) -> Dag:
    """Place the steps of a run from left to right (`lying`) or from top to bottom."""
    steps = record.steps
    places = _lying_places(len(steps) - 1) if lying else _standing_places(len(steps) - 1)
    line_width = NODE_WIDTH if lying else STANDING_WIDTH - 2 * MARGIN
    line = [_step_node(step, place, line_width) for step, place in zip(steps[:-1], places[:-2], strict=True)]
    register = _step_node(steps[-1], places[-2], NODE_WIDTH)
    decision = record.verdict.decision if record.verdict and record.step(GATE).state == "succeeded" else None
    rejected = _rejection_node(places[-1], is_rejected=decision == REJECT)
    straight = [
        _straight_edge(
            left, right, "open" if record.step(right.title).state == "not reached" else "taken", lying
        )
        for left, right in pairwise(line)
    ]
    fork = [
        _branch(line[-1], register, PROMOTE, decision, lying),
        _branch(line[-1], rejected, REJECT, decision, lying),
    ]
    width = rejected.x + rejected.width + MARGIN
    height = rejected.y + rejected.height + MARGIN
    return Dag(width, height, (*line, register, rejected), (*straight, *fork), lying)


def _lying_places(steps: int) -> list[Point]:
    middle = MARGIN + FORK_SPREAD / 2
    line = [(MARGIN + at * (NODE_WIDTH + GAP), middle) for at in range(steps)]
    end = line[-1][0] + NODE_WIDTH + FORK_GAP
    return [*line, (end, MARGIN), (end, MARGIN + FORK_SPREAD)]


def _standing_places(steps: int) -> list[Point]:
    line = [(float(MARGIN), MARGIN + at * (NODE_HEIGHT + STANDING_GAP)) for at in range(steps)]
    below = line[-1][1] + NODE_HEIGHT + STANDING_FORK_GAP
    return [*line, (MARGIN, below), (STANDING_WIDTH - MARGIN - NODE_WIDTH, below)]


def _step_node(step: StepRecord, place: Point, width: float) -> Node:
    words: list[str] = [] if step.state == "succeeded" and step.duration else [step.state]
    words += [duration(step.duration)] if step.duration else []
    return Node(step.name, " · ".join(words), STATE_TONES[step.state], step.name, *place, width)


def _rejection_node(place: Point, is_rejected: bool) -> Node:
    caption = "see the gate" if is_rejected else "way not taken"
    return Node("not promoted", caption, "bad" if is_rejected else "idle", GATE, *place, NODE_WIDTH)


def _straight_edge(start: Node, end: Node, way: Way, lying: bool) -> Edge:
    if lying:
        y = start.y + start.height / 2
        path = f"M{start.x + start.width:g} {y:g}H{end.x:g}"
    else:
        x = start.x + start.width / 2
        path = f"M{x:g} {start.y + start.height:g}V{end.y:g}"
    return Edge(path, _head(end, lying), way)


def _branch(gate: Node, end: Node, label: str, decision: str | None, lying: bool) -> Edge:
    """An S-curve from the gate to the end of a branch, with its label near that end."""
    way: Way = "open" if decision is None else "not taken"
    if decision == label:
        way = "promoted" if label == PROMOTE else "rejected"
    if lying:
        x0, y0 = gate.x + gate.width, gate.y + gate.height / 2
        x1, y1 = end.x, end.y + end.height / 2
        bend = (x0 + x1) / 2
        path = f"M{x0:g} {y0:g}C{bend:g} {y0:g} {bend:g} {y1:g} {x1:g} {y1:g}"
        return Edge(path, _head(end, lying), way, label, (bend, (y0 + y1) / 2))
    x0, y0 = gate.x + gate.width / 2, gate.y + gate.height
    x1, y1 = end.x + end.width / 2, end.y
    bend = (y0 + y1) / 2
    path = f"M{x0:g} {y0:g}C{x0:g} {bend:g} {x1:g} {bend:g} {x1:g} {y1:g}"
    return Edge(path, _head(end, lying), way, label, ((x0 + x1) / 2, bend))


def _head(end: Node, lying: bool) -> str:
    """The tip of an arrow that enters a box in the middle of its side."""
    if lying:
        x, y = end.x, end.y + end.height / 2
        return f"M{x - HEAD:g} {y - HEAD:g}L{x:g} {y:g}L{x - HEAD:g} {y + HEAD:g}"
    x, y = end.x + end.width / 2, end.y
    return f"M{x - HEAD:g} {y - HEAD:g}L{x:g} {y:g}L{x + HEAD:g} {y - HEAD:g}"
