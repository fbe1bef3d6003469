"""What convert-to-onnx asks of a task kind, a `Subject`: see docs/how-to/add_a_task_kind.md."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from gauntlet.components.convert_to_onnx.candidates import Failed, Graph, Precision, Source, build_graphs
from gauntlet.components.convert_to_onnx.export import ConversionError, Signature
from gauntlet.components.convert_to_onnx.scoring import (
    Forward,
    Indices,
    NeighbourEffect,
    Scores,
    SplitRows,
    pytorch_forward,
    sample,
)
from gauntlet.components.convert_to_onnx.timing import WORKER, Batch, Contender
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.serving.interface import Part
from gauntlet.trainer.saved_model import load_model

COMPILED = "compiled"

AnyRows = TypeVar("AnyRows", bound=SplitRows)
AnyScores = TypeVar("AnyScores", bound=Scores)


class Parity(Protocol):
    """How closely a candidate follows PyTorch, in the kind's own figures.

    Attributes:
        quality: How good the candidate is at the task; higher is better.
        figures, intervals: By name: for the table of candidates and the certificate.
        evidence: More for the certificate. Rows go by number: a served model carries no data.
    """

    @property
    def quality(self) -> float: ...  # noqa: D102
    @property
    def figures(self) -> Mapping[str, float]: ...  # noqa: D102
    @property
    def intervals(self) -> Mapping[str, tuple[float, float]]: ...  # noqa: D102
    @property
    def evidence(self) -> Mapping[str, Any]: ...  # noqa: D102

    def refusal(self, precision: Precision, bounds: Conversion) -> str | None:
        """Every bound that the candidate breaks, in words; None if it keeps them all. NaN breaks a bound."""


@dataclass(frozen=True)
class HeldOut:
    """Rows of a split as a server is asked for them; see `components/convert_to_onnx/baseline.py`.

    Attributes:
        parts: The parts of each row, for `RowModel.read`.
        labels: What the column `predicted` of the request log should say of each; None if no row has a label.
        span: The difference of two numbers that counts as a loss of 1; None if an answer is right or wrong.
        are_answered: Whether the rows are answered; if not, only what is asked is described.
        left_out: Columns of the log that the request decides, not the row.
    """

    parts: Sequence[Sequence[Part]]
    labels: Sequence[str] | None = None
    span: float | None = None
    are_answered: bool = True
    left_out: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Subject(ABC):
    """A checkpoint to convert and the rows that its candidates are compared and timed on.

    Attributes:
        is_tokenized: Whether `batch` tokenises texts, so that the time of this is measured too.
        facts: More that the table says about how all candidates were compared.
        bounds: The keys of `conversion` that the candidates are held to.
    """

    section: Conversion
    checkpoint: Path
    record: TrainingRecord
    splits: Path
    seed: int

    is_tokenized: ClassVar[bool] = False
    facts: ClassVar[Mapping[str, Any]] = {}
    bounds: ClassVar[frozenset[str]] = frozenset(
        {"max_abs_logit_difference", "min_label_agreement", "max_metric_drop", "max_neighbour_difference"}
    )

    @property
    @abstractmethod
    def compared_rows(self) -> int:
        """How many rows of the validation split candidates are compared on."""

    @property
    def timed_rows(self) -> int:
        """How many rows `batch` can be asked for."""
        return self.compared_rows

    @abstractmethod
    def batch(self, rows: Indices) -> Batch:
        """The model's inputs of some rows, as timing uses them."""

    @abstractmethod
    def build(self, folder: Path) -> list[Graph | Failed]:
        """Make the section's candidates in `folder`; a `GauntletError` if the model cannot be exported."""

    @abstractmethod
    def compare(self, graph: Graph) -> tuple[Parity, NeighbourEffect]:
        """Compare a candidate with PyTorch on the same rows.

        Raises:
            ConversionError: The candidate's outputs are of no use.
            GauntletError: PyTorch's own outputs are of no use.
            Exception: Whatever ONNX Runtime raises for a graph that it cannot run.
        """

    @abstractmethod
    def reference(self, compared: Sequence[Parity]) -> Mapping[str, float]:
        """PyTorch's own figures, once candidates were compared with it."""

    @property
    @abstractmethod
    def pytorch(self) -> Mapping[str, Contender]:
        """The ways to run the checkpoint itself that a speed-up is taken over, by name."""

    @abstractmethod
    def contender(self, graph: Graph) -> Contender:
        """How a candidate is timed."""

    def worst_rows(self, parity: Parity) -> Sequence[Mapping[str, Any]]:  # noqa: ARG002
        """The rows on which a candidate is furthest from PyTorch, as the table shows them."""
        return ()

    def held_out(self, split: SplitName, most: int) -> HeldOut | None:  # noqa: ARG002
        """At most so many rows of a split, drawn by the seed, for the drift baseline of the bundle.

        None, as by default, if the kind gives none: then its bundles have no baseline.
        """
        return None

    def drawn(self, rows: int, most: int) -> list[int]:
        """At most `most` of so many rows, drawn by the seed, ascending."""
        return sorted(np.random.default_rng(self.seed).permutation(rows)[:most].tolist())

    def files(self, graph: Graph) -> Mapping[str, Path]:  # noqa: ARG002
        """More files for the bundle of a graph, or other ones than the checkpoint has, by name."""
        return {}

    @property
    def bundle_fields(self) -> Mapping[str, Any]:
        """More fields of `bundle.json`."""
        return {}


