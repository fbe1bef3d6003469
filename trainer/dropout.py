"""Dropout whose mask is drawn with 16 random bits an element, where torch draws a whole number for each.

On a CPU torch draws the masks one element at a time, on one thread.
"""

from __future__ import annotations

import torch
from torch import nn

LANES = 4  # 16-bit numbers in one 64-bit draw
LEVELS = 2**16


class Dropout(nn.Module):
    """`nn.Dropout` on any device but a CPU; there its own mask, of `p` to the nearest 1/65,536.

    What is kept is scaled by the inverse of that very probability, so the mean stays what it was.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._dropped_levels = round(p * LEVELS)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Values of any shape, on average unchanged."""
        if not self.training or self._dropped_levels == 0:
            return values
        if values.device.type != "cpu":
            return nn.functional.dropout(values, self.p)
        count = values.numel()
        draws = torch.empty(-(-count // LANES), dtype=torch.int64)
        draws.random_(-(2**63), None)  # all 64 bits
        levels = draws.view(torch.int16)[:count].view(values.shape)  # uniform over -2**15 … 2**15 - 1
        kept = levels >= self._dropped_levels - LEVELS // 2
        return values * kept.to(values.dtype).mul_(LEVELS / (LEVELS - self._dropped_levels))


def replace_dropout(model: nn.Module) -> None:
    """Put `Dropout` in the place of every `nn.Dropout` of the model."""
    for name, module in model.named_children():
        if isinstance(module, nn.Dropout):
            setattr(model, name, Dropout(module.p))
        else:
            replace_dropout(module)
