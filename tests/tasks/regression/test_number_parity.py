"""Converted models that answer with a number: how far from PyTorch they are, and the network itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gauntlet.components.convert_to_onnx.scoring import Scores
from gauntlet.manifests.conversion import Conversion
from gauntlet.tasks.regression.conversion import NumberParity, compare, neighbour_effect
from gauntlet.tasks.regression.network import ImageRegressor
from gauntlet.tasks.regression.target import Target

TARGETS = np.linspace(0, 100, 200)
EMPTY = np.empty((0, 1), dtype=np.float32)


def parity(shift: float, at: slice = slice(None), std: float = 10.0) -> NumberParity:
    """PyTorch is off by 2 everywhere; the candidate adds `shift` to some answers."""
    pytorch = (TARGETS + 2)[:, None].astype(np.float32)
    candidate = pytorch.copy()
    candidate[at] += shift
    return compare(TARGETS, Scores(pytorch, EMPTY), Scores(candidate, EMPTY), std, 0.9, seed=0)


def test_differences_are_in_the_unit_of_the_target() -> None:
    found = parity(3.0, slice(0, 20))
    assert found.max_abs_difference == pytest.approx(3.0)
    assert found.mean_abs_difference == pytest.approx(0.3)
    assert (found.pytorch_mae, found.mae) == (pytest.approx(2.0, rel=1e-5), pytest.approx(2.3, rel=1e-5))
    assert found.agreement == 0.9, "a tenth of the answers moves by 0.3 standard deviations"
    low, high = found.rise_interval
    assert low < 0.3 < found.rise_bound < high
    assert found.quality == pytest.approx(-2.3, rel=1e-5)
    # Of 200 residuals of 2, 20 of them 5, the ⌈201 · 0.9⌉-th smallest is a 5.
    assert found.half_width == pytest.approx(5.0, rel=1e-5)
    assert {row for row, _ in found.worst} <= set(range(20))


def test_full_precision_is_held_to_its_largest_difference() -> None:
    bounds = Conversion()
    assert parity(0.0).refusal("fp32", bounds) is None
    assert "0.002 standard deviations" in (parity(0.02, slice(7, 8)).refusal("fp32", bounds) or "")
    assert "worst is row 7" in (parity(0.02, slice(7, 8)).refusal("fp32", bounds) or "")


def test_other_precisions_are_held_to_the_answers_that_are_close() -> None:
    bounds = Conversion(max_metric_drop=1.0)
    assert parity(0.9).refusal("int8", bounds) is None
    assert parity(3.0, slice(0, 1)).refusal("int8", bounds) is None, "1 of 200 may differ"
    assert "2 of 200 answers differ" in (parity(3.0, slice(0, 2)).refusal("int8", bounds) or "")


def test_a_larger_error_is_refused() -> None:
    reason = parity(0.9).refusal("int8", Conversion())
    assert reason is not None and "rises from 2 to 2.9" in reason and "max_metric_drop 0.01" in reason
    assert parity(-0.9).refusal("int8", Conversion()) is None, "it came closer to the truth"


def test_what_neighbours_change_is_in_standard_deviations() -> None:
    alone = np.array([[1.0], [2.0], [3.0]], dtype=np.float32)
    effect = neighbour_effect(alone, [alone, alone + np.array([[0.0], [0.1], [0.5]], np.float32)], std=2.0)
    assert (effect.rows, effect.label_changes) == (3, 1)
    assert effect.max_difference == pytest.approx(0.25)
    broken = neighbour_effect(alone, [alone * np.float32(np.nan)], std=2.0)
    assert np.isnan(broken.max_difference) and broken.label_changes == 3


def test_a_network_answers_in_the_unit_of_the_target_and_within_its_range() -> None:
    class Body(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.float().mean(dim=(1, 2, 3))[:, None]

    model = ImageRegressor(Body(), Target("price", mean=50.0, std=20.0, min=0.0, max=90.0))
    images = torch.tensor([0, 1, 3], dtype=torch.uint8).view(3, 1, 1, 1)
    assert model.train()(images).flatten().tolist() == [50.0, 70.0, 110.0], "no gradient is lost"
    assert model.eval()(images).flatten().tolist() == [50.0, 70.0, 90.0]
    assert set(model.state_dict()) == {"unit.mean", "unit.std"}
