"""The section of convert-to-onnx: what is tried, where it will serve, and what it must keep."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from manifests.section import Fraction, Section

CandidateName = Literal[
    "plain",
    "fused",
    "fused_fp16",
    "int8",
    "int8_unscaled",
    "int8_per_tensor",
    "int8_float_attention",
    "int8_static",
    "int8_pruned",
    "weights_int8",
    "weights_int4",
]
CPU_CANDIDATES: tuple[CandidateName, ...] = (
    "plain",
    "fused",
    "int8",
    "int8_unscaled",
    "int8_per_tensor",
    "int8_float_attention",
    "int8_static",
    "int8_pruned",
    "weights_int8",
    "weights_int4",
)


STUDENT = "student_"
"""What a candidate's name begins with that is made from a student."""


class StudentConversion(Section):
    """What is made of the student that `training.student` asks for, beside the candidates of its teacher.

    A student's graph is held to the student's own PyTorch model; `max_metric_drop` is for the upper
    confidence limit of what macro-F1 loses against the teacher's.
    """

    candidates: tuple[CandidateName, ...] = Field(
        ("fused", "int8", "int8_unscaled", "int8_pruned"), min_length=1
    )
    max_metric_drop: Fraction = 0.02


class Conversion(Section):
    """Section of convert-to-onnx. Bounds are for a candidate against the PyTorch model on real rows.

    Attributes:
        candidates: What is made, proven and timed; those that do not suit the model say so. Any model has
            `plain` and `int8_static`, the others are for transformers.
        target: Where the bundle will serve. On a CPU without int8 dot products (VNNI, i8mm) sums of full
            8-bit products saturate, so int8 weights get 7 bits for it.
        objective: What decides among the admitted: the median latency at the smallest of `batch_sizes`, that
            at the largest, or the bytes of the file.
        pytorch: What a speed-up is taken over: the fastest of these at each batch size.
        max_abs_logit_difference: Of fp32 candidates, any logit of any row.
        min_label_agreement: Of all other candidates, the share of rows with PyTorch's label.
        max_metric_drop: For the upper confidence limit (95 %, paired bootstrap) of what macro-F1 loses.
        student: Of candidates that are made from a student, where there is one.
    """

    opset: int = Field(17, ge=14, le=21)
    candidates: tuple[CandidateName, ...] = Field(CPU_CANDIDATES, min_length=1)
    target: Literal["cpu", "cpu_without_int8"] = "cpu"
    objective: Literal["latency", "throughput", "size"] = "latency"
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 8, 32), min_length=1)
    pytorch: tuple[Literal["eager", "compiled"], ...] = Field(("eager", "compiled"), min_length=1)
    max_abs_logit_difference: float = Field(1e-4, gt=0)
    min_label_agreement: Fraction = 0.995
    max_metric_drop: Fraction = 0.01
    student: StudentConversion = StudentConversion()

    @property
    def objective_batch_size(self) -> int:
        """The batch size whose latency and speed-up stand for the model."""
        return max(self.batch_sizes) if self.objective == "throughput" else min(self.batch_sizes)

    def held_to(self, candidate: str) -> Conversion:
        """The bounds of the candidate of this name."""
        if not candidate.startswith(STUDENT):
            return self
        return self.model_copy(update={"max_metric_drop": self.student.max_metric_drop})
