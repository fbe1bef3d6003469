"""Which candidate may ship: pure functions of its figures and the manifest's bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from components.convert_to_onnx.candidates import Failed, Graph, Precision
from components.convert_to_onnx.parity import Parity
from components.convert_to_onnx.timing import Latency
from manifests.errors import GauntletError
from manifests.schema import Conversion


@dataclass(frozen=True)
class Trial:
    """A candidate that ran, and what it showed.

    Attributes:
        reason: The bounds that it breaks, in words; None where it is admitted.
        latency_ms: By batch size. Empty where nothing was timed because nothing was admitted.
        speedup: PyTorch's median over this one's, by batch size.
    """

    graph: Graph
    parity: Parity
    reason: str | None
    latency_ms: Mapping[int, Latency] = field(default_factory=dict)
    speedup: Mapping[int, float] = field(default_factory=dict)

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

    fp32 is held to its logits, where nothing but rounding may differ; int8, which is another function on
    purpose, to its labels. A NaN breaks every bound.
    """
    worst = parity.worst[0]
    broken = []
    if precision == "fp32" and not parity.max_abs_difference <= bounds.max_abs_logit_difference:
        broken.append(
            f"logits differ from PyTorch's by up to {parity.max_abs_difference:.3g}, over "
            f"max_abs_logit_difference {bounds.max_abs_logit_difference:g}; worst is row {worst.row}"
        )
    if precision == "int8" and not parity.label_agreement >= bounds.min_label_agreement:
        broken.append(
            f"{parity.disagreements} of {parity.rows} labels differ from PyTorch's, so agreement "
            f"{parity.label_agreement:.4f} is under min_label_agreement {bounds.min_label_agreement:g}; "
            f"worst is row {worst.row}, {worst.candidate} for {worst.pytorch}"
        )
    if not parity.metric_drop <= bounds.max_metric_drop:
        broken.append(
            f"macro-F1 falls by {parity.metric_drop:.4f} to {parity.macro_f1:.4f}, "
            f"over max_metric_drop {bounds.max_metric_drop:g}"
        )
    return "; ".join(broken) or None


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


def fastest(trials: Sequence[Trial], batch_size: int) -> Trial:
    """The one with the smallest median latency at `batch_size`."""
    return min(trials, key=lambda trial: trial.latency_ms[batch_size].median)
