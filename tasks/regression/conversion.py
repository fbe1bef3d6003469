"""Converts models that answer with a number: candidates are compared with PyTorch by their answers.

Bounds of `conversion` are in standard deviations of the target, so that they do not depend on its unit.
N = rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gauntlet.components.bootstrap import interval, upper_bound
from gauntlet.components.convert_to_onnx.candidates import Graph, Precision
from gauntlet.components.convert_to_onnx.export import (
    Signature,
    signature_of_images,
)
from gauntlet.components.convert_to_onnx.scoring import (
    Forward,
    Indices,
    Logits,
    NeighbourEffect,
    Scores,
    measure_neighbours,
    onnx_forward,
    parity_batches,
    score,
)
from gauntlet.components.convert_to_onnx.subject import HeldOut, Parity, ScoredSubject
from gauntlet.components.convert_to_onnx.timing import Batch
from gauntlet.contracts.data import STATISTICS_FILE
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import UsageError
from gauntlet.serving.bundle import TOKENIZER_FILE
from gauntlet.serving.cpu import usable_cpus
from gauntlet.serving.images import ImageInputs
from gauntlet.serving.texts import TextInputs
from gauntlet.tasks.images.conversion import png_of, resize_file
from gauntlet.tasks.regression.data import Statistics
from gauntlet.tasks.regression.metrics import half_width, measure, resample
from gauntlet.tasks.regression.rows import NumberRows, are_images, read_rows
from gauntlet.tasks.regression.serving import HALF_WIDTH
from gauntlet.tasks.regression.target import TARGET_FILE, Target
from gauntlet.tasks.texts.conversion import TextSubject, used_ids
from gauntlet.trainer.batching import Lengths
from gauntlet.trainer.mapped import Texts

CLOSE = 0.1
"""Answers that differ by less, in standard deviations of the target, count as the same."""

WORST_ROWS = 5
EXCERPT_CHARACTERS = 160
RESAMPLES = 2_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class AskedRows:
    """The rows of a split, as serving gives them to a graph."""

    split: NumberRows
    inputs: TextInputs | ImageInputs

    def __len__(self) -> int:
        return len(self.split)

    @property
    def are_padded(self) -> bool:
        """Texts are, images are not."""
        return isinstance(self.inputs, TextInputs)

    @property
    def lengths(self) -> Lengths:
        """Characters of a text; all images have one size."""
        inputs = self.split.inputs
        return inputs.lengths if isinstance(inputs, Texts) else np.ones(len(inputs), dtype=np.int64)

    def batch(self, rows: Indices) -> Batch:
        """The graph's inputs of some rows."""
        return self.inputs.batch([self.split.inputs[row] for row in rows])

    def used_ids(self) -> frozenset[int]:
        """The token ids of all texts, padded as one batch."""
        assert isinstance(self.inputs, TextInputs) and isinstance(self.split.inputs, Texts)
        return used_ids(self.inputs, self.split.inputs)


