"""The network that grades a card by scans of its front and back.

B = batch, C = channels, H = height, W = width, U = units that a side is summed up in, K = grades.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import nn

from trainer.dropout import Dropout
from trainer.networks import Normalisation, ResidualUnit, convolution

EVEN = 50.0  # percent: a centred card's left border of left and right together
CENTERING_UNIT = 10.0  # percentage points that one unit of the centering head's output stands for


@dataclass(frozen=True)
class GraderConfig:
    """What a grader is built from: the content of a checkpoint's `config.json`.

    Attributes:
        input_shape: Channels, height, width of each side.
        grades: How many there are.
        filters, depth, units, dropout, shared_encoder, lambda_fusion: As in `GradingTraining`.
    """

    input_shape: tuple[int, int, int]
    grades: int
    filters: tuple[int, ...]
    depth: int
    units: int
    dropout: float
    shared_encoder: bool
    lambda_fusion: float


class Grading(NamedTuple):
    """What a grader says of B cards; these are the exported graph's outputs.

    Attributes:
        logits: (B, K).
        distribution: The probability of each grade, (B, K).
        expected_grade: The distribution's mean, from 1 to K, (B,).
        centering: The left border's percentage of left and right, and the top one's of top and bottom, of
            the front and of the back, (B, 4); of the back alone (B, 2).
        edge_damage: Share of the edges that is worn, of front and back, (B, 2); of the back alone (B, 1).
    """

    logits: torch.Tensor
    distribution: torch.Tensor
    expected_grade: torch.Tensor
    centering: torch.Tensor
    edge_damage: torch.Tensor


class SideEncoder(nn.Module):
    """A convolution and residual blocks, all of which halve height and width, and a dense layer.

    What is left of height and width is not averaged: centering and edges are a matter of place.
    """

    def __init__(self, config: GraderConfig) -> None:
        super().__init__()
        channels, height, width = config.input_shape
        self.stem = convolution(channels, config.filters[0], stride=2)
        self.blocks = nn.ModuleList()
        for before, filters in pairwise(config.filters):
            units = [ResidualUnit(before, filters, stride=2)]
            units += [ResidualUnit(filters, filters, stride=1) for _ in range(config.depth - 1)]
            self.blocks.append(nn.Sequential(*units))
        for _ in config.filters:
            height, width = -(-height // 2), -(-width // 2)
        places = height * width * config.filters[-1]
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(places, config.units), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, U) of normalised images (B, C, H, W)."""
        values = self.stem(images)
        for block in self.blocks:
            values = block(values)
        return cast(torch.Tensor, self.dense(values))


class CardGrader(nn.Module):
    """One encoder for both sides, or one for each, and three heads.

    The grade rests on the mean of both sides, `lambda_fusion` of it the back's; centering and edge damage of
    a side rest on that side, by the same weights for both.
    """

    def __init__(self, config: GraderConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self._back_share = config.lambda_fusion
        self.normalisation = Normalisation(mean, std)
        self.back_encoder = SideEncoder(config)
        self.front_encoder = None if config.shared_encoder else SideEncoder(config)
        self.dropout = Dropout(config.dropout)
        self.grade = nn.Linear(config.units, config.grades)
        self.centering = nn.Linear(config.units, 2)
        self.edge_damage = nn.Linear(config.units, 1)

    def forward(self, front: torch.Tensor | None, back: torch.Tensor) -> Grading:
        """Grade cards by both sides, each (B, C, H, W) with values of 0 to 255, or by their back alone."""
        if front is None:
            summary = self.back_encoder(self.normalisation(back))
            return self._grading(summary, [summary])
        fronts, backs = self._encode(self.normalisation(front), self.normalisation(back))
        summary = self._back_share * backs + (1 - self._back_share) * fronts
        return self._grading(summary, [fronts, backs])

    def _encode(self, front: torch.Tensor, back: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.front_encoder is not None:
            return self.front_encoder(front), self.back_encoder(back)
        if not self.training:
            return self.back_encoder(front), self.back_encoder(back)
        # One batch, or batch normalisation would train on other statistics than it keeps.
        both = self.back_encoder(torch.cat([front, back]))
        return both[: len(front)], both[len(front) :]

    def _grading(self, summary: torch.Tensor, sides: Sequence[torch.Tensor]) -> Grading:
        logits = self.grade(self.dropout(summary)).float()
        distribution = logits.softmax(dim=1)
        grades = torch.arange(1, logits.shape[1] + 1, device=logits.device, dtype=logits.dtype)
        centering = torch.cat([self.centering(side) for side in sides], dim=1).float()
        edge_damage = torch.cat([self.edge_damage(side) for side in sides], dim=1).float()
        return Grading(
            logits,
            distribution,
            (distribution * grades).sum(dim=1),
            EVEN + CENTERING_UNIT * centering,
            edge_damage.sigmoid(),
        )
