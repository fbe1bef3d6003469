"""The learning rate as a function of the step and the validation scores, so there is no state to save."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gauntlet.manifests.training import Phase, Plateau, Training

# The bounds of the one-cycle policy (Smith & Topin, 2018) as torch.optim.lr_scheduler.OneCycleLR sets them:
# the first rate is the peak / 25, the last one the first / 10,000. Momentum is not cycled.
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = ONE_CYCLE_START / 1e4


def learning_rate(
    section: Training, phase: Phase, step: int, total_steps: int, scores: Sequence[float]
) -> float:
    """The rate of a phase's step, counted from 1, after epochs of the phase with these validation `scores`.

    Higher scores are better; `total_steps` are those of the phase.
    """
    if section.schedule == "one_cycle":
        return phase.learning_rate * _one_cycle_factor(step, total_steps, section.warmup_fraction)
    warmup_steps = max(1, math.ceil(total_steps * section.warmup_fraction))
    if step <= warmup_steps:
        return phase.learning_rate * (step / warmup_steps)
    if section.schedule == "reduce_on_plateau":
        return phase.learning_rate * _plateau_factor(scores, section.plateau or Plateau())
    if section.schedule == "constant":
        return phase.learning_rate
    return phase.learning_rate * _decay_factor(section.schedule, step, total_steps, warmup_steps)


def _decay_factor(schedule: str, step: int, total_steps: int, warmup_steps: int) -> float:
    """Decay from 1 at the last step of the warm-up to 0 one step after the end, by a line or half a cosine.

    The cosine is that of Loshchilov & Hutter (2017) without restarts.
    """
    left = (total_steps - step + 1) / (total_steps - warmup_steps + 1)
    return left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


def _one_cycle_factor(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Half a cosine up to 1 within `warmup_fraction` of the steps, and half a cosine down to almost 0."""
    at, peak, last = step - 1, warmup_fraction * total_steps - 1, total_steps - 1
    if at <= peak:
        return _half_cosine(ONE_CYCLE_START, 1.0, at / peak if peak else 1.0)
    return _half_cosine(1.0, ONE_CYCLE_END, (at - peak) / (last - peak))


def _plateau_factor(scores: Sequence[float], plateau: Plateau) -> float:
    """`factor` to the power of how often `patience` + 1 epochs in a row had no better score; NaN is none."""
    factor, best, without_gain = 1.0, -math.inf, 0
    for score in scores:
        best, without_gain = (score, 0) if score > best else (best, without_gain + 1)
        if without_gain > plateau.patience:
            factor, without_gain = factor * plateau.factor, 0
    return factor


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
