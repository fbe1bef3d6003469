"""A network with one output, and the unit of the target.

B = batch, T = tokens; C, H, W = channels, height, width.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from gauntlet.tasks.regression.target import Target


class InUnit(nn.Module):
    """Standardised numbers to the unit of the target; answers are limited to its range.

    The range does not hold while the model is trained: a number beyond it would have no gradient.
    """

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([target.mean], dtype=torch.float32))
        self.register_buffer("std", torch.tensor([target.std], dtype=torch.float32))
        self._range = target.min, target.max

    def forward(self, standardised: torch.Tensor) -> torch.Tensor:
        """Float32 (B, 1) of (B, 1)."""
        numbers = standardised.float() * cast(torch.Tensor, self.std) + cast(torch.Tensor, self.mean)
        return numbers if self.training or self._range == (None, None) else numbers.clamp(*self._range)


class Regressor(nn.Module):
    """A network with one output, whose answers are in the unit of the target."""

    def __init__(self, body: nn.Module, target: Target) -> None:
        super().__init__()
        self.body = body
        self.unit = InUnit(target)

    @property
    def encoder(self) -> nn.Module:
        """The pretrained encoder, of a model of texts."""
        return cast(nn.Module, self.body.encoder)


class TextRegressor(Regressor):
    """A number for each text."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, 1) of token ids and mask, both (B, T) int64."""
        return cast(torch.Tensor, self.unit(self.body(input_ids, attention_mask)))


class ImageRegressor(Regressor):
    """A number for each image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 1) of images (B, C, H, W), uint8 or floating point, with values of 0 to 255."""
        return cast(torch.Tensor, self.unit(self.body(images)))
