"""The section of convert-to-onnx: what is tried, where it will serve, and what it must keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gauntlet.manifests.section import Fraction, Section

CandidateName = Literal[
    "plain",
    "fused",
    "fused_fp16",
    "int8_per_token",
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
    "int8_per_token",
    "int8",
    "int8_static",
    "weights_int8",
)
"""What is tried on a CPU. The others seldom win, and each one takes time."""

GPU_CANDIDATES: tuple[CandidateName, ...] = ("plain", "fused", "fused_fp16")
"""What is tried on a GPU, for which ONNX Runtime has no dynamic int8."""

DECODER_CANDIDATES: tuple[CandidateName, ...] = (
    "plain",
    "int8_per_token",
    "int8",
    "weights_int8",
    "weights_int4",
)
"""What can be made of a language model's graph; the others are for encoders."""

STUDENT = "student_"
"""What a candidate's name begins with that is made from a student."""


OF_SOME_KINDS = {
    "student": "models that can have a student (training.student)",
    "repetition_penalty": "language models",
}
"""The keys of `conversion` that only some kinds read, and what they are for."""


class StudentConversion(Section):
    """What is made of the student that `training.student` asks for, in addition to its teacher's candidates.

    A student's graph is compared with the student's own PyTorch model. `max_metric_drop` bounds the upper
    confidence limit of the loss in macro-F1 against the teacher.
    """

    candidates: tuple[CandidateName, ...] = Field(
        ("fused", "int8_per_token", "int8", "int8_pruned"), min_length=1
    )
    max_metric_drop: Fraction = 0.02


class Conversion(Section):
    """Section of convert-to-onnx. Bounds are for a candidate against the PyTorch model on real rows.

    Attributes:
        target: Where the bundle will serve: on any x86-64 CPU with AVX2, or on a GPU, which is needed here
            too.
        candidates: What is made, proven and timed; those that do not suit the model say so. Any model has
            `plain` and `int8_static`, the others are for transformers.
        objective: What decides among the admitted: the median latency at the smallest of `batch_sizes`, that
            at the largest, or the bytes of the file.
        pytorch: What a speed-up is taken over: the fastest of these at each batch size.
        max_abs_logit_difference: For fp32 candidates, of any logit of any row.
        min_label_agreement: For all other candidates, the share of rows with PyTorch's label.
        max_metric_drop: For the upper confidence limit (95 %, paired bootstrap) of what macro-F1 loses.
        max_neighbour_difference: How much the rows and the padding of a row's batch may change its
            probability of any class. They may change no more labels than `min_label_agreement` allows.
        max_neighbour_flips: The share of rows that may get another label with other rows in their batch for
            a server to compute rows of several requests together. It refuses no candidate.
        portable: Put a second graph into the bundle if the one that ships gives other answers on CPUs without
            int8 dot products. It gives the same answers everywhere, and such CPUs serve it.
        student: For candidates that are made from a student, where there is one.
        repetition_penalty: For a language model: what the logits of tokens that prompt or answer hold
            already are divided by (multiplied below 0) in every answer of the bundle; 1 is no penalty.
            Without one, small models that always take the likeliest token repeat themselves without end.
    """

    opset: int = Field(17, ge=14, le=21)
    target: Literal["cpu", "gpu"] = "cpu"
    candidates: tuple[CandidateName, ...] = Field(CPU_CANDIDATES, min_length=1)
    objective: Literal["latency", "throughput", "size"] = "latency"
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 8, 32), min_length=1)
    pytorch: tuple[Literal["eager", "compiled"], ...] = Field(("eager", "compiled"), min_length=1)
    max_abs_logit_difference: float = Field(1e-4, gt=0)
    min_label_agreement: Fraction = 0.995
    max_metric_drop: Fraction = 0.01
    max_neighbour_difference: Fraction = 0.05
    max_neighbour_flips: Fraction = 0.0
    portable: bool = False
    student: StudentConversion = StudentConversion()
    repetition_penalty: float = Field(1.0, ge=1.0, le=2.0)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_target(cls, content: Any) -> Any:
        if not isinstance(content, Mapping) or content.get("target") != "gpu":
            return content
        student = content.get("student", {})
        if isinstance(student, Mapping):
            student = {"candidates": GPU_CANDIDATES[1:], **student}
        return {"candidates": GPU_CANDIDATES, **content, "student": student}

    @model_validator(mode="after")
    def _candidates_run_there(self) -> Self:
        tried = {"candidates": self.candidates, "student.candidates": self.student.candidates}
        left = [f"{key}: {one}" for key, names in tried.items() for one in names if one not in GPU_CANDIDATES]
        if self.target == "gpu" and left:
            raise ValueError(
                f"for target gpu {', '.join(GPU_CANDIDATES)}, and not {', '.join(left)}. "
                "Choose among those, or leave the keys out"
            )
        if self.target == "gpu" and self.portable:
            raise ValueError("portable is about CPUs, and the target is gpu. Leave one of the two out")
        return self

    @property
    def device(self) -> Literal["cpu", "gpu"]:
        """What runs the graphs while they are proven and timed."""
        return "gpu" if self.target == "gpu" else "cpu"

    @property
    def objective_batch_size(self) -> int:
        """The batch size whose latency and speed-up stand for the model."""
        return max(self.batch_sizes) if self.objective == "throughput" else min(self.batch_sizes)

    def held_to(self, candidate: str) -> Conversion:
        """The bounds of the candidate of this name."""
        if not candidate.startswith(STUDENT):
            return self
        return self.model_copy(update={"max_metric_drop": self.student.max_metric_drop})