@dataclass(frozen=True)
class NumberParity:
    """A candidate's answers against PyTorch's for the same rows, in the unit of the target.

    Attributes:
        rows: How many rows were compared.
        left_padded_rows: How many of them also with padding on the left.
        std: The target's standard deviation.
        max_abs_difference: The largest difference of any answer, padded on either side.
        mean_abs_difference: The mean difference.
        far: Answers that differ by `CLOSE` standard deviations or more, with the padding that has more.
        pytorch_mae: PyTorch's mean absolute error.
        mae, r2: The candidate's.
        rise_interval: What conversion adds to the mean absolute error: the middle 95 % of a paired
            bootstrap.
        rise_bound: Its one-sided upper limit at 95 %.
        half_width: Of the interval around an answer, if the model has intervals.
        worst: The rows that differ most, by their position in the split, with the difference.
    """

    rows: int
    left_padded_rows: int
    std: float
    max_abs_difference: float
    mean_abs_difference: float
    far: int
    pytorch_mae: float
    mae: float
    r2: float
    rise_interval: tuple[float, float]
    rise_bound: float
    half_width: float | None
    worst: tuple[tuple[int, float], ...]

    @property
    def quality(self) -> float:
        """The mean absolute error below 0, so that higher is better."""
        return -self.mae

    @property
    def agreement(self) -> float:
        """The share of answers that are close to PyTorch's."""
        return 1 - self.far / self.rows

    @property
    def figures(self) -> dict[str, float]:
        """See `subject.Parity`."""
        interval = {} if self.half_width is None else {HALF_WIDTH: self.half_width}
        return {
            "mae": self.mae,
            "r2": self.r2,
            "mae_rise": self.mae - self.pytorch_mae,
            "mae_rise_bound": self.rise_bound,
            "agreement": self.agreement,
            "max_abs_difference": self.max_abs_difference,
            "mean_abs_difference": self.mean_abs_difference,
            **interval,
        }

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """See `subject.Parity`."""
        return {"mae_rise_interval": self.rise_interval}

    @property
    def evidence(self) -> dict[str, Any]:
        """See `subject.Parity`."""
        return {
            "target_std": self.std,
            "pytorch_mae": self.pytorch_mae,
            "left_padded_rows": self.left_padded_rows,
            "worst_rows": [{"row": row, "difference": difference} for row, difference in self.worst],
        }

    def refusal(self, precision: Precision, bounds: Conversion) -> str | None:
        """Every bound that the candidate breaks, in words; None if it keeps them all. NaN breaks a bound.

        fp32 is held to its largest difference, all others to the share of answers that are close.
        """
        broken = []
        difference, rise = self.max_abs_difference / self.std, self.rise_bound / self.std
        if precision == "fp32" and not difference <= bounds.max_abs_logit_difference:
            broken.append(
                f"answers differ from PyTorch's by up to {self.max_abs_difference:.3g}, {difference:.3g} "
                f"standard deviations of the target, over max_abs_logit_difference "
                f"{bounds.max_abs_logit_difference:g}; worst is row {self.worst[0][0]}"
            )
        if precision != "fp32" and not self.agreement >= bounds.min_label_agreement:
            broken.append(
                f"{self.far} of {self.rows} answers differ from PyTorch's by {CLOSE:g} standard deviations "
                f"of the target or more, so agreement {self.agreement:.4f} is under min_label_agreement "
                f"{bounds.min_label_agreement:g}; worst is row {self.worst[0][0]}"
            )
        if not rise <= bounds.max_metric_drop:
            broken.append(
                f"the mean absolute error rises from {self.pytorch_mae:.4g} to {self.mae:.4g}, and at 95 % "
                f"confidence by up to {self.rise_bound:.4g}, {rise:.3g} standard deviations of the target, "
                f"over max_metric_drop {bounds.max_metric_drop:g}"
            )
        return "; ".join(broken) or None


@dataclass(frozen=True)
class NumberSubject(ScoredSubject[AskedRows, Scores]):
    """A model that answers with a number, and its rows."""

    @cached_property
    def target(self) -> Target:
        """What the model was trained on.

        Raises:
            UsageError: The checkpoint does not say so, or it was trained on another target.
        """
        try:
            target = Target.read(self.checkpoint)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if target.name != self.statistics.target:
            raise UsageError(
                f"{TARGET_FILE}: found a model of {target.name}, expected one of {self.statistics.target}, "
                "dataset.columns.target."
            )
        return target

    @cached_property
    def statistics(self) -> Statistics:
        """Of the splits."""
        return Statistics.read(self.splits / STATISTICS_FILE)

    def read_rows(self, split: SplitName) -> AskedRows:
        """A split that validate-data wrote."""
        inputs: TextInputs | ImageInputs = ImageInputs(self.record.input_shape)
        if self.is_tokenized:
            inputs = TextInputs.open(self.checkpoint / TOKENIZER_FILE, self.record.max_length)
        return AskedRows(read_rows(self.splits, split), inputs)

    def held_out(self, split: SplitName, most: int) -> HeldOut:
        """Rows and their numbers; the range of those of the validation split counts as a loss of 1."""
        rows = self.read_rows(split).split
        at = self.drawn(len(rows), most)
        parts = [[given if isinstance(given := rows.inputs[row], str) else png_of(given)] for row in at]
        return HeldOut(parts, [str(number) for number in rows.targets[at]], self.span)

    @cached_property
    def span(self) -> float | None:
        """The range of the validation split's numbers; None if they are all the same."""
        return float(np.ptp(self.rows.split.targets)) or None

    @property
    def columns(self) -> int:
        """One."""
        return 1

    @property
    def signature(self) -> Signature:
        """An image in, a number out."""
        return signature_of_images(self.record.input_shape)

    def files(self, graph: Graph) -> Mapping[str, Path]:
        """As `preparation`."""
        return self.preparation(graph)

    def preparation(self, graph: Graph) -> Mapping[str, Path]:
        """How images are resized."""
        return resize_file(graph, self.statistics.resize)

    def scores(self, forward: Forward) -> Scores:
        """A model's answers for all rows, (N, 1)."""
        return score(self.rows, forward, 1, *parity_batches(self.rows.lengths, self.seed))

    def reference(self, compared: Sequence[Parity]) -> dict[str, float]:  # noqa: ARG002
        """PyTorch's metrics; a `UsageError` if it was trained on another target."""
        self.target  # noqa: B018
        return measure(self.rows.split.targets, _numbers(self.pytorch_scores.right))

    def compare(self, graph: Graph) -> tuple[NumberParity, NeighbourEffect]:
        """Compare the graph's answers for all rows; see `subject.Subject`."""
        (scores, neighbours), (pytorch, teacher) = self._answers(graph.path), self.compared_with(graph)
        targets, target = self.rows.split.targets, self.target
        return compare(targets, pytorch, scores, target.std, target.coverage, self.seed, teacher), neighbours

    def measure(self, path: Path) -> tuple[dict[str, float], NeighbourEffect]:
        """See `subject.TracedSubject`."""
        scores, neighbours = self._answers(path)
        targets, numbers = self.rows.split.targets, _numbers(scores.right)
        figures, coverage = measure(targets, numbers), self.target.coverage
        if coverage is not None:
            figures[HALF_WIDTH] = half_width(numbers - targets, coverage)
        return figures, neighbours

    def _answers(self, path: Path) -> tuple[Scores, NeighbourEffect]:
        """A graph's answers for all rows, and how much the other rows of a batch change them."""
        forward, std = onnx_forward(path, usable_cpus(), self.section.device), self.target.std
        scores = self.finite_scores(forward)
        effect = partial(neighbour_effect, std=std)
        return scores, measure_neighbours(self.rows, forward, self.seed, effect)

    def worst_rows(self, parity: Parity) -> list[Mapping[str, Any]]:
        """The rows whose answers differ most."""
        assert isinstance(parity, NumberParity)
        split = self.rows.split
        return [
            {
                "row": row,
                "difference": difference,
                "target": float(split.targets[row]),
                **({"text": split.inputs[row][:EXCERPT_CHARACTERS]} if self.is_tokenized else {}),
                "file_row": int(split.rows[row]),
            }
            for row, difference in parity.worst
        ]


