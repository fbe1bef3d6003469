"""Attention with dropout on a CPU.

For it, torch's fused attention falls back to a slower composition, which draws masks with `torch.bernoulli`:
a whole number per element, on one thread.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from gauntlet.trainer.cpu.kernels import dropped

ATTENTION = "sdpa_with_cpu_dropout"

# B = batch, A = heads, T = tokens, D = size of a head.


def attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **settings: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention, called by transformers: query, key and value (B, A, T, D), mask (B, 1, T, T).

    The mask is True where a token is seen. Returns (B, T, A, D), and no weights.
    """
    is_causal = getattr(module, "is_causal", True) and attention_mask is None
    is_plain = key.shape == query.shape and not is_causal and settings.get("position_bias") is None
    if dropout == 0.0 or not is_plain:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **settings
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query * scale) @ key.transpose(2, 3)  # (B, A, T, T)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    with torch.autocast("cpu", enabled=False):  # it would make the weights fp32, then round them
        weights = dropped(functional.softmax(scores, dim=-1), dropout)
    return (weights @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attention_forward)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
