"""Dropout and layer norm for training on a CPU, and the switch that puts them into a model.

Dropout draws 16 random bits per element. Torch draws a whole number per element, on one thread, with a
generator several times as slow as SFC64 (by Chris Doty-Humphrey, from numpy). Each mask's SFC64 is seeded by
torch's generator, so torch's state determines all masks.

Layer norm stays in bf16 if training does. Autocast makes layer norms return fp32, which every following
product rounds to bf16 again and which doubles the bytes of all sums and dropouts between two norms.
Statistics are summed in fp32 either way.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

LANES = 4  # 16-bit numbers in one 64-bit draw
LEVELS = 2**16


def dropped(values: torch.Tensor, p: float) -> torch.Tensor:
    """Values of any shape, each set to 0 with probability `p`; the rest are scaled to keep the mean.

    The probability is `p` to the nearest 1/65,536, and the scale is its exact inverse.
    """
    levels = round(p * LEVELS)
    if levels == 0:
        return values
    if torch.compiler.is_compiling():  # the compiler fuses its own dropout
        return functional.dropout(values, p)
    count = values.numel()
    seed = int(torch.randint(2**63 - 1, ()))
    draws = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-count // LANES)).view(np.int16))
    drawn = draws[:count].view(values.shape)  # uniform over -2**15 … 2**15 - 1
    kept = drawn >= levels - LEVELS // 2
    return values * kept.to(values.dtype).mul_(LEVELS / (LEVELS - levels))


class Dropout(nn.Module):
    """`nn.Dropout` with the mask of `dropped`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Values of any shape, on average unchanged."""
        return dropped(values, self.p) if self.training else values


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm`, whose output under autocast to bf16 is bf16."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Values (…, H), normalised over H."""
        kind = torch.get_autocast_dtype("cpu")
        if not torch.is_autocast_enabled("cpu") or kind != torch.bfloat16:
            return super().forward(values)
        with torch.autocast("cpu", enabled=False):
            return functional.layer_norm(
                values.to(kind), self.normalized_shape, self.weight, self.bias, self.eps
            )


def use_cpu_kernels(model: nn.Module) -> None:
    """Replace dropout, layer norm and, in transformers' models, attention, in place."""
    _replace_dropout(model)
    for module in model.modules():
        if type(module) is nn.LayerNorm:
            module.__class__ = LayerNorm
        if hasattr(module, "set_attn_implementation"):
            from gauntlet.trainer.cpu.attention import ATTENTION

            module.set_attn_implementation(ATTENTION)  # type: ignore[operator]


def _replace_dropout(model: nn.Module) -> None:
    for name, module in model.named_children():
        if isinstance(module, nn.Dropout):
            setattr(model, name, Dropout(module.p))
        else:
            _replace_dropout(module)
