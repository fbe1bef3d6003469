"""Which candidate may ship: pure functions of its figures and the manifest's bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from gauntlet.components.convert_to_onnx.candidates import Failed, Graph, Precision
from gauntlet.components.convert_to_onnx.neighbours import NeighbourEffect
from gauntlet.components.convert_to_onnx.parity import Parity
from gauntlet.components.convert_to_onnx.timing import Latency, Timing, speedup
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.errors import GauntletError
from gauntlet.tasks.causal_lm.parity import DecoderParity


class Compared(Protocol):
    """A candidate against PyTorch, of any task."""

    @property
    def quality(self) -> float:
        """How good the candidate is at the task; higher is better."""


P = TypeVar("P", bound=Compared)


@dataclass(frozen=True)
class Trial(Generic[P]):
    """A candidate that ran, and what it showed.

    Attributes:
        reason: The bounds that it breaks, in words; None where it is admitted.
        neighbours: How much the rows and the padding of its batch change a row's answer.
        latency_ms: By batch size. Empty where nothing was timed because nothing was admitted.
        speedup: The faster PyTorch's median over this one's, by batch size.
        memory_mb: The most that a process that serves it had in memory; NaN where the system does not tell.
    """

    graph: Graph
    parity: P
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


def with_speed(
    candidate: Trial[P] | Failed, modes: Mapping[str, Mapping[int, Latency]], timing: Timing
) -> Trial[P] | Failed:
    """The candidate with what was measured of it; `modes` are PyTorch's latencies."""
    if isinstance(candidate, Failed):
        return candidate
    latency = timing.latencies[candidate.name]
    return replace(
        candidate,
        latency_ms=latency,
        speedup=speedup(tuple(modes.values()), latency),
        memory_mb=timing.memory_mb[candidate.name],
    )


def refusal(parity: Parity, precision: Precision, bounds: Conversion) -> str | None:
    """Every bound that a candidate breaks, in words; None where it keeps them all.

    fp32 is held to its logits, where nothing but rounding may differ; all others, which are another function
    on purpose, to their labels. Macro-F1 is held to what it may have lost at worst. A NaN breaks every bound.
    """
    worst = parity.worst[0]
    broken = []
    if precision == "fp32" and not parity.max_abs_difference <= bounds.max_abs_logit_difference:
        broken.append(
            f"logits differ from PyTorch's by up to {parity.max_abs_difference:.3g}, over "
            f"max_abs_logit_difference {bounds.max_abs_logit_difference:g}; worst is row {worst.row}"
        )
    if precision != "fp32" and not parity.label_agreement >= bounds.min_label_agreement:
        broken.append(
            f"{parity.disagreements} of {parity.rows} labels differ from PyTorch's, {_of_left_padded(parity)}"
            f"so agreement {parity.label_agreement:.4f} is under min_label_agreement "
            f"{bounds.min_label_agreement:g}; worst is row {worst.row}, {worst.candidate} for {worst.pytorch}"
        )
    if not parity.metric_drop_bound <= bounds.max_metric_drop:
        broken.append(
            f"macro-F1 falls by {parity.metric_drop:.4f} to {parity.macro_f1:.4f}, and at 95 % confidence by "
            f"up to {parity.metric_drop_bound:.4f}, over max_metric_drop {bounds.max_metric_drop:g}"
        )
    return "; ".join(broken) or None


def neighbour_refusal(effect: NeighbourEffect, bounds: Conversion) -> str | None:
    """The bounds on the effect of neighbours that the candidate breaks, in words; None if it breaks none."""
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


def reasons_of(*refusals: str | None) -> str | None:
    """All refusals in one text; None if there are none."""
    return "; ".join(refusal for refusal in refusals if refusal) or None


def decoder_refusal(parity: DecoderParity, precision: Precision, bounds: Conversion) -> str | None:
    """As `refusal`, for a language model: agreement is of next tokens, the drop is perplexity's rise."""
    broken = []
    if precision == "fp32" and not parity.max_abs_difference <= bounds.max_abs_logit_difference:
        broken.append(
            f"logits differ from PyTorch's by up to {parity.max_abs_difference:.3g}, over "
            f"max_abs_logit_difference {bounds.max_abs_logit_difference:g}"
        )
    if precision != "fp32" and not parity.next_token_agreement >= bounds.min_label_agreement:
        broken.append(
            f"the likeliest next token is PyTorch's after {parity.next_token_agreement:.4f} of the tokens, "
            f"under min_label_agreement {bounds.min_label_agreement:g}"
        )
    if not parity.perplexity_change <= bounds.max_metric_drop:
        broken.append(
            f"perplexity rises by {parity.perplexity_change:.2%} to {parity.perplexity:.4g}, over "
            f"max_metric_drop {bounds.max_metric_drop:g}"
        )
    return "; ".join(broken) or None


def _of_left_padded(parity: Parity) -> str:
    if not parity.left_padded_rows:
        return ""
    differ = f"{parity.left_padded_disagreements} of {parity.left_padded_rows}"
    return f"and {differ} with padding on the left, "


def admitted(candidates: Sequence[Trial[P] | Failed]) -> list[Trial[P]]:
    """Those that may ship.

    Raises:
        GauntletError: There are none; the message lists each candidate's reason.
    """
    passed = [trial for trial in candidates if isinstance(trial, Trial) and trial.reason is None]
    if not passed:
        width = max(len(candidate.name) for candidate in candidates)
        table = "\n".join(f"  {candidate.name:<{width}}  {candidate.reason}" for candidate in candidates)
        raise GauntletError(
            f"conversion: no candidate is within its bounds, so there is nothing to ship:\n{table}\n"
            "Relax the bound that is named, or add a candidate to conversion.candidates."
        )
    return passed


def best(trials: Sequence[Trial[P]], bounds: Conversion) -> Trial[P]:
    """The smallest file, or the smallest median latency at the batch size that the objective names."""
    if bounds.objective == "size":
        return min(trials, key=lambda trial: trial.graph.size_mb)
    return min(trials, key=lambda trial: trial.latency_ms[bounds.objective_batch_size].median)


def pareto_front(trials: Sequence[Trial[P]], batch_size: int) -> list[str]:
    """Names of those that no other beats: as fast at `batch_size`, as good, and better in one."""

    def costs(trial: Trial[P]) -> tuple[float, float]:
        return trial.latency_ms[batch_size].median, -trial.parity.quality

    return [
        trial.name
        for trial in trials
        if not any(
            costs(other) != costs(trial)
            and all(a <= b for a, b in zip(costs(other), costs(trial), strict=True))
            for other in trials
        )
    ]
