from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from gauntlet.serving.generation import Floats, Tokens, token_losses
from gauntlet.tasks.causal_lm.conversion import ScoredBatch, compare

WORDS = 11


def random_batch(seed: int, shape: tuple[int, int]) -> tuple[Tokens, Tokens, Floats]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (*shape, WORDS)).astype(np.float32)
    return generator.integers(0, WORDS, shape), np.ones(shape, dtype=np.int64), logits


def test_token_losses_are_pytorchs_cross_entropy_of_each_texts_tokens_but_the_first() -> None:
    tokens, mask, logits = random_batch(0, (3, 6))
    mask[1, :2] = mask[2, 4:] = 0
    expected = [
        cross_entropy(
            torch.from_numpy(logits[row, real][:-1]),
            torch.from_numpy(tokens[row, real][1:]),
            reduction="none",
        )
        for row, real in enumerate(mask.astype(bool))
    ]
    found = token_losses(logits, tokens, mask.astype(bool))
    np.testing.assert_allclose(found, torch.cat(expected).numpy(), rtol=1e-5)


def test_perplexity_weighs_tokens_not_batches() -> None:
    batches = []
    for seed, shape in enumerate(((1, 3), (4, 9))):
        tokens, mask, logits = random_batch(seed, shape)
        batches.append(ScoredBatch(tokens, mask, logits, 2 * logits))
    for factor, found in ((1, "pytorch_perplexity"), (2, "perplexity")):
        scores = torch.cat(
            [torch.from_numpy(factor * batch.pytorch[:, :-1].reshape(-1, WORDS)) for batch in batches]
        )
        truth = torch.cat([torch.from_numpy(batch.input_ids[:, 1:].reshape(-1)) for batch in batches])
        expected = cross_entropy(scores, truth).exp().item()
        assert getattr(compare(batches), found) == pytest.approx(expected, rel=1e-5)


def test_padding_counts_in_no_figure() -> None:
    tokens, mask, logits = random_batch(0, (2, 5))
    mask[0, :2] = mask[1, 3:] = 0
    other = np.where(mask[..., None] == 1, logits, 1e6).astype(np.float32)
    found = compare([ScoredBatch(tokens, mask, logits, other)])
    assert (found.tokens, found.max_abs_difference, found.next_token_agreement) == (6, 0, 1)
    assert found.perplexity_change == 0


def test_agreement_and_the_largest_difference_are_over_all_tokens_of_all_batches() -> None:
    tokens, mask, logits = random_batch(0, (2, 5))
    changed = logits.copy()
    likeliest = logits[1, 2].argmax()
    changed[1, 2, likeliest] -= 100  # one of ten tokens now has another likeliest one
    same, differs = (ScoredBatch(tokens, mask, logits, candidate) for candidate in (logits, changed))
    found = compare(iter([same, differs]))
    assert found.tokens == 20
    assert found.next_token_agreement == pytest.approx(19 / 20)
    assert found.max_abs_difference == pytest.approx(100, rel=1e-5)
