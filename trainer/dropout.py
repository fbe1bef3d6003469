"""Dropout whose mask is drawn with 16 random bits an element, where torch draws a whole number for each.

On a CPU torch draws the masks one element at a time, on one thread, by a generator that is several times as
slow as SFC64 (Chris Doty-Humphrey's, as numpy has it). Each mask's SFC64 is seeded by torch's generator, so
that one's state is all that decides.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

LANES = 4  # 16-bit numbers in one 64-bit draw
LEVELS = 2**16


def dropped(values: torch.Tensor, p: float) -> torch.Tensor:
    """Values of any shape with each set to 0 at rate `p` and the rest scaled, on average unchanged.

    On a CPU the rate is `p` to the nearest 1/65,536, and what is kept is scaled by the inverse of that very
    probability.
    """
    levels = round(p * LEVELS)
    if levels == 0:
        return values
    if values.device.type != "cpu" or torch.compiler.is_compiling():  # a compiler fuses its own
        return nn.functional.dropout(values, p)
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


def replace_dropout(model: nn.Module) -> None:
    """Put `Dropout` in the place of every `nn.Dropout` of the model."""
    for name, module in model.named_children():
        if isinstance(module, nn.Dropout):
            setattr(model, name, Dropout(module.p))
        else:
            replace_dropout(module)
