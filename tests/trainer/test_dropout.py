from __future__ import annotations

import pytest
import torch
from torch import nn

from gauntlet.trainer.cpu.kernels import Dropout, use_cpu_kernels


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_p_is_dropped_independently_and_the_rest_scaled_so_that_the_mean_stays(
    p: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    rows = Dropout(p)(torch.ones(1000, 1003, dtype=dtype)).float()
    dropped = (rows == 0).float()
    count = rows.numel()
    assert dropped.mean() == pytest.approx(p, abs=5 * (p * (1 - p) / count) ** 0.5)
    assert rows.max() == pytest.approx(1 / (1 - p), rel=1e-2 if dtype == torch.bfloat16 else 1e-4)
    # neighbours share a draw, and must not know of each other
    for distance in (1, 2, 3, 4):
        both = (dropped[:, distance:] * dropped[:, :-distance]).mean()
        assert both == pytest.approx(p * p, abs=5 * (p * p / count) ** 0.5)


def test_gradients_flow_through_what_is_kept_alone() -> None:
    values = torch.ones(10_001, requires_grad=True)
    kept = Dropout(0.25)(values)
    kept.sum().backward()
    assert torch.equal(values.grad, kept.detach())


def test_the_generator_decides_the_mask() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(Dropout(0.5)(torch.ones(100)))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_nothing_is_dropped_in_eval_mode_or_at_p_0() -> None:
    values = torch.randn(50)
    assert Dropout(0.5).eval()(values) is values
    assert Dropout(0.0)(values) is values


def test_every_dropout_of_a_model_is_replaced_at_its_own_rate() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.4)))
    use_cpu_kernels(model)
    assert [module.p for module in model.modules() if isinstance(module, Dropout)] == [0.2, 0.4]
    assert not [module for module in model.modules() if isinstance(module, nn.Dropout)]
