"""What convert-to-onnx writes: the table of candidates, and the certificate of the bundled one.

In the files a kind's figures, such as macro-F1, are keys like all others; here they are in `figures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from gauntlet.contracts.document import Document


class Latency(Document):
    """Milliseconds that one batch takes, over `batches` timed ones."""

    written_by: ClassVar[str] = "convert-to-onnx"

    median: float
    p99: float
    batches: int = 0


class Neighbours(Document):
    """How much the other rows and the padding of a batch change a row's answer."""

    written_by: ClassVar[str] = "convert-to-onnx"

    rows: int
    max_difference: float | None
    label_changes: int


class WithFigures(Document):
    """A document with figures of a task kind among its keys. A field without a value is left out."""

    written_by: ClassVar[str] = "convert-to-onnx"
    always_written: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _gather_figures(cls, content: Any) -> Any:
        if not isinstance(content, Mapping) or "figures" in content:
            return content
        own = {key: value for key, value in content.items() if key in cls.model_fields}
        return {**own, "figures": {key: value for key, value in content.items() if key not in own}}

    @model_serializer(mode="wrap")
    def _spread_figures(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in serialize(self).items():
            if key == "figures":
                content |= value
            elif value is not None or key in self.always_written:
                content[key] = value
        return content


class Candidate(WithFigures):
    """One candidate. One that could not be made or does not run has a `reason` and no figures.

    Attributes:
        reason: Why it was refused; None if it was admitted.
        fused: How many operators of each sort are single fused nodes.
        speedup: The fastest PyTorch's median latency over this one's, by batch size.
        worst_rows: The rows whose outputs differ most from PyTorch.
    """

    always_written = frozenset({"reason"})

    name: str
    admitted: bool
    reason: str | None = None
    precision: str | None = None
    size_mb: float | None = None
    figures: Mapping[str, Any] = Field(default_factory=dict)
    neighbours: Neighbours | None = None
    fused: Mapping[str, int] | None = None
    memory_mb: float | None = None
    latency_ms: Mapping[int, Latency] | None = None
    speedup: Mapping[int, float] | None = None
    worst_rows: tuple[Mapping[str, Any], ...] | None = None


class Reference(WithFigures):
    """PyTorch's own figures, and its latency and memory by mode; `absent` says why a mode was not timed."""

    figures: Mapping[str, Any] = Field(default_factory=dict)
    latency_ms: Mapping[str, Mapping[int, Latency]] = Field(default_factory=dict)
    memory_mb: Mapping[str, float] = Field(default_factory=dict)
    absent: Mapping[str, str] = Field(default_factory=dict)


class Candidates(WithFigures):
    """The output `candidates`. If a service trains the model, nothing is converted: `figures` says so.

    Attributes:
        clock: What latencies measure: real time, or the CPU time of one thread on a busy machine.
        rows: How many rows candidates were compared on.
        objective_batch_size: The batch size whose latency and speed-up stand for the model.
        chosen: The candidate that was bundled; None if no candidate was within its bounds.
        tokenizing_ms: How long a batch takes to tokenise, by its size; None if rows are not texts.
        contention: How busy other processes kept the machine; see `timing.Timing`.
    """

    threads: int | None = None
    clock: Literal["wall", "cpu"] | None = None
    processor: str | None = None
    rows: int | None = None
    figures: Mapping[str, Any] = Field(default_factory=dict)
    pytorch: Reference = Field(default_factory=Reference)
    objective: str | None = None
    candidates: tuple[Candidate, ...] = ()
    objective_batch_size: int | None = None
    chosen: str | None = None
    chosen_speedup: Mapping[int, float] | None = None
    pareto_front: tuple[str, ...] | None = None
    tokenizing_ms: Mapping[int, Latency] | None = None
    contention: float | None = None

    @property
    def winner(self) -> Candidate | None:
        """The candidate that was bundled."""
        return next((one for one in self.candidates if one.name == self.chosen), None)


class Certificate(WithFigures):
    """`parity.json` of a bundle: the results for the file that ships, and the bounds that it met.

    Attributes:
        cpu_class: Of the CPU that it was proved on; None for a GPU.
        portable: Whether it gives the same answers on every class of x86-64 CPU.
        max_neighbour_flips: The share of rows whose label may change with the rows of their batch for a
            server to compute rows of several requests together.
    """

    candidate: str
    model_sha256: str
    bounds: Mapping[str, float]
    precision: str
    size_mb: float
    figures: Mapping[str, Any] = Field(default_factory=dict)
    neighbours: Neighbours
    fused: Mapping[str, int]
    memory_mb: float | None = None
    latency_ms: Mapping[int, Latency]
    speedup: Mapping[int, float]
    rows: int
    threads: int | None = None
    timing_threads: int | None = None
    clock: str | None = None
    processor: str
    cpu_class: str | None = None
    portable: bool | None = None
    max_neighbour_flips: float | None = None
