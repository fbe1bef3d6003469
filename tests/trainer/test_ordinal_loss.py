from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from gauntlet.tasks.ordinal_grading.manifest import GradingTraining
from gauntlet.tasks.ordinal_grading.metrics import mean_known_error, quadratic_weighted_kappa
from gauntlet.tasks.ordinal_grading.network import Grading, grading_loss, mean_smooth_l1, squared_emd
from gauntlet.trainer.batching import sampling_chances, training_batches

NAN = math.nan


def test_the_squared_emd_is_that_of_the_cumulative_distributions() -> None:
    distributions = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    # cumulative 0.2, 0.7, 1 against 0, 1, 1 of the second grade: 0.04 + 0.09; then two grades off, then none
    found = squared_emd(distributions, torch.tensor([1, 0, 1]))
    assert found.tolist() == pytest.approx([0.13, 2.0, 0.0])


def test_smooth_l1_is_quadratic_up_to_a_tenth_and_the_mean_of_what_is_known() -> None:
    found = torch.tensor([[0.05, 0.5], [0.05, 9.0], [1.0, 1.0]])
    targets = torch.tensor([[0.0, 0.0], [0.0, NAN], [NAN, NAN]])
    # 0.05² / (2 × 0.1) = 0.0125, and 0.5 - 0.1 / 2 = 0.45
    assert mean_smooth_l1(found, targets).tolist() == pytest.approx([(0.0125 + 0.45) / 2, 0.0125, 0.0])


def grading(logits: torch.Tensor, centering: float, edge_damage: float) -> Grading:
    rows = len(logits)
    distribution = logits.softmax(dim=1)
    return Grading(
        logits,
        distribution,
        distribution.sum(dim=1),
        torch.full((rows, 4), centering),
        torch.full((rows, 2), edge_damage),
    )


def test_the_loss_weighs_its_four_parts_as_the_manifest_says() -> None:
    section = GradingTraining(alpha_emd=0.6, beta_edge=2.0, beta_center=3.0)
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]]))
    targets = torch.tensor([1]), torch.full((1, 4), 50.0), torch.zeros(1, 2)
    loss = grading_loss(section, grading(logits, 54.0, 0.2), *targets)
    # centering: 4 points are 0.4 units, 0.4 - 0.05; edges: 0.2 - 0.05
    by_hand = 0.6 * 0.13 + 0.4 * -math.log(0.5) + 2.0 * 0.15 + 3.0 * 0.35
    assert loss.tolist() == pytest.approx([by_hand], rel=1e-6)


def test_the_defaults_are_those_that_the_system_is_known_by() -> None:
    section = GradingTraining()
    assert (section.alpha_emd, section.beta_edge, section.beta_center) == (0.7, 0.05, 0.1)
    assert (section.lambda_fusion, section.sampler_power) == (0.7, 0.5)
    assert [(phase.epochs, phase.learning_rate) for phase in section.phases] == [(10, 1e-3), (30, 3e-4)]
    assert section.resume.keep_every_epochs == 5


def test_a_label_that_is_not_known_has_no_gradient_and_spoils_none() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    centering = torch.full((2, 4), 60.0, requires_grad=True)
    found = grading(logits, 60.0, 0.5)._replace(centering=centering)
    targets = torch.tensor([[50.0, 50.0, 50.0, 50.0], [NAN, NAN, NAN, NAN]])
    grading_loss(
        GradingTraining(), found, torch.tensor([0, 1]), targets, torch.full((2, 2), NAN)
    ).sum().backward()
    assert centering.grad is not None
    assert logits.grad is not None
    assert centering.grad[0].abs().min() > 0
    assert centering.grad[1].tolist() == [0, 0, 0, 0]
    assert logits.grad.isfinite().all()


def test_qwk_is_scikit_learns_over_all_grades() -> None:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 10, 300)
    predicted = np.clip(labels + generator.integers(-2, 3, 300), 0, 9)
    found = quadratic_weighted_kappa(labels, predicted, 10)
    assert found == pytest.approx(cohen_kappa_score(labels, predicted, weights="quadratic"))
    assert quadratic_weighted_kappa(np.array([4, 4]), np.array([4, 4]), 10) == 0.0


def test_the_mean_error_is_of_what_is_known() -> None:
    found = np.array([[51.0, 40.0]], dtype=np.float32)
    assert mean_known_error(found, np.array([[50.0, NAN]], dtype=np.float32)) == 1.0
    assert mean_known_error(found, np.full((1, 2), NAN, dtype=np.float32)) is None


def test_a_rows_chance_falls_with_the_root_of_its_grades_frequency() -> None:
    # 1 row of grade 0, 4 of grade 1: weights 1 and 1/2, so 1/3 and 1/6
    chances = sampling_chances(np.array([0, 1, 1, 1, 1]), power=0.5)
    assert chances.tolist() == pytest.approx([1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6])
    assert sampling_chances(np.array([0, 1, 1]), power=1.0).tolist() == pytest.approx([0.5, 0.25, 0.25])


def test_rows_are_drawn_by_their_chances_and_an_epoch_is_as_long_as_ever() -> None:
    chances = sampling_chances(np.array([0] * 100 + [1] * 900), power=0.5)
    epochs = [training_batches([1] * 1000, 32, 7, epoch, chances) for epoch in (1, 2, 3)]
    assert [sum(map(len, epoch)) for epoch in epochs] == [1000] * 3
    drawn = [row for epoch in epochs for batch in epoch for row in batch]
    # 100 × 1/10 of 100 × 1/10 + 900 × 1/30 is a quarter; 3,000 draws have a deviation of 0.008
    assert np.mean(np.array(drawn) < 100) == pytest.approx(0.25, abs=0.03)
    again = training_batches([1] * 1000, 32, 7, 1, chances)
    assert np.array_equal(np.concatenate(epochs[0]), np.concatenate(again))
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[1]))
