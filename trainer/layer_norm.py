"""Layer norm that stays in bf16 where a CPU trains in it.

Autocast has layer norms give fp32, which every product that follows rounds to bf16 again, each for itself,
and which makes all that is added and dropped between two norms twice as many bytes. Statistics are summed in
fp32 either way. GPUs keep autocast's own: theirs takes no bf16 beside fp32 weights.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm`, whose output on a CPU under autocast to bf16 is bf16."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Values (…, H), normalised over H."""
        device = values.device.type
        if not torch.is_autocast_enabled(device) or device != "cpu":
            return super().forward(values)
        if (kind := torch.get_autocast_dtype(device)) != torch.bfloat16:
            return super().forward(values)
        with torch.autocast(device, enabled=False):
            return functional.layer_norm(
                values.to(kind), self.normalized_shape, self.weight, self.bias, self.eps
            )


def replace_layer_norms(model: nn.Module) -> None:
    """Make every `nn.LayerNorm` of the model a `LayerNorm` of the same weights."""
    for module in model.modules():
        if type(module) is nn.LayerNorm:
            module.__class__ = LayerNorm
