"""Attention against a composition written out, and against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gauntlet.tasks.texts.network import load_encoder
from gauntlet.trainer.cpu.attention import ATTENTION, attention_forward
from gauntlet.trainer.cpu.kernels import dropped

SHAPE = (2, 3, 5, 4)  # B, A, T, D


class Encoder(nn.Module):
    is_causal = False


def draw(seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(3))


def looked_at(lengths: tuple[int, int]) -> torch.Tensor:
    """The mask (B, 1, T, T) of rows that are padded on the right."""
    columns = torch.arange(SHAPE[2]) < torch.tensor(lengths).unsqueeze(1)  # (B, T)
    return columns[:, None, None, :].expand(-1, 1, SHAPE[2], -1)


@pytest.mark.parametrize("mask", [None, looked_at((5, 3))])
def test_without_what_is_dropped_it_is_torchs_attention(mask: torch.Tensor | None) -> None:
    query, key, value = draw(0)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    almost_nothing = 5e-6  # rounds to no level of 65,536, so the path with dropout drops nothing
    for rate in (0.0, almost_nothing):
        found, _ = attention_forward(Encoder(), query, key, value, mask, dropout=rate)
        torch.testing.assert_close(found, expected)


def test_the_weights_are_dropped_and_the_padding_has_none() -> None:
    query, key, value = draw(1)
    mask = looked_at((5, 2))
    torch.manual_seed(3)
    found, _ = attention_forward(Encoder(), query, key, value, mask, dropout=0.5, scaling=0.3)
    weights = torch.zeros(2, 3, 5, 5, dtype=torch.float64)
    for row, head in [(row, head) for row in range(2) for head in range(3)]:
        scores = 0.3 * query[row, head] @ key[row, head].T
        weights[row, head] = torch.where(mask[row, 0], scores, -torch.inf).softmax(dim=1)
    torch.manual_seed(3)
    expected = dropped(weights, 0.5) @ value
    torch.testing.assert_close(found, expected.transpose(1, 2))
    assert (dropped(weights, 0.5)[1, :, :, 2:] == 0).all()


@pytest.mark.parametrize("is_causal", [True, False])
def test_causal_attention_and_position_biases_are_left_to_torch(is_causal: bool) -> None:
    query, key, value = draw(2)
    module = nn.Module()
    module.is_causal = is_causal
    bias = None if is_causal else torch.linspace(-2, 2, 150, dtype=torch.float64).reshape(2, 3, 5, 5)
    torch.manual_seed(0)  # at this rate and seed torch drops nothing, and scales by 1 + rate
    found, _ = attention_forward(module, query, key, value, None, dropout=5e-6, position_bias=bias)
    expected = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, is_causal=is_causal
    )
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_an_encoder_trains_with_it_and_scores_as_with_sdpa(tiny_encoder) -> None:
    encoder = load_encoder(tiny_encoder, dropout=0.1)
    ids = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
    mask = (ids != 0).long()
    expected = encoder.eval()(input_ids=ids, attention_mask=mask)[0]
    encoder.set_attn_implementation(ATTENTION)
    torch.testing.assert_close(encoder(input_ids=ids, attention_mask=mask)[0], expected)
    torch.manual_seed(0)
    first = encoder.train()(input_ids=ids, attention_mask=mask)[0]
    torch.manual_seed(0)
    assert torch.equal(encoder(input_ids=ids, attention_mask=mask)[0], first)
    assert not torch.allclose(first, expected)