@dataclass(frozen=True)
class TracedSubject(Subject):
    """A model that `load_model` gives, traced from example inputs to one graph with the output `logits`."""

    @property
    @abstractmethod
    def signature(self) -> Signature:
        """What the model takes and gives."""

    @property
    @abstractmethod
    def calibration(self) -> Sequence[Batch]:
        """Typical inputs, from the training split."""

    def measure(self, path: Path) -> tuple[Mapping[str, float], NeighbourEffect]:  # noqa: ARG002
        """The figures of a graph that was made elsewhere, the first of which decides, on the compared rows.

        Raises:
            UsageError: The kind takes no such graph.
        """
        raise UsageError(
            f"--from-onnx: the task kind {self.record.task} takes no ONNX file: its conversion module does "
            "not define `measure` (docs/how-to/add_a_task_kind.md)."
        )

    @property
    def columns(self) -> int:
        """How many numbers `logits` has for a row: by default one for each label."""
        return len(self.record.labels)

    def preparation(self, graph: Graph) -> Mapping[str, Path]:  # noqa: ARG002
        """Files of a bundle that say how serving prepares rows, if those of the splits were prepared."""
        return {}

    def source(self) -> Source:
        """What candidates are made from."""
        model = load_model(self.checkpoint, attention="eager")
        return Source(model, self.signature, self.section.opset, self.calibration)

    def build(self, folder: Path) -> list[Graph | Failed]:
        """Make the section's candidates in `folder`."""
        return build_graphs(self.section.candidates, self.source(), folder)

    @property
    def pytorch(self) -> Mapping[str, Contender]:
        """The checkpoint in PyTorch, eager and compiled, as the section asks."""
        device = self.section.device
        return {
            mode: Contender(f"{WORKER}:{mode}_forward", self.checkpoint, device, optional=mode == COMPILED)
            for mode in self.section.pytorch
        }

    def contender(self, graph: Graph) -> Contender:
        """The graph in ONNX Runtime."""
        return Contender(f"{WORKER}:onnx_forward", graph.path, self.section.device)


@dataclass(frozen=True)
class ScoredSubject(TracedSubject, Generic[AnyRows, AnyScores]):
    """A model that gives each row of a split as many scores; all validation rows are compared."""

    @abstractmethod
    def read_rows(self, split: SplitName) -> AnyRows:
        """Read a split that validate-data wrote."""

    @abstractmethod
    def scores(self, forward: Forward) -> AnyScores:
        """A model's scores of all rows."""

    @cached_property
    def rows(self) -> AnyRows:
        """The validation split."""
        return self.read_rows("validation")

    @property
    def compared_rows(self) -> int:
        """All of them."""
        return len(self.rows)

    def batch(self, rows: Indices) -> Batch:
        """The model's inputs of some rows."""
        return self.rows.batch(rows)

    @property
    def calibration(self) -> Sequence[Batch]:
        """Some rows of the training split."""
        return sample(self.read_rows("train"), self.seed)

    @cached_property
    def pytorch_scores(self) -> AnyScores:
        """PyTorch's scores of all rows.

        Raises:
            GauntletError: They are not finite.
        """
        scores = self.scores(pytorch_forward(load_model(self.checkpoint)))
        if strange := scores.rows_not_finite:
            raise GauntletError(
                f"{self.checkpoint}: the PyTorch model itself gives scores that are not finite for {strange} "
                f"of {len(self.rows)} validation rows, so its training diverged. Lower "
                "training.learning_rate."
            )
        return scores

    def compared_with(self, graph: Graph) -> tuple[AnyScores, AnyScores | None]:  # noqa: ARG002
        """PyTorch's scores that a graph is compared with, and its teacher's if it has one."""
        return self.pytorch_scores, None

    def finite_scores(self, forward: Forward) -> AnyScores:
        """A graph's scores of all rows.

        Raises:
            ConversionError: They are not finite.
        """
        scores = self.scores(forward)
        if strange := scores.rows_not_finite:
            raise ConversionError(f"gives scores that are not finite for {strange} of {len(self.rows)} rows")
        return scores
