"""Converts causal language models: candidates are compared by logits, next tokens and perplexity.

B = batch, T = tokens, V = vocabulary. Padding may be on either side, except where a prompt is continued.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from gauntlet.components.convert_to_onnx.candidates import Failed, Graph, Precision, describe
from gauntlet.components.convert_to_onnx.export import ConversionError, FusedOps
from gauntlet.components.convert_to_onnx.scoring import Indices, NeighbourEffect, neighbour_effect
from gauntlet.components.convert_to_onnx.subject import HeldOut, Parity, Subject
from gauntlet.components.convert_to_onnx.timing import Batch, Contender
from gauntlet.manifests.conversion import DECODER_CANDIDATES, Conversion
from gauntlet.manifests.dataset import SplitName
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.bundle import TOKENIZER_FILE
from gauntlet.serving.cpu import usable_cpus
from gauntlet.serving.generation import Decoder, Floats, Tokens, pad_left, token_losses
from gauntlet.serving.request_log import FEATURE
from gauntlet.serving.texts import open_tokenizer
from gauntlet.tasks.causal_lm import timing
from gauntlet.tasks.causal_lm.decoder import (
    export_decoder,
    quantize_int8,
    quantize_per_token,
    quantize_weights,
)
from gauntlet.tasks.causal_lm.timing import NEW_TOKENS
from gauntlet.tasks.causal_lm.training import ADAPTER_FOLDER, network_of
from gauntlet.tasks.language.language_models import context_of
from gauntlet.tasks.language.packing import TokenRow, TokenRows
from gauntlet.trainer.splits import read_split

PARITY_ROWS = 16
PARITY_BATCH = 2  # its logits are of every token and of the whole vocabulary
COMPANY_SIZES = (2, 5)
COMPANY_TOKENS = 128  # at most this much of a row is read, alone and in each batch size
CACHED_TOKENS = 4  # of each row that go one by one through the cache
TIMED_PROMPT_TOKENS = 128
PYTORCH = "eager"


@dataclass(frozen=True)
class DecoderSubject(Subject):
    """A language model, some of its conversations to compare on, and their prompts to time."""

    facts: ClassVar[Mapping[str, Any]] = {"new_tokens": NEW_TOKENS}

    @cached_property
    def rows(self) -> Sequence[TokenRow]:
        """The validation split as tokens."""
        tokenizer = open_tokenizer(self.checkpoint / TOKENIZER_FILE).tokenizer
        return TokenRows(self.splits, "validation", tokenizer, self.record.max_length)

    @property
    def compared(self) -> list[Sequence[int]]:
        """The rows that candidates are compared on."""
        order = np.random.default_rng(self.seed).permutation(len(self.rows))[:PARITY_ROWS]
        return [self.rows[at].whole for at in order]

    @property
    def compared_rows(self) -> int:
        """At most `PARITY_ROWS`."""
        return min(PARITY_ROWS, len(self.rows))

    @property
    def timed_rows(self) -> int:
        """All rows: prompts are drawn from them."""
        return len(self.rows)

    @cached_property
    def context(self) -> int:
        """How many tokens the model reads."""
        return context_of(network_of(self.checkpoint))

    def batch(self, rows: Indices) -> Batch:
        """Prompts whose continuation is timed, padded on the left."""
        ids, mask = pad_left(timed_prompts([self.rows[row].prompt for row in rows], self.context))
        return {"input_ids": ids, "attention_mask": mask}

    def build(self, folder: Path) -> list[Graph | Failed]:
        """As `build`."""
        return build(self.section, network_of(self.checkpoint), folder)

    def compare(self, graph: Graph) -> tuple[DecoderParity, NeighbourEffect]:
        """Compare with a network that is loaded here, so that it takes no memory while models are timed."""
        decoder, rows = Decoder(graph.path, usable_cpus()), self.compared
        return compare(_scored(decoder, network_of(self.checkpoint), rows)), measure_neighbours(decoder, rows)

    def reference(self, compared: Sequence[Parity]) -> dict[str, float]:
        """PyTorch's perplexity. Comparing a candidate computes it; without one it is computed here."""
        found = [parity.pytorch_perplexity for parity in compared if isinstance(parity, DecoderParity)]
        return {"perplexity": found[0] if found else perplexity(network_of(self.checkpoint), self.compared)}

    @property
    def pytorch(self) -> Mapping[str, Contender]:
        """transformers, greedily and with its cache."""
        return {PYTORCH: Contender(f"{timing.__name__}:generating", self.checkpoint)}

    def contender(self, graph: Graph) -> Contender:
        """The graph as serving runs it."""
        return Contender(f"{timing.__name__}:generating_onnx", graph.path)

    def files(self, graph: Graph) -> Mapping[str, Path]:  # noqa: ARG002
        """The adapters, if the model was trained with some."""
        return {path.name: path for path in sorted((self.checkpoint / ADAPTER_FOLDER).glob("*"))}

    def held_out(self, split: SplitName, most: int) -> HeldOut:
        """The questions of single turns, which are not answered: no column is made of an answer."""
        prompts = read_split(self.splits, split)["prompt"].tolist()
        before, after = self.record.frame or ("", "")
        questions = [
            prompts[at].removeprefix(before).removesuffix(after) for at in self.drawn(len(prompts), most)
        ]
        left_out = frozenset({"tokens", f"{FEATURE}most_answer_tokens"})
        return HeldOut([[question] for question in questions], are_answered=False, left_out=left_out)

    @property
    def bundle_fields(self) -> Mapping[str, Any]:
        """The repetition penalty, if there is one."""
        penalty = self.section.repetition_penalty
        return {} if penalty == 1 else {"repetition_penalty": penalty}


