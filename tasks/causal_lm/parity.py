"""How closely a decoder's graph follows PyTorch: logits, next tokens, perplexity, continuations.

B = batch, T = tokens, V = vocabulary. Padding may be on either side, except where a prompt is continued.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import DynamicCache

from gauntlet.serving.generation import Floats, Tokens, pad_left

if TYPE_CHECKING:  # importing it takes seconds
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ScoredBatch:
    """Tokens and mask (B, T), and both models' logits of them (B, T, V)."""

    input_ids: Tokens
    attention_mask: Tokens
    pytorch: Floats
    candidate: Floats


@dataclass(frozen=True)
class DecoderParity:
    """A graph against PyTorch on the same texts; padding counts nowhere.

    Attributes:
        tokens: Of which logits were compared.
        max_abs_difference: The largest difference of any of their logits.
        next_token_agreement: Share of the tokens after which both hold the same next one for the likeliest.
        pytorch_perplexity: PyTorch's, over all tokens but each text's first.
        perplexity: The graph's.
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
        """As a share of PyTorch's; positive where the graph is worse."""
        return self.perplexity / self.pytorch_perplexity - 1


def compare(batches: Iterable[ScoredBatch]) -> DecoderParity:
    """Compare batch by batch; each may be forgotten once the next is asked for."""
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


def token_losses(logits: Floats, input_ids: Tokens, real: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """-log p of every token (1-D) that follows a token of its text, given logits (B, T, V)."""
    follows = real[:, :-1] & real[:, 1:]
    scores = logits[:, :-1][follows].astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(scores, input_ids[:, 1:][follows][:, None], axis=1)[:, 0]
    return np.asarray(np.log(np.exp(scores).sum(axis=1)) - chosen)


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


def pytorch_continuations(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_tokens: Sequence[int]
) -> list[list[int]]:
    """What `model.generate` adds greedily to prompts, padded on the left, without what ends a text."""
    ids, mask = (torch.from_numpy(array) for array in pad_left(prompts))
    with torch.inference_mode():
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=[*stop_tokens, -1],  # -1 is no token: an empty list would mean the model's own
            pad_token_id=0,
        )
    rows = found[:, ids.shape[1] :].tolist()
    ends = [next((at for at, token in enumerate(row) if token in stop_tokens), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]
