from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from gauntlet.tasks.texts.network import (
    PartlyTrainedEmbedding,
    load_encoder,
    train_used_rows_only,
    with_whole_tables,
)

USED = [0, 2, 3, 7]


@pytest.fixture
def ordinary() -> nn.Embedding:
    torch.manual_seed(1)
    return nn.Embedding(10, 4)


def test_rows_are_those_of_the_ordinary_table(ordinary: nn.Embedding) -> None:
    partly = PartlyTrainedEmbedding(ordinary, [7, 3, 0, 2, 3])
    used, all_ids = torch.tensor([[7, 0], [3, 3]]), torch.arange(10).view(2, 5)
    assert torch.equal(partly.train()(used), ordinary(used))
    assert torch.equal(partly.eval()(all_ids), ordinary(all_ids))


def test_adamw_takes_the_same_steps_as_on_the_whole_table(ordinary: nn.Embedding) -> None:
    partly = PartlyTrainedEmbedding(ordinary, USED).train()
    before = ordinary.weight.detach().clone()
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.1, weight_decay=0.0) for m in (ordinary, partly)]
    for ids in ([0, 2, 2], [7, 3], [2, 2]):
        for module, optimizer in zip((ordinary, partly), optimizers, strict=True):
            optimizer.zero_grad()
            module(torch.tensor(ids)).pow(3).sum().backward()
            optimizer.step()
    whole = partly.whole(partly.trained.detach())
    assert torch.equal(whole, ordinary.weight.detach())
    assert not torch.equal(whole[USED], before[USED])
    unused = [row for row in range(10) if row not in USED]
    assert torch.equal(whole[unused], before[unused])


def test_an_encoder_keeps_its_outputs_and_gets_its_own_weight_names_back(tiny_encoder: Path) -> None:
    plain, partly = (load_encoder(tiny_encoder).eval() for _ in range(2))
    train_used_rows_only(partly, USED)
    ids = torch.tensor([[2, 5, 9, 3]])
    with torch.no_grad():
        assert torch.equal(plain(input_ids=ids)[0], partly(input_ids=ids)[0])
    expected, found = plain.state_dict(), with_whole_tables(partly, partly.state_dict())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
