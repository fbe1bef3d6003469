"""The network that grades a card by scans of its front and back, and its losses.

B = batch, C = channels, H = height, W = width, U = units of a side's summary, K = grades.

Centering is measured, wear is summed over the side. Both give one number, and the probabilities of the grades
are a bell curve around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional

from gauntlet.tasks.images.networks import Normalisation, ResidualUnit, convolution
from gauntlet.tasks.ordinal_grading.manifest import GradingTraining

EVEN = 50.0  # percent: a centred card's left border of left and right together
CENTERING_UNIT = 10.0  # percentage points that are 1 in the loss of centering
OFFSET_UNIT = 3.0  # percentage points off the middle that are 1 before the last layers
EDGE_UNIT = 0.1  # share of the edges that is 1 there
GRADE_UNIT = 2.0  # grades that are 1 after the last layers
LEAST_PRECISION = 0.5  # 1 / variance, in grades: the peak of a wider curve could be far off the scale
FIRST_WEIGHTS = 0.01  # standard deviation of the last layers' weights before training

BANDS = 8  # into which a side without its corners is divided
REACH = 4  # borders are within 1 / REACH of the scan's shorter side
WIDTHS = (16, 16, 16)
TAPS = 5  # of a convolution; each has twice the dilation of the one before

NEAR = 0.1
"""Smaller errors, in units of 10 percentage points or as a share of the edges, are squared."""


@dataclass(frozen=True)
class GraderConfig:
    """A grader's sizes, as in `GradingTraining`: its `config.json`. `input_shape` is (C, H, W)."""

    input_shape: tuple[int, int, int]
    grades: int
    filters: tuple[int, ...]
    depth: int
    units: int
    dropout: float
    shared_encoder: bool
    lambda_fusion: float


class Grading(NamedTuple):
    """A grader's outputs for B cards, which are also the exported graph's.

    Attributes:
        logits, distribution: Of each grade, (B, K); the distribution is of probabilities.
        expected_grade: The distribution's mean, from 1 to K, (B,).
        centering: The left border's percentage of left and right, and the top one's of top and bottom, of the
            front and of the back, (B, 4); of the back alone (B, 2).
        edge_damage: Worn share of the edges of front and back, (B, 2); of the back alone (B, 1).
    """

    logits: torch.Tensor
    distribution: torch.Tensor
    expected_grade: torch.Tensor
    centering: torch.Tensor
    edge_damage: torch.Tensor


class OwnGrader(nn.Module):
    """A network of the user's own, which gets both sides as float32 images of zero mean and unit variance."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalisation = Normalisation(mean, std)
        self.network = network

    def forward(self, front: torch.Tensor | None, back: torch.Tensor) -> Grading:
        """Grade cards by both sides, each (B, C, H, W) with values of 0 to 255, or by their back alone.

        The network returns logits, centering and edge damage, as `Grading` has them.
        """
        sides = (None if side is None else self.normalisation(side).contiguous() for side in (front, back))
        logits, centering, edge_damage = self.network(*sides)
        distribution = logits.float().softmax(dim=1)
        grades = torch.arange(1, logits.shape[1] + 1, device=logits.device, dtype=distribution.dtype)
        return Grading(logits, distribution, (distribution * grades).sum(dim=1), centering, edge_damage)


class SideEncoder(nn.Module):
    """A convolution and residual blocks, which halve height and width, then a sum and a dense layer."""

    def __init__(self, config: GraderConfig) -> None:
        super().__init__()
        self.stem = convolution(config.input_shape[0], config.filters[0], stride=2)
        self.blocks = nn.ModuleList()
        for before, filters in pairwise(config.filters):
            units = [ResidualUnit(before, filters, stride=2)]
            units += [ResidualUnit(filters, filters, stride=1) for _ in range(config.depth - 1)]
            self.blocks.append(nn.Sequential(*units))
        _, height, width = config.input_shape
        for _ in config.filters:
            height, width = -(-height // 2), -(-width // 2)
        # Few positions are worn, so a mean over all of them would hardly differ between cards.
        self._scale = math.sqrt(height * width)
        self.dense = nn.Sequential(nn.Linear(config.filters[-1], config.units), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, U) of normalised images (B, C, H, W)."""
        values = self.stem(images)
        for block in self.blocks:
            values = block(values)
        return cast(torch.Tensor, self.dense(self._scale * values.mean(dim=(2, 3))))


