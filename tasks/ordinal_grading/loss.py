"""Losses of a grader. B = rows of a batch, K = grades.

Targets are class indices from 0; centering is in percent, edge damage is a share. NaN means no label.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from gauntlet.tasks.ordinal_grading.manifest import GradingTraining
from gauntlet.tasks.ordinal_grading.network import CENTERING_UNIT, Grading

NEAR = 0.1
"""Smaller errors, in units of 10 percentage points or as a share of the edges, are squared."""


def squared_emd(distribution: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B,): the squared earth mover's distance of distributions (B, K) from the true grades (B,).

    It is the sum over grades of the squared difference of the cumulative distributions (Hou, Yu, Samaras,
    arXiv 1611.05916, without the root): an error of two grades costs twice as much as an error of one grade.
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
    """(B,): the loss of `GradingTraining` for true grades (B,), centering and edge damage as in `found`.

    `own`, of logits and grades, takes the place of EMD and cross-entropy.
    """
    return (
        (grade_loss(section, found, grades) if own is None else own(found.logits.float(), grades))
        + section.beta_edge * mean_smooth_l1(found.edge_damage, edge_damage)
        + section.beta_center * mean_smooth_l1(found.centering / CENTERING_UNIT, centering / CENTERING_UNIT)
    )
