from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import pytest
import torch
from torch.optim import lr_scheduler

from gauntlet.manifests.training import EarlyStopping, OnePhaseTraining, Plateau, Training
from gauntlet.trainer.schedule import learning_rate

PEAK = 0.2


def rates(section: Training, total_steps: int) -> list[float]:
    phase = section.phases[0]
    return [learning_rate(section, phase, step, total_steps, []) for step in range(1, total_steps + 1)]


def section(schedule: str, warmup_fraction: float = 0.0, plateau: Plateau | None = None) -> Training:
    return OnePhaseTraining(
        learning_rate=PEAK,
        schedule=schedule,
        warmup_fraction=warmup_fraction,
        plateau=plateau,
        early_stopping=EarlyStopping(patience=9),
    )


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)


def torch_rates(
    optimizer: torch.optim.Optimizer, scheduler: lr_scheduler.LRScheduler, steps: int
) -> list[float]:
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_rate_warms_up_linearly_and_decays_linearly() -> None:
    # 10 steps, 2 of warm-up: by hand 1/2, 2/2, then 8/9, 7/9, … 1/9.
    by_hand = [0.5, 1.0, *(n / 9 for n in range(8, 0, -1))]
    assert rates(section("linear", 0.2), 10) == pytest.approx([PEAK * factor for factor in by_hand])
    assert rates(section("linear"), 4)[0] == PEAK


def test_the_cosine_is_that_of_torch_after_the_warm_up() -> None:
    sgd = optimizer()
    expected = torch_rates(sgd, lr_scheduler.CosineAnnealingLR(sgd, T_max=9), 9)
    assert rates(section("cosine", 0.2), 10) == pytest.approx([PEAK / 2, *expected])


@pytest.mark.parametrize("warmup_fraction", [0.0, 0.25, 0.3, 1.0])
def test_one_cycle_is_that_of_torch(warmup_fraction: float) -> None:
    sgd = optimizer()
    with warnings.catch_warnings(action="ignore"):
        scheduler = lr_scheduler.OneCycleLR(
            sgd, max_lr=PEAK, total_steps=20, pct_start=warmup_fraction, cycle_momentum=False
        )
        expected = torch_rates(sgd, scheduler, 20)
    assert rates(section("one_cycle", warmup_fraction), 20) == pytest.approx(expected)


def test_one_cycle_starts_at_the_peak_when_the_warm_up_is_a_single_step() -> None:
    assert rates(section("one_cycle", 0.1), 10)[0] == PEAK


def test_a_constant_rate_follows_the_warm_up() -> None:
    assert rates(section("constant", 0.4), 5) == pytest.approx([PEAK / 2, PEAK, PEAK, PEAK, PEAK])


SCORES: Sequence[float] = (0.5, 0.6, 0.6, 0.55, 0.61, 0.4, math.nan, 0.61, 0.6, 0.6, 0.7)


@pytest.mark.parametrize("patience", [0, 1, 2])
@pytest.mark.parametrize("factor", [0.5, 0.1])
def test_the_rate_falls_on_a_plateau_when_torch_says_so(patience: int, factor: float) -> None:
    sgd = optimizer()
    scheduler = lr_scheduler.ReduceLROnPlateau(
        sgd, mode="max", factor=factor, patience=patience, threshold=0.0, eps=0.0
    )
    training = section("reduce_on_plateau", plateau=Plateau(factor=factor, patience=patience))
    for epochs, score in enumerate(SCORES, start=1):
        scheduler.step(score)
        rate = learning_rate(training, training.phases[0], 50, 100, SCORES[:epochs])
        assert rate == pytest.approx(sgd.param_groups[0]["lr"], rel=1e-12)
    assert rate < PEAK


def test_a_plateau_during_the_warm_up_leaves_the_warm_up_alone() -> None:
    training = section("reduce_on_plateau", 0.5)
    (phase,) = training.phases
    assert learning_rate(training, phase, 5, 20, [0.5, 0.4, 0.3]) == PEAK / 2
    assert learning_rate(training, phase, 11, 20, [0.5, 0.4, 0.3]) == PEAK / 4