open_subject = DecoderSubject


def _scored(
    decoder: Decoder, network: PreTrainedModel, rows: Sequence[Sequence[int]]
) -> Iterator[ScoredBatch]:
    """Both models' logits in small batches, which fit into memory."""
    for ids, mask, prompt in _batches(rows):
        theirs = pytorch_logits(network, ids, mask, prompt)
        yield ScoredBatch(ids, mask, theirs, decoder.logits(ids, mask, prompt))


def _batches(rows: Sequence[Sequence[int]]) -> Iterator[tuple[Tokens, Tokens, int]]:
    """Tokens and mask (B, T), and the columns that are read at once; the others go through the cache."""
    for start in range(0, len(rows), PARITY_BATCH):
        ids, mask = pad_left(rows[start : start + PARITY_BATCH])
        yield ids, mask, max(1, ids.shape[1] - CACHED_TOKENS)


def perplexity(network: PreTrainedModel, rows: Sequence[Sequence[int]]) -> float:
    """PyTorch's over all tokens except each row's first, as `DecoderParity` has it."""
    losses = [
        token_losses(pytorch_logits(network, ids, mask, prompt), ids, mask.astype(bool))
        for ids, mask, prompt in _batches(rows)
    ]
    return math.exp(np.concatenate(losses).mean())


def build(section: Conversion, network: PreTrainedModel, folder: Path) -> list[Graph | Failed]:
    """Make the section's candidates in `folder`; a `GauntletError` if the model cannot be exported at all."""
    plain = folder / "plain.onnx"
    try:
        export_decoder(network, plain)
    except ConversionError as error:
        raise GauntletError(f"conversion: the model {error}. Choose another in training.model.") from None
    made: list[Graph | Failed] = []
    makers: dict[str, Callable[[Path, Path], None]] = {
        "int8_per_token": quantize_per_token,
        "int8": quantize_int8,
        "weights_int8": partial(quantize_weights, bits=8),
        "weights_int4": partial(quantize_weights, bits=4),
    }
    for name in section.candidates:
        path = folder / f"{name}.onnx"
        if name not in DECODER_CANDIDATES:
            made.append(Failed(name, "is for encoders, and this is a language model"))
            continue
        try:
            if name != "plain":
                makers[name](plain, path)
        except Exception as error:  # whatever the quantiser may raise
            traceback.print_exc()
            made.append(Failed(name, f"could not be made: {describe(error)}"))
        else:
            made.append(Graph(name, path, FusedOps.of(path)))
    return made


def measure_neighbours(decoder: Decoder, rows: Sequence[Sequence[int]]) -> NeighbourEffect:
    """How much the other prompts of a batch and their padding change the next token.

    Every other row is halved, so that there is padding.
    """
    shown = [row[:COMPANY_TOKENS] for row in rows]
    shown = [row[: max(1, len(row) >> at % 2)] for at, row in enumerate(shown)]

    def last(size: int) -> Floats:
        parts = [
            decoder.tail_logits(*pad_left(shown[at : at + size]), 1) for at in range(0, len(shown), size)
        ]
        return np.concatenate(parts)[:, 0]  # (rows, vocabulary)

    return neighbour_effect(last(1), [last(size) for size in COMPANY_SIZES])


def timed_prompts(prompts: Sequence[Sequence[int]], context: int) -> list[Sequence[int]]:
    """The end of each prompt, short enough to leave room for `NEW_TOKENS` in the model's context."""
    length = max(1, min(TIMED_PROMPT_TOKENS, context - NEW_TOKENS))
    return [prompt[-length:] for prompt in prompts]


