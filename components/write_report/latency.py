"""The latency chart: every candidate against PyTorch, one panel for each batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gauntlet.components.write_report.artifacts import Candidates, Figure, Latency
from gauntlet.components.write_report.figures import is_figure

PYTORCH = "PyTorch"

Role = Literal["reference", "chosen", "admitted", "refused"]


@dataclass(frozen=True)
class Bar:
    """A model's milliseconds for one batch; the shares are of the longest p99 or median in the panel."""

    name: str
    role: Role
    median: float
    p99: Figure
    share: float
    p99_share: float
    speedup: Figure


@dataclass(frozen=True)
class Panel:
    """The bars of one batch size, PyTorch first; `is_objective` is the one that conversion optimises."""

    batch_size: int
    is_objective: bool
    bars: tuple[Bar, ...]


def latency_panels(candidates: Candidates) -> tuple[Panel, ...]:
    """A panel for each batch size that anything was timed at, the smallest first."""
    timed = [*candidates.pytorch.latency_ms.values()]
    timed += [candidate.latency_ms for candidate in candidates.candidates]
    sizes = sorted({size for latencies in timed for size in latencies})
    panels = (_panel(candidates, size) for size in sizes)
    return tuple(panel for panel in panels if panel.bars)


def _panel(candidates: Candidates, size: int) -> Panel:
    rows: list[tuple[str, Role, Latency | None, Figure]] = [
        (f"{PYTORCH}, {mode}", "reference", latencies.get(size), None)
        for mode, latencies in candidates.pytorch.latency_ms.items()
    ]
    for candidate in candidates.candidates:
        role: Role = "refused" if not candidate.admitted else "admitted"
        if candidate.name == candidates.chosen:
            role = "chosen"
        rows.append((candidate.name, role, candidate.latency_ms.get(size), candidate.speedup.get(size)))
    longest = max(
        (ms for _, _, latency, _ in rows if latency for ms in (latency.median, latency.p99) if is_figure(ms)),
        default=0.0,
    )
    bars = tuple(
        Bar(
            name=name,
            role=role,
            median=latency.median,
            p99=latency.p99,
            share=latency.median / longest,
            p99_share=latency.p99 / longest if is_figure(latency.p99) else latency.median / longest,
            speedup=speedup,
        )
        for name, role, latency, speedup in rows
        if latency and is_figure(latency.median) and longest > 0
    )
    return Panel(size, size == candidates.objective_batch_size, bars)
