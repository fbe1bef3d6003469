"""Converts the tagger: candidates are compared with PyTorch by the logits and the tag of each word.

N = sentences, W = words of all of them, K = tags, R = resamples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gauntlet.components.bootstrap import interval, resampled_means, upper_bound
from gauntlet.components.convert_to_onnx.candidates import Graph, Precision
from gauntlet.components.convert_to_onnx.export import ConversionError, Signature
from gauntlet.components.convert_to_onnx.scoring import (
    Forward,
    Indices,
    NeighbourEffect,
    neighbour_effect,
    onnx_forward,
    pytorch_forward,
)
from gauntlet.components.convert_to_onnx.subject import Parity, TracedSubject
from gauntlet.components.convert_to_onnx.timing import Batch
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.cpu import usable_cpus
from gauntlet.trainer.saved_model import load_model
from gauntlet_token_classification.entities import outcomes, scores
from gauntlet_token_classification.features import FEATURES, batch_ids
from gauntlet_token_classification.serving import CONFIG_FILE, INPUT
from gauntlet_token_classification.training import Sentences

BATCH_SIZE = 32
NEIGHBOUR_SENTENCES = 96
CALIBRATION_SENTENCES = 256
WORST = 5
RESAMPLES = 2_000
CONFIDENCE = 0.95

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenParity:
    """A candidate's logits against PyTorch's on the same words.

    Attributes:
        words: How many words were compared.
        disagreements: Words with another tag.
        pytorch_entity_f1: PyTorch's entity F1 against the true tags.
        entity_f1: The candidate's.
        drop_interval: Entity F1 lost by converting: the middle 95 % of a paired bootstrap over sentences.
        drop_bound: Its one-sided upper limit at 95 %.
        worst: The sentences that differ most, by their position in the split, with the largest difference.
    """

    words: int
    max_abs_difference: float
    disagreements: int
    pytorch_entity_f1: float
    entity_f1: float
    drop_interval: tuple[float, float]
    drop_bound: float
    worst: tuple[tuple[int, float], ...]

    @property
    def quality(self) -> float:
        """Entity F1."""
        return self.entity_f1

    @property
    def agreement(self) -> float:
        """The share of words with the same tag."""
        return 1 - self.disagreements / self.words

    @property
    def figures(self) -> Mapping[str, float]:
        """See `subject.Parity`."""
        return {
            "entity_f1": self.entity_f1,
            "metric_drop": self.pytorch_entity_f1 - self.entity_f1,
            "metric_drop_bound": self.drop_bound,
            "label_agreement": self.agreement,
            "max_abs_difference": self.max_abs_difference,
        }

    @property
    def intervals(self) -> Mapping[str, tuple[float, float]]:
        """See `subject.Parity`."""
        return {"metric_drop_interval": self.drop_interval}

    @property
    def evidence(self) -> Mapping[str, Any]:
        """See `subject.Parity`."""
        return {"pytorch_entity_f1": self.pytorch_entity_f1, "words": self.words}

    def refusal(self, precision: Precision, bounds: Conversion) -> str | None:
        """Every bound that the candidate breaks, in words; None if it keeps them all. NaN breaks a bound."""
        broken = []
        if precision == "fp32" and not self.max_abs_difference <= bounds.max_abs_logit_difference:
            broken.append(
                f"logits differ from PyTorch's by up to {self.max_abs_difference:.3g}, over "
                f"max_abs_logit_difference {bounds.max_abs_logit_difference:g}"
            )
        if precision != "fp32" and not self.agreement >= bounds.min_label_agreement:
            broken.append(
                f"{self.disagreements} of {self.words} tags differ from PyTorch's, so agreement "
                f"{self.agreement:.4f} is under min_label_agreement {bounds.min_label_agreement:g}"
            )
        if not self.drop_bound <= bounds.max_metric_drop:
            broken.append(
                f"entity F1 may fall by up to {self.drop_bound:.4f}, over max_metric_drop "
                f"{bounds.max_metric_drop:g}"
            )
        return "; ".join(broken) or None


@dataclass(frozen=True)
class TokenSubject(TracedSubject):
    """A tagger and the validation sentences."""

    @cached_property
    def sentences(self) -> Sentences:
        """The validation split."""
        return Sentences(self.splits, "validation")

    @cached_property
    def _buckets(self) -> int:
        return int(json.loads((self.checkpoint / CONFIG_FILE).read_text(encoding="utf-8"))["buckets"])

    @property
    def compared_rows(self) -> int:
        """All sentences."""
        return len(self.sentences.words)

    def batch(self, rows: Indices) -> Batch:
        """The features of some sentences."""
        return self._batch(self.sentences, rows)

    def _batch(self, split: Sentences, rows: Sequence[int] | Indices) -> Batch:
        return {INPUT: batch_ids([split.words[row] for row in rows], self._buckets)}

    @property
    def signature(self) -> Signature:
        """Features (B, T, F) in, logits (B, T, K) out."""
        example = {INPUT: torch.ones((2, 8, FEATURES), dtype=torch.int64)}
        axes = {0: "batch", 1: "tokens"}
        return Signature(example, axes, output_axes=axes)

    @property
    def calibration(self) -> Sequence[Batch]:
        """Sentences of the training split."""
        train = Sentences(self.splits, "train")
        drawn = np.random.default_rng(self.seed).permutation(len(train.words))[:CALIBRATION_SENTENCES]
        return [self._batch(train, drawn[at : at + BATCH_SIZE]) for at in range(0, len(drawn), BATCH_SIZE)]

    @cached_property
    def pytorch_logits(self) -> list[Logits]:
        """PyTorch's logits of each sentence.

        Raises:
            GauntletError: They are not finite.
        """
        logits = self._scored(pytorch_forward(load_model(self.checkpoint)), BATCH_SIZE)
        if not all(np.isfinite(one).all() for one in logits):
            raise GauntletError(
                f"{self.checkpoint}: the PyTorch model itself gives scores that are not finite, so its "
                "training diverged. Lower training.learning_rate."
            )
        return logits

    def reference(self, compared: Sequence[Parity]) -> Mapping[str, float]:  # noqa: ARG002
        """PyTorch's entity F1."""
        return {"entity_f1": _entity_f1(self._found(self.pytorch_logits).sum(axis=0))}

    def compare(self, graph: Graph) -> tuple[TokenParity, NeighbourEffect]:
        """Compare the graph's logits of all sentences; see `subject.Subject`."""
        forward = onnx_forward(graph.path, usable_cpus(), self.section.device)
        logits, pytorch = self._scored(forward, BATCH_SIZE), self.pytorch_logits
        if not all(np.isfinite(one).all() for one in logits):
            raise ConversionError("gives scores that are not finite")
        reference, found = self._found(pytorch), self._found(logits)
        differences = np.array(
            [np.abs(ours - theirs).max() for ours, theirs in zip(logits, pytorch, strict=True)]
        )  # (N,)
        means = resampled_means(np.concatenate([reference, found], axis=1), RESAMPLES, self.seed)  # (R, 10)
        drops = scores(means[:, :5])["entity_f1"] - scores(means[:, 5:])["entity_f1"]  # (R,)
        ours, theirs = (np.concatenate(one).argmax(axis=1) for one in (logits, pytorch))  # (W,)
        parity = TokenParity(
            words=len(ours),
            max_abs_difference=float(differences.max()),
            disagreements=int((ours != theirs).sum()),
            pytorch_entity_f1=_entity_f1(reference.sum(axis=0)),
            entity_f1=_entity_f1(found.sum(axis=0)),
            drop_interval=interval(drops, CONFIDENCE),
            drop_bound=upper_bound(drops, CONFIDENCE),
            worst=tuple((int(row), float(differences[row])) for row in np.argsort(-differences)[:WORST]),
        )
        alone, together = (
            np.concatenate(self._scored(forward, size, NEIGHBOUR_SENTENCES)) for size in (1, BATCH_SIZE)
        )
        return parity, neighbour_effect(alone, [together])

    def _scored(self, forward: Forward, size: int, most: int | None = None) -> list[Logits]:
        """The logits of each sentence without padding, (T, K), in batches of `size` in the split's order."""
        found: list[Logits] = []
        lengths = self.sentences.lengths[:most]
        for at in range(0, len(lengths), size):
            rows = np.arange(at, min(at + size, len(lengths)))
            logits = forward(self.batch(rows))  # (B, T, K)
            found += [one[: lengths[row]] for one, row in zip(logits, rows, strict=True)]
        return found

    def _found(self, logits: Sequence[Logits]) -> npt.NDArray[np.float64]:
        """The `outcomes` of each sentence, (N, 5)."""
        names = self.record.labels
        pairs = zip(self.sentences.tags, logits, strict=True)
        return np.array(
            [
                outcomes([names[tag] for tag in true], [names[tag] for tag in one.argmax(axis=1)])
                for true, one in pairs
            ],
            dtype=np.float64,
        )

    def worst_rows(self, parity: Parity) -> list[Mapping[str, Any]]:
        """The sentences that differ most."""
        assert isinstance(parity, TokenParity)
        return [
            {"row": row, "max_abs_difference": difference, "text": " ".join(self.sentences.words[row])[:160]}
            for row, difference in parity.worst
        ]


def _entity_f1(summed: npt.NDArray[np.float64]) -> float:
    return float(scores(summed)["entity_f1"])


open_subject = TokenSubject