@dataclass(frozen=True)
class ScoredBatch:
    """Tokens and mask (B, T), and both models' logits of them (B, T, V)."""

    input_ids: Tokens
    attention_mask: Tokens
    pytorch: Floats
    candidate: Floats


@dataclass(frozen=True)
class DecoderParity:
    """How closely a graph follows PyTorch on the same texts, over all tokens but padding.

    Attributes:
        tokens: How many tokens' logits were compared.
        max_abs_difference: The largest difference of any of their logits.
        next_token_agreement: Share of the tokens after which both predict the same next token.
        pytorch_perplexity, perplexity: Over all tokens except each text's first.
    """

    tokens: int
    max_abs_difference: float
    next_token_agreement: float
    pytorch_perplexity: float
    perplexity: float

    @property
    def quality(self) -> float:
        """The candidate's perplexity, negated."""
        return -self.perplexity

    @property
    def perplexity_change(self) -> float:
        """As a share of PyTorch's perplexity; positive if the graph is worse."""
        return self.perplexity / self.pytorch_perplexity - 1

    @property
    def figures(self) -> dict[str, float]:
        """See `subject.Parity`."""
        return {
            "perplexity": self.perplexity,
            "perplexity_change": self.perplexity_change,
            "next_token_agreement": self.next_token_agreement,
            "max_abs_difference": self.max_abs_difference,
            "compared_tokens": self.tokens,
        }

    intervals: ClassVar[Mapping[str, tuple[float, float]]] = {}
    evidence: ClassVar[Mapping[str, Any]] = {}

    def refusal(self, precision: Precision, bounds: Conversion) -> str | None:
        """As `subject.Parity`: agreement is of next tokens, and the drop is the rise of perplexity."""
        broken = []
        if precision == "fp32" and not self.max_abs_difference <= bounds.max_abs_logit_difference:
            broken.append(
                f"logits differ from PyTorch's by up to {self.max_abs_difference:.3g}, over "
                f"max_abs_logit_difference {bounds.max_abs_logit_difference:g}"
            )
        if precision != "fp32" and not self.next_token_agreement >= bounds.min_label_agreement:
            broken.append(
                f"the likeliest next token is PyTorch's after {self.next_token_agreement:.4f} of the tokens, "
                f"under min_label_agreement {bounds.min_label_agreement:g}"
            )
        if not self.perplexity_change <= bounds.max_metric_drop:
            broken.append(
                f"perplexity rises by {self.perplexity_change:.2%} to {self.perplexity:.4g}, over "
                f"max_metric_drop {bounds.max_metric_drop:g}"
            )
        return "; ".join(broken) or None


def compare(batches: Iterable[ScoredBatch]) -> DecoderParity:
    """Compare batch by batch, so that only one batch needs to be in memory."""
    tokens, same, largest = 0, 0, 0.0
    losses: list[npt.NDArray[np.float64]] = []
    for batch in batches:
        real = batch.attention_mask.astype(bool)
        theirs, ours = batch.pytorch[real], batch.candidate[real]  # (tokens, V)
        tokens += len(theirs)
        same += int((theirs.argmax(axis=1) == ours.argmax(axis=1)).sum())
        largest = max(largest, float(np.abs(theirs - ours).max()))
        losses.append(
            np.stack(
                [token_losses(logits, batch.input_ids, real) for logits in (batch.pytorch, batch.candidate)]
            )
        )
    theirs_mean, ours_mean = np.concatenate(losses, axis=1).mean(axis=1)
    return DecoderParity(tokens, largest, same / tokens, math.exp(theirs_mean), math.exp(ours_mean))


def pytorch_logits(model: PreTrainedModel, input_ids: Tokens, attention_mask: Tokens, prompt: int) -> Floats:
    """PyTorch's logits (B, T, V): the first `prompt` columns at once, then one by one through its cache."""
    ids, mask = torch.from_numpy(input_ids), torch.from_numpy(attention_mask)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    bounds = [0, *range(prompt, ids.shape[1] + 1)]
    with torch.inference_mode():
        parts = [
            model(
                input_ids=ids[:, start:stop],
                attention_mask=mask[:, :stop],
                position_ids=positions[:, start:stop],
                past_key_values=cache,
                use_cache=True,
            ).logits
            for start, stop in pairwise(bounds)
        ]
    return np.asarray(torch.cat(parts, dim=1).numpy(), dtype=np.float32)
