"""Converts models that give texts any number of labels. N = rows, C = labels.

The thresholds are chosen on the validation rows from PyTorch's scores. Every candidate is compared with them,
and the bundle contains them. A student has thresholds of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from gauntlet.components.convert_to_onnx.candidates import Graph
from gauntlet.components.convert_to_onnx.scoring import Logits
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import UsageError
from gauntlet.serving.bundle import BundleError
from gauntlet.tasks.classification.conversion import ClassScores, Decide
from gauntlet.tasks.classification.metrics import Sets
from gauntlet.tasks.multi_label_text.data import label_sets
from gauntlet.tasks.multi_label_text.thresholds import (
    THRESHOLDS_FILE,
    Thresholds,
    choose_thresholds,
    read_thresholds,
    sigmoid,
    write_thresholds,
)
from gauntlet.tasks.texts.conversion import EncoderSubject, TextRows


@dataclass(frozen=True)
class AboveThreshold:
    """Gives each row the labels whose probability is at least their threshold."""

    thresholds: Thresholds

    def __call__(self, logits: Logits) -> Sets:
        """The labels of logits, both (N, C)."""
        found: Sets = sigmoid(logits) >= self.thresholds
        return found


@dataclass(frozen=True)
class MultiLabelSubject(EncoderSubject):
    """A model of texts with several labels, with its student if it has one."""

    def read_rows(self, split: SplitName) -> TextRows:
        """Read the texts of a split and which labels they have."""
        return TextRows.read(self.splits, split, self.checkpoint, self.record, label_sets)

    @cached_property
    def pytorch_scores(self) -> ClassScores:
        """PyTorch's scores of all rows, with its thresholds."""
        return self._with_thresholds(super().pytorch_scores)

    @cached_property
    def student_scores(self) -> ClassScores:
        """The student's scores of all rows, with its thresholds."""
        return self._with_thresholds(super().student_scores)

    def _with_thresholds(self, scores: ClassScores) -> ClassScores:
        chosen = choose_thresholds(sigmoid(scores.right), self.rows.truth)
        return replace(scores, decide=AboveThreshold(chosen))

    @property
    def decide_imported(self) -> Decide:
        """By the thresholds beside the graph.

        Raises:
            UsageError: They cannot be read, or are not of the labels.
        """
        try:
            return AboveThreshold(read_thresholds(self.checkpoint, self.record.labels))
        except BundleError as error:
            raise UsageError(f"--from-onnx: {str(error).removeprefix(f'{self.checkpoint}/')}.") from None

    def answer(self, decide: Decide) -> Callable[[Logits], tuple[Logits, Sets]]:
        """The probability of each label, and the labels above their thresholds."""
        return lambda logits: (sigmoid(logits), decide(logits))

    def files(self, graph: Graph) -> Mapping[str, Path]:
        """The thresholds that the graph was compared with."""
        own, _ = self.compared_with(graph)
        assert isinstance(own.decide, AboveThreshold)
        path = graph.path.with_name(THRESHOLDS_FILE)
        return {THRESHOLDS_FILE: write_thresholds(path, self.record.labels, own.decide.thresholds)}


open_subject = MultiLabelSubject
