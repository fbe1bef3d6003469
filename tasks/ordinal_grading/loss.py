"""Losses of a grader. B = rows of a batch, K = grades.

Targets are class indices from 0; centering is in percent, edge damage a share. NaN stands for no label.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from gauntlet.tasks.ordinal_grading.manifest import GradingTraining
from gauntlet.tasks.ordinal_grading.network import CENTERING_UNIT, Grading

NEAR = 0.1
"""Errors under it, in units of 10 percentage points or as a share of the edges, count by their square."""


def squared_emd(distribution: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,): the squared earth mover's distance of distributions (B, K) from the true grades (B,).

    It is the sum over grades of the squared difference of the cumulative distributions (Hou, Yu, Samaras,
    arXiv 1611.05916, without the root): a mistake of two grades costs twice what one of one grade does.
    """
    truth = functional.one_hot(targets, distribution.shape[1])
    difference = distribution.cumsum(dim=1) - truth.cumsum(dim=1)
    return difference.square().sum(dim=1)


def mean_smooth_l1(found: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,): the smooth L1 loss of values (B, M), the mean over those that have a target; 0 without any."""
    known = targets.isfinite()
    # A target stands in where there is none: NaN times 0 would be NaN, in the gradient too.
    losses = functional.smooth_l1_loss(
        found, torch.where(known, targets, found.detach()), reduction="none", beta=NEAR
    )
    return (losses * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def grading_loss(
    section: GradingTraining,
    found: Grading,
    grades: torch.Tensor,
    centering: torch.Tensor,
    edge_damage: torch.Tensor,
) -> torch.Tensor:
    """(B,): what `GradingTraining` says of true grades (B,), centering and edge damage as in `found`."""
    cross_entropy = functional.cross_entropy(
        found.logits, grades, reduction="none", label_smoothing=section.label_smoothing
    )
    return (
        section.alpha_emd * squared_emd(found.distribution, grades)
        + (1 - section.alpha_emd) * cross_entropy
        + section.beta_edge * mean_smooth_l1(found.edge_damage, edge_damage)
        + section.beta_center * mean_smooth_l1(found.centering / CENTERING_UNIT, centering / CENTERING_UNIT)
    )
