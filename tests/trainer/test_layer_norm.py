from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from gauntlet.trainer.cpu.kernels import LayerNorm, use_cpu_kernels

WIDTH = 16


def norm_of_any_weights() -> LayerNorm:
    norm = LayerNorm(WIDTH)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2.0, WIDTH))
        norm.bias.copy_(torch.linspace(-1.0, 1.0, WIDTH))
    return norm


def test_under_autocast_to_bf16_it_is_the_fp32_norm_rounded() -> None:
    norm = norm_of_any_weights()
    values = (torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    expected = functional.layer_norm(values.float(), (WIDTH,), norm.weight, norm.bias)
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(values)
        assert norm(values.float()).dtype == torch.bfloat16
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2**-8, atol=2**-8)


def test_its_weights_get_gradients_in_fp32() -> None:
    norm = norm_of_any_weights()
    with torch.autocast("cpu", torch.bfloat16):
        norm(torch.randn(8, WIDTH)).sum().backward()
    assert norm.weight.grad is not None and norm.weight.grad.dtype == torch.float32
    assert torch.equal(norm.bias.grad, torch.full((WIDTH,), 8.0))


def test_otherwise_it_is_torchs_own() -> None:
    norm = norm_of_any_weights()
    values = torch.randn(4, WIDTH)
    expected = functional.layer_norm(values, (WIDTH,), norm.weight, norm.bias)
    assert torch.equal(norm(values), expected)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(norm(values), expected)


def test_every_layer_norm_of_a_model_is_replaced_and_keeps_its_weights() -> None:
    layers = OrderedDict(first=nn.LayerNorm(4), rest=nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)))
    model = nn.Sequential(layers)
    before = list(model.parameters())
    use_cpu_kernels(model)
    assert [type(module) for module in model.modules() if isinstance(module, nn.LayerNorm)] == [LayerNorm] * 2
    assert all(kept is given for kept, given in zip(model.parameters(), before, strict=True))
