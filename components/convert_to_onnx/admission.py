"""Which candidate may ship: pure functions of its figures and the manifest's bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from components.convert_to_onnx.candidates import Failed, Graph, Precision
from components.convert_to_onnx.parity import Parity
from components.convert_to_onnx.timing import Latency
from manifests.conversion import Conversion
from manifests.errors import GauntletError


@dataclass(frozen=True)
class Trial:
    """A candidate that ran, and what it showed.

    Attributes:
        reason: The bounds that it breaks, in words; None where it is admitted.
        latency_ms: By batch size. Empty where nothing was timed because nothing was admitted.
        speedup: The faster PyTorch's median over this one's, by batch size.
        memory_mb: The most that a process that serves it had in memory; NaN where the system does not tell.
    """

    graph: Graph
    parity: Parity
    reason: str | None
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


def _of_left_padded(parity: Parity) -> str:
    if not parity.left_padded_rows:
        return ""
    differ = f"{parity.left_padded_disagreements} of {parity.left_padded_rows}"
    return f"and {differ} with padding on the left, "


def admitted(candidates: Sequence[Trial | Failed]) -> list[Trial]:
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


def best(trials: Sequence[Trial], bounds: Conversion) -> Trial:
    """The smallest file, or the smallest median latency at the batch size that the objective names."""
    if bounds.objective == "size":
        return min(trials, key=lambda trial: trial.graph.size_mb)
    return min(trials, key=lambda trial: trial.latency_ms[bounds.objective_batch_size].median)


def pareto_front(trials: Sequence[Trial], batch_size: int) -> list[str]:
    """Names of those that no other beats: as fast at `batch_size`, as good, and better in one."""

    def costs(trial: Trial) -> tuple[float, float]:
        return trial.latency_ms[batch_size].median, -trial.parity.macro_f1

    return [
        trial.name
        for trial in trials
        if not any(
            costs(other) != costs(trial)
            and all(a <= b for a, b in zip(costs(other), costs(trial), strict=True))
            for other in trials
        )
    ]