class CardGrader(nn.Module):
    """One encoder for both sides, or one for each, one network for all borders, and two heads.

    The grade follows from the mean of both sides, in which the back has the weight `lambda_fusion`, and from
    the worst centering, in which the side with the smaller weight counts less in proportion.
    """

    def __init__(self, config: GraderConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self._back_share, self._grades = config.lambda_fusion, config.grades
        self.normalisation = Normalisation(mean, std)
        self.borders = BorderNetwork(config.input_shape)
        self.back_encoder = SideEncoder(config)
        self.front_encoder = None if config.shared_encoder else SideEncoder(config)
        self.dropout = nn.Dropout(config.dropout)
        self.grade = nn.Sequential(
            nn.Linear(config.units + 2, config.units), nn.ReLU(), nn.Linear(config.units, 2)
        )
        self.edge_damage = nn.Linear(config.units, 1)
        # Sums are large numbers: without small weights, training starts far off the scale and loses epochs.
        for last in (self.grade[-1], self.edge_damage):
            nn.init.normal_(cast(nn.Linear, last).weight, std=FIRST_WEIGHTS)

    def forward(self, front: torch.Tensor | None, back: torch.Tensor) -> Grading:
        """Grade cards by both sides, each (B, C, H, W) with values of 0 to 255, or by their back alone."""
        images = [self.normalisation(side) for side in (front, back) if side is not None]
        shares = [1 - self._back_share, self._back_share] if len(images) == 2 else [1.0]
        centering = self._of_sides(self.borders, images)
        if self.front_encoder is None or front is None:
            summaries = self._of_sides(self.back_encoder, images)
        else:
            summaries = [self.front_encoder(images[0]), self.back_encoder(images[1])]
        edges = [self.edge_damage(summary).float().sigmoid() for summary in summaries]
        evidence = [self.dropout(mean_by(shares, summaries)), mean_by(shares, edges) / EDGE_UNIT]
        logits = self._logits(torch.cat([*evidence, worst_offset(centering, shares)], dim=1))
        distribution = logits.softmax(dim=1)
        expected_grade = (distribution * self._grades_of(logits)).sum(dim=1)
        measured = torch.cat(list(centering), dim=1), torch.cat(edges, dim=1)
        return Grading(logits, distribution, expected_grade, *measured)

    def _of_sides(self, network: nn.Module, images: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if not self.training:
            return [network(side) for side in images]
        # One batch for both: otherwise batch normalisation would train with other statistics than it keeps.
        return cast(torch.Tensor, network(torch.cat(list(images)))).chunk(len(images))

    def _logits(self, evidence: torch.Tensor) -> torch.Tensor:
        """Logits of a normal curve, whose mean and width the last layers compute from the evidence."""
        found = cast(torch.Tensor, self.grade(evidence)).float()
        grades = self._grades_of(found)
        estimate = grades.mean() + GRADE_UNIT * found[:, :1]
        precision = LEAST_PRECISION + functional.softplus(found[:, 1:])
        return -precision / 2 * (grades - estimate).square()

    def _grades_of(self, values: torch.Tensor) -> torch.Tensor:
        return torch.arange(1, self._grades + 1, device=values.device, dtype=values.dtype)


def mean_by(shares: Sequence[float], sides: Sequence[torch.Tensor]) -> torch.Tensor:
    """The mean of both sides' values weighted by their shares, which add up to 1."""
    return torch.stack([share * side for share, side in zip(shares, sides, strict=True)]).sum(dim=0)


def worst_offset(centering: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """(B, 1): the largest distance of centerings (B, 2) from the middle, each times its relative share."""
    weighed = [
        share / max(shares) * (side - EVEN).abs().amax(dim=1, keepdim=True)
        for share, side in zip(shares, centering, strict=True)
    ]
    return torch.stack(weighed).amax(dim=0) / OFFSET_UNIT


class BorderNetwork(nn.Module):
    """Counts the border pixels along lines from the outside inwards.

    One point of centering is a few tenths of a pixel, and cards lie at a slight angle. So the scan is not
    scaled down: each of eight bands of a side is averaged along the border. The same convolutions classify
    the pixels of all sides.
    """

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = input_shape
        self._rows, self._columns = middle(height), middle(width)
        self._reach = min(height, width) // REACH
        layers: list[nn.Module] = []
        for number, (before, filters) in enumerate(pairwise((channels, *WIDTHS))):
            dilation = 2**number
            padding = TAPS // 2 * dilation
            layers += [
                nn.Conv2d(
                    before, filters, (1, TAPS), padding=(0, padding), dilation=(1, dilation), bias=False
                ),
                nn.BatchNorm2d(filters),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Left and top border's shares (B, 2), in percent, of normalised images (B, C, H, W)."""
        rows, columns = averaged(images, self._rows), averaged(images.transpose(2, 3), self._columns)
        lines = [rows, rows.flip(3), columns, columns.flip(3)]  # from left, right, top, bottom
        is_border = self.layers(torch.cat([line[..., : self._reach] for line in lines])).float().sigmoid()
        widths = is_border.sum(dim=3).mean(dim=(1, 2)).view(len(lines), -1)  # (4, B)
        left, right, top, bottom = widths
        return 100 * torch.stack([left / (left + right), top / (top + bottom)], dim=1)


def middle(size: int) -> slice:
    """The middle of a side without its corners, `BANDS` bands long."""
    length = size // (BANDS + 2) * BANDS
    start = (size - length) // 2
    return slice(start, start + length)


def averaged(lines: torch.Tensor, middle: slice) -> torch.Tensor:
    """The means (B, C, `BANDS`, W) over the bands in the middle of the lines (B, C, H, W)."""
    return functional.avg_pool2d(lines[:, :, middle], ((middle.stop - middle.start) // BANDS, 1))


def squared_emd(distribution: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,): the squared earth mover's distance of distributions (B, K) from the true grades (B,).

    The sum over grades of the squared difference of the cumulative distributions (Hou, Yu, Samaras, arXiv
    1611.05916, without the root): an error of two grades costs twice as much as an error of one.
    """
    truth = functional.one_hot(targets, distribution.shape[1])
    difference = distribution.cumsum(dim=1) - truth.cumsum(dim=1)
    return difference.square().sum(dim=1)


def mean_smooth_l1(found: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,): the mean smooth L1 loss of the values (B, M) that have a target; 0 without any."""
    known = targets.isfinite()
    # A missing target is replaced by the value itself: NaN times 0 would be NaN, also in the gradient.
    losses = functional.smooth_l1_loss(
        found, torch.where(known, targets, found.detach()), reduction="none", beta=NEAR
    )
    return (losses * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def grade_loss(section: GradingTraining, found: Grading, grades: torch.Tensor) -> torch.Tensor:
    """(B,): squared EMD and cross-entropy, weighted by `alpha_emd`, for true grades (B,)."""
    cross_entropy = functional.cross_entropy(
        found.logits, grades, reduction="none", label_smoothing=section.label_smoothing
    )
    return (
        section.alpha_emd * squared_emd(found.distribution, grades) + (1 - section.alpha_emd) * cross_entropy
    )


def grading_loss(
    section: GradingTraining,
    found: Grading,
    grades: torch.Tensor,
    centering: torch.Tensor,
    edge_damage: torch.Tensor,
    own: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """(B,): the loss of `GradingTraining` for grades (B,). `own` replaces EMD and cross-entropy."""
    return (
        (grade_loss(section, found, grades) if own is None else own(found.logits.float(), grades))
        + section.beta_edge * mean_smooth_l1(found.edge_damage, edge_damage)
        + section.beta_center * mean_smooth_l1(found.centering / CENTERING_UNIT, centering / CENTERING_UNIT)
    )
