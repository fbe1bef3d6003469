"""Converts models of texts with an encoder, and the students that were distilled from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd

from gauntlet.components.convert_to_onnx.candidates import Failed, Graph, Source, build_graphs
from gauntlet.components.convert_to_onnx.export import Signature, signature_of_texts
from gauntlet.components.convert_to_onnx.scoring import Indices, SplitRows, pytorch_forward, sample
from gauntlet.components.convert_to_onnx.subject import AnyScores, ScoredSubject
from gauntlet.components.convert_to_onnx.timing import Batch
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.conversion import STUDENT, CandidateName
from gauntlet.manifests.dataset import SplitName
from gauntlet.serving.bundle import TOKENIZER_FILE
from gauntlet.serving.interface import Part
from gauntlet.serving.texts import TextInputs
from gauntlet.tasks.classification.conversion import ClassifierSubject, ClassScores
from gauntlet.tasks.texts.training import Targets, class_indices
from gauntlet.trainer.batching import Lengths
from gauntlet.trainer.mapped import Texts, map_texts
from gauntlet.trainer.saved_model import STUDENT_FOLDER, load_model
from gauntlet.trainer.splits import ROWS_AT_ONCE, read_targets

EXCERPT_CHARACTERS = 160


@dataclass(frozen=True)
class TextRows:
    """Texts, tokenised as serving does."""

    texts: Texts
    truth: Targets
    labels: Sequence[str]
    inputs: TextInputs
    are_padded = True

    @classmethod
    def read(
        cls,
        splits: Path,
        split: SplitName,
        checkpoint: Path,
        record: TrainingRecord,
        targets: Callable[[pd.DataFrame], Targets] = class_indices,
    ) -> TextRows:
        """Read a split that validate-data wrote, and the tokenizer of the checkpoint."""
        return cls(
            texts=map_texts(splits, split),
            truth=read_targets(splits, split, targets),
            labels=record.labels,
            inputs=TextInputs.open(checkpoint / TOKENIZER_FILE, record.max_length),
        )

    @property
    def lengths(self) -> Lengths:
        """Characters."""
        return self.texts.lengths

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, rows: Indices) -> Batch:
        """Token ids and masks, padded to the longest of the rows."""
        return self.inputs.batch([self.texts[row] for row in rows])

    def excerpt(self, row: int) -> Mapping[str, Any]:
        """The beginning of the text."""
        return {"text": self.texts[row][:EXCERPT_CHARACTERS]}

    def parts(self, row: int) -> Sequence[Part]:
        """The text."""
        return [self.texts[row]]

    def used_ids(self) -> frozenset[int]:
        """The token ids of all rows, padded as one batch."""
        return used_ids(self.inputs, self.texts)


def used_ids(inputs: TextInputs, texts: Texts) -> frozenset[int]:
    """The token ids of texts, padded as one batch."""
    found: set[int] = set()
    widths: set[int] = set()
    for start in range(0, len(texts), ROWS_AT_ONCE):
        ids = inputs.batch(texts[start : start + ROWS_AT_ONCE])["input_ids"]
        found.update(np.unique(ids).tolist())
        widths.add(ids.shape[1])
    padding = inputs.tokenizer.padding
    if padding and len(widths) > 1:
        found.add(padding["pad_id"])
    return frozenset(found)


class TextSplit(SplitRows, Protocol):
    """A split of texts."""

    def used_ids(self) -> frozenset[int]:
        """The token ids of all rows."""


AnyTexts = TypeVar("AnyTexts", bound=TextSplit)


@dataclass(frozen=True)
class TextSubject(ScoredSubject[AnyTexts, AnyScores]):
    """A model of texts, with its student if it has one."""

    is_tokenized = True

    @property
    def signature(self) -> Signature:
        """Token ids and a mask in, logits out."""
        return signature_of_texts()

    def source(self) -> Source:
        """What candidates are made from."""
        rows = self.read_rows("train")
        model = load_model(self.checkpoint, attention="eager")
        return Source(model, self.signature, self.section.opset, sample(rows, self.seed), rows.used_ids())

    def build(self, folder: Path) -> list[Graph | Failed]:
        """Make the candidates of the model and, if it has one, of its student."""
        source, student = self.source(), self.checkpoint / STUDENT_FOLDER
        graphs = build_graphs(self.section.candidates, source, folder)
        if student.is_dir():
            graphs += build_student_graphs(self.section.student.candidates, source, student, folder)
        return graphs

    @cached_property
    def student_scores(self) -> AnyScores:
        """The student's scores of all rows."""
        return self.scores(pytorch_forward(load_model(self.checkpoint / STUDENT_FOLDER)))

    def compared_with(self, graph: Graph) -> tuple[AnyScores, AnyScores | None]:
        """A student's graph is compared with the student, and its metric with the teacher's."""
        if graph.name.startswith(STUDENT):
            return self.student_scores, self.pytorch_scores
        return super().compared_with(graph)


@dataclass(frozen=True)
class EncoderSubject(TextSubject[TextRows, ClassScores], ClassifierSubject[TextRows]):
    """A classifier of texts."""

    def read_rows(self, split: SplitName) -> TextRows:
        """Read the texts of a split."""
        return TextRows.read(self.splits, split, self.checkpoint, self.record)


def build_student_graphs(
    names: Sequence[CandidateName], source: Source, student: Path, folder: Path
) -> list[Graph | Failed]:
    """Make candidates of the student of the source's model."""
    own_folder = folder / STUDENT_FOLDER
    own_folder.mkdir()
    source = replace(source, model=load_model(student, attention="eager"))
    return build_graphs(names, source, own_folder, prefix=STUDENT)


open_subject = EncoderSubject
