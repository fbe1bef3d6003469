"""A task kind that conversion has never seen: a label for each token. It says how to compare, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gauntlet.components.convert_to_onnx.admission import CandidateResult
from gauntlet.components.convert_to_onnx.bundling import candidates_document
from gauntlet.components.convert_to_onnx.candidates import Failed, Graph, Precision, Source
from gauntlet.components.convert_to_onnx.export import Signature, signature_of_texts
from gauntlet.components.convert_to_onnx.run import compare_candidates
from gauntlet.components.convert_to_onnx.scoring import (
    Forward,
    Indices,
    Logits,
    NeighbourEffect,
    measure_neighbours,
    onnx_forward,
    pytorch_forward,
    sample,
)
from gauntlet.components.convert_to_onnx.subject import Parity, TracedSubject
from gauntlet.components.convert_to_onnx.timing import Batch
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.conversion import Conversion
from gauntlet.serving.bundle import open_session
from gauntlet.tasks.texts.network import load_encoder

TAGS, TOKENS = 3, 19


class Tagger(nn.Module):
    """Logits of each token, (B, T, `TAGS`)."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = load_encoder(folder, pretrained=False, attention="eager")
        self.head = nn.Linear(self.encoder.config.hidden_size, TAGS)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: torch.Tensor = self.head(states)
        return logits


class Sentences:
    """Rows of three to eight tokens."""

    are_padded = True

    def __len__(self) -> int:
        return 12

    def batch(self, rows: Indices) -> Batch:
        lengths = 3 + np.asarray(rows) % 6
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        return {"input_ids": (np.asarray(rows)[:, None] + np.arange(mask.shape[1])) % TOKENS * mask,
                "attention_mask": mask}  # fmt: skip


EVERY = Sentences().batch(np.arange(12))


@dataclass(frozen=True)
class TagParity:
    agreement: float
    largest: float

    intervals: Any = None
    evidence: Any = None

    @property
    def quality(self) -> float:
        return self.agreement

    @property
    def figures(self) -> dict[str, float]:
        return {"tag_agreement": self.agreement, "max_abs_difference": self.largest}

    def refusal(self, precision: Precision, bounds: Conversion) -> str | None:
        if precision == "fp32" and not self.largest <= bounds.max_abs_logit_difference:
            return f"logits differ by up to {self.largest:.3g}"
        return None if self.agreement >= bounds.min_label_agreement else f"agreement {self.agreement:.3f}"


def of_tokens(forward: Forward) -> Forward:
    """The logits of the tokens that are no padding, (tokens, `TAGS`)."""
    return lambda batch: forward(batch)[np.asarray(batch["attention_mask"]) == 1]


@dataclass(frozen=True)
class TaggerSubject(TracedSubject):
    @property
    def compared_rows(self) -> int:
        return len(Sentences())

    @property
    def signature(self) -> Signature:
        encoder = signature_of_texts()
        return Signature(encoder.example, encoder.dynamic_axes, output_axes={0: "batch", 1: "tokens"})

    @property
    def calibration(self) -> Sequence[Batch]:
        return sample(Sentences(), self.seed)

    def batch(self, rows: Indices) -> Batch:
        return Sentences().batch(rows)

    def source(self) -> Source:
        return Source(Tagger(self.checkpoint).eval(), self.signature, self.section.opset, self.calibration)

    @cached_property
    def expected(self) -> Logits:
        return of_tokens(pytorch_forward(Tagger(self.checkpoint).eval()))(EVERY)

    def compare(self, graph: Graph) -> tuple[TagParity, NeighbourEffect]:
        forward = of_tokens(onnx_forward(graph.path, 1))
        found = forward(EVERY)
        agreement = float((found.argmax(1) == self.expected.argmax(1)).mean())
        parity = TagParity(agreement, float(np.abs(found - self.expected).max()), {}, {})
        return parity, measure_neighbours(Sentences(), forward, self.seed)

    def reference(self, compared: Sequence[Parity]) -> dict[str, float]:
        return {"tokens": len(self.expected)}


@pytest.fixture(scope="module")
def subject(tiny_encoder: Path) -> TaggerSubject:
    record = TrainingRecord(
        task="token_classification",
        labels=("O", "B", "I"),
        seed=0,
        epoch=1,
        data_sha256="d" * 64,
        training_sha256="e" * 64,
        max_length=32,
    )
    section = Conversion(
        candidates=("plain", "fused", "int8_per_token"), min_label_agreement=0.8, max_neighbour_difference=0.5
    )
    return TaggerSubject(section, tiny_encoder, record, tiny_encoder, seed=0)


def test_candidates_of_any_kind_are_made_compared_and_listed_with_the_kinds_own_figures(
    subject: TaggerSubject, tmp_path: Path
) -> None:
    graphs = subject.build(tmp_path)
    (plain,) = [graph for graph in graphs if graph.name == "plain" and isinstance(graph, Graph)]
    (output,) = open_session(plain.path, threads=1).get_outputs()
    assert (output.name, output.shape) == ("logits", ["batch", "tokens", TAGS])
    comparison = compare_candidates(subject, [*graphs, Failed("fused_fp16", "was not asked for")])
    by_name = {one.name: one for one in comparison.candidates}
    for name in ("plain", "fused"):
        result = by_name[name]
        assert isinstance(result, CandidateResult)
        assert (result.reason, result.parity.quality) == (None, 1.0)
        assert result.neighbours.max_difference < 1e-4
    rows = {row["name"]: row for row in candidates_document(comparison, None).as_json()["candidates"]}
    assert rows["plain"]["tag_agreement"] == 1.0 and rows["plain"]["max_abs_difference"] < 1e-4
    assert rows["int8_per_token"]["max_abs_difference"] > rows["plain"]["max_abs_difference"]
    assert comparison.pytorch == {"tokens": sum(3 + row % 6 for row in range(12))}
