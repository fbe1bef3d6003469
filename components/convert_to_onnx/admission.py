"""Which candidate may ship: its results, the bounds it is held to, and the choice among those within them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gauntlet.components.convert_to_onnx.candidates import Failed, Graph, Precision
from gauntlet.components.convert_to_onnx.scoring import NeighbourEffect
from gauntlet.components.convert_to_onnx.subject import Parity, Subject
from gauntlet.components.convert_to_onnx.timing import Clock, Timing, speedup
from gauntlet.contracts.conversion import Latency
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.verification import verify


@dataclass(frozen=True)
class CandidateResult:
    """A candidate that ran, and its results.

    Attributes:
        reason: The bounds that it breaks, in words; None if it is admitted.
        latency_ms: By batch size; empty if no candidate was admitted, so that nothing was timed.
        speedup: The faster PyTorch's median over this one's, by batch size.
        memory_mb: The peak memory of a process that serves it; NaN if the system does not say.
    """

    graph: Graph
    parity: Parity
    reason: str | None
    neighbours: NeighbourEffect
    latency_ms: Mapping[int, Latency] = field(default_factory=dict)
    speedup: Mapping[int, float] = field(default_factory=dict)
    memory_mb: float = math.nan

    @property
    def name(self) -> str:
        """The candidate's name in the manifest."""
        return self.graph.name

    @property
    def precision(self) -> Precision:
        """What its weights are stored in."""
        return self.graph.precision

    def timed(self, modes: Mapping[str, Mapping[int, Latency]], timing: Timing) -> CandidateResult:
        """The same with what was measured of it; `modes` are PyTorch's latencies."""
        latency = timing.latencies[self.name]
        return replace(
            self,
            latency_ms=latency,
            speedup=speedup(tuple(modes.values()), latency) if modes else {},
            memory_mb=timing.memory_mb[self.name],
        )


Candidate = CandidateResult | Failed


@dataclass(frozen=True)
class Comparison:
    """PyTorch and every candidate on the same rows and the same machine.

    PyTorch's latencies and memory are by mode, such as eager; `pytorch_absent` says why a mode has none.
    """

    subject: Subject
    threads: int
    processor: str
    candidates: Sequence[Candidate]
    pytorch: Mapping[str, float]
    pytorch_latency_ms: Mapping[str, Mapping[int, Latency]] = field(default_factory=dict)
    pytorch_memory_mb: Mapping[str, float] = field(default_factory=dict)
    pytorch_absent: Mapping[str, str] = field(default_factory=dict)
    tokenizing_ms: Mapping[int, Latency] = field(default_factory=dict)
    contention: float | None = None
    timing_threads: int | None = None
    clock: Clock = "wall"

    @property
    def section(self) -> Conversion:
        """What is tried, and the bounds."""
        return self.subject.section

    def without(self, refused: CandidateResult, reason: str) -> Comparison:
        """The same with a candidate refused that was admitted before."""
        return replace(self, candidates=refusing(self.candidates, refused, reason))


def refusing(candidates: Sequence[Candidate], refused: CandidateResult, reason: str) -> list[Candidate]:
    """The candidates with one refused for `reason`."""
    return [replace(one, reason=reason) if one is refused else one for one in candidates]


def refusal(parity: Parity, neighbours: NeighbourEffect, graph: Graph, section: Conversion) -> str | None:
    """Every bound that a candidate breaks, in words; None if it keeps them all."""
    found = (
        parity.refusal(graph.precision, section.held_to(graph.name)),
        neighbour_refusal(neighbours, section),
    )
    return "; ".join(reason for reason in found if reason) or None


def neighbour_refusal(effect: NeighbourEffect, bounds: Conversion) -> str | None:
    """The broken bounds on the effect of a row's neighbours, in words; None if both are kept."""
    broken = []
    if not effect.max_difference <= bounds.max_neighbour_difference:
        broken.append(
            f"a row's probabilities change by up to {effect.max_difference:.3f} with the rows and padding "
            f"of its batch, over max_neighbour_difference {bounds.max_neighbour_difference:g}"
        )
    if not effect.label_changes <= (1 - bounds.min_label_agreement) * effect.rows:
        broken.append(
            f"{effect.label_changes} of {effect.rows} rows get another label with other rows in their batch, "
            f"more than min_label_agreement {bounds.min_label_agreement:g} allows"
        )
    return "; ".join(broken) or None


def admitted(candidates: Sequence[Candidate]) -> list[CandidateResult]:
    """The results of the candidates that may ship.

    Raises:
        GauntletError: None may; the message has the reason for each.
    """
    passed = [one for one in candidates if isinstance(one, CandidateResult) and one.reason is None]
    if not passed:
        width = max(len(candidate.name) for candidate in candidates)
        table = "\n".join(f"  {candidate.name:<{width}}  {candidate.reason}" for candidate in candidates)
        raise GauntletError(
            f"conversion: no candidate is within its bounds, so there is nothing to ship:\n{table}\n"
            "Relax the bound that is named, or add a candidate to conversion.candidates."
        )
    return passed


def best(results: Sequence[CandidateResult], bounds: Conversion) -> CandidateResult:
    """The smallest file, or the smallest median latency at the batch size that the objective names."""
    if bounds.objective == "size":
        return min(results, key=lambda result: result.graph.size_mb)
    return min(results, key=lambda result: result.latency_ms[bounds.objective_batch_size].median)


def pareto_front(results: Sequence[CandidateResult], batch_size: int) -> list[str]:
    """Names of those that no other beats: as fast at `batch_size`, as good, and better in one."""

    def costs(result: CandidateResult) -> tuple[float, float]:
        return result.latency_ms[batch_size].median, -result.parity.quality

    return [
        result.name
        for result in results
        if not any(
            costs(other) != costs(result)
            and all(a <= b for a, b in zip(costs(other), costs(result), strict=True))
            for other in results
        )
    ]


def ship(
    comparison: Comparison,
    section: Conversion,
    bundle: Path,
    write: Callable[[CandidateResult, Comparison], object],
    note: Callable[[Comparison, CandidateResult | None], None],
) -> CandidateResult:
    """Write the bundle of the best candidate whose bundle passes `gauntlet bundle verify`.

    `write` writes the bundle of a candidate. `note` writes the table of candidates with the chosen one or
    None.

    Raises:
        GauntletError: No candidate is within its bounds and has a bundle that passes.
    """
    while True:
        try:
            winner = best(admitted(comparison.candidates), section)
        except GauntletError:
            note(comparison, None)
            shutil.rmtree(bundle, ignore_errors=True)
            raise
        write(winner, comparison)
        fault = next((check.fault for check in verify(bundle) if check.fault), None)
        if fault is None:
            note(comparison, winner)
            return winner
        comparison = comparison.without(winner, f"its bundle does not pass `gauntlet bundle verify`: {fault}")