@dataclass(frozen=True)
class TextNumberSubject(TextSubject[AskedRows, Scores], NumberSubject):
    """A model of texts, with its student if it has one."""

    def preparation(self, graph: Graph) -> Mapping[str, Path]:  # noqa: ARG002
        """The tokenizer."""
        return {TOKENIZER_FILE: self.checkpoint / TOKENIZER_FILE}


def compare(
    targets: npt.NDArray[np.float64],
    pytorch: Scores,
    candidate: Scores,
    std: float,
    coverage: float | None,
    seed: int,
    teacher: Scores | None = None,
) -> NumberParity:
    """Compare finite answers of two models for rows with these targets (N,).

    For a student's graph, `pytorch` is the student, and the rise of the error is over the `teacher`.
    """
    ours, theirs = _numbers(candidate.right), _numbers(pytorch.right)
    reference = theirs if teacher is None else _numbers(teacher.right)
    difference = np.abs(ours - theirs)
    left = np.abs(_numbers(candidate.left) - _numbers(pytorch.left))
    drawn_theirs, drawn_ours = resample(targets, [reference, ours], RESAMPLES, seed)
    rises = drawn_ours["mae"] - drawn_theirs["mae"]
    errors = measure(targets, ours)
    worst = np.argsort(-difference, kind="stable")[:WORST_ROWS]
    far = int((difference >= CLOSE * std).sum())
    if len(left):  # the padding with the larger share counts
        far = max(far, round(float((left >= CLOSE * std).mean()) * len(targets)))
    return NumberParity(
        rows=len(targets),
        left_padded_rows=len(left),
        std=std,
        max_abs_difference=max(float(difference.max()), float(left.max(initial=0.0))),
        mean_abs_difference=float(difference.mean()),
        far=far,
        pytorch_mae=measure(targets, reference)["mae"],
        mae=errors["mae"],
        r2=errors["r2"],
        rise_interval=interval(rises, CONFIDENCE),
        rise_bound=upper_bound(rises, CONFIDENCE),
        half_width=None if coverage is None else half_width(ours - targets, coverage),
        worst=tuple((int(row), float(difference[row])) for row in worst),
    )


def neighbour_effect(alone: Logits, others: Sequence[Logits], std: float) -> NeighbourEffect:
    """Compare answers (N, 1) for rows alone with those in batches, in standard deviations of the target.

    A row counts among `label_changes` if its answer changes by `CLOSE` or more.
    """
    changes = np.abs(np.stack(others) - alone).max(axis=(0, 2)) / std
    return NeighbourEffect(len(alone), float(changes.max(initial=0.0)), int((~(changes < CLOSE)).sum()))


def _numbers(answers: Logits) -> npt.NDArray[np.float64]:
    return answers[:, 0].astype(np.float64)


def open_subject(
    section: Conversion, checkpoint: Path, record: TrainingRecord, splits: Path, seed: int
) -> NumberSubject:
    """The model of a checkpoint, with the splits that it was trained on."""
    kind = NumberSubject if are_images(splits) else TextNumberSubject
    return kind(section, checkpoint, record, splits, seed)
