from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from gauntlet.trainer.batching import evaluation_batches, micro_batches, rank_share, training_batches

LENGTHS = np.random.default_rng(0).integers(3, 60, 1000).tolist()


def test_every_row_is_in_exactly_one_batch_of_an_epoch() -> None:
    batches = training_batches(LENGTHS, 32, seed=1, epoch=1)
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    assert sorted(map(len, batches))[0] == 1000 % 32


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in training_batches(LENGTHS, 32, seed, epoch)]

    assert order(1, 1) == order(1, 1)
    assert order(1, 1) != order(1, 2)
    assert order(1, 1) != order(2, 1)


def test_seed_and_epoch_give_the_order_that_older_states_were_written_in() -> None:
    batches = training_batches([5, 3, 9, 3, 7, 1, 8, 2], 3, seed=7, epoch=2)
    assert [batch.tolist() for batch in batches] == [[1, 0, 4], [6, 2], [5, 7, 3]]


def test_the_batches_of_an_epoch_take_little_more_memory_than_the_indices_of_their_rows() -> None:
    batches = training_batches(np.ones(10**5, dtype=np.int32), 50, seed=1, epoch=1)
    assert {batch.base is batches[0].base for batch in batches} == {True}
    assert batches[0].base is not None and batches[0].base.nbytes == 8 * 10**5


def test_batches_of_similar_length_carry_less_than_a_tenth_of_padding() -> None:
    batches = training_batches(LENGTHS, 32, seed=1, epoch=1)
    padded = sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in batches)
    assert padded / sum(LENGTHS) < 1.1


def test_evaluation_reads_every_row_once_from_short_to_long() -> None:
    rows = [row for batch in evaluation_batches(LENGTHS, 64) for row in batch]
    assert sorted(rows) == list(range(1000))
    assert [LENGTHS[row] for row in rows] == sorted(LENGTHS)


def test_micro_batches_keep_the_rows_and_are_never_empty() -> None:
    assert [part.tolist() for part in micro_batches(np.array([5, 6, 7]), 2)] == [[5, 6], [7]]
    assert [part.tolist() for part in micro_batches(np.array([5]), 4)] == [[5]]


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 13])
@pytest.mark.parametrize(("accumulation", "ranks"), [(1, 1), (1, 2), (2, 3), (4, 2)])
def test_the_ranks_share_a_batch_so_that_each_row_counts_once_and_all_meet_as_often(
    rows: int, accumulation: int, ranks: int
) -> None:
    batch = list(range(100, 100 + rows))
    shares = [rank_share(np.array(batch), accumulation, rank, ranks) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    assert len(shares[0]) <= accumulation
    counted = Counter(row for share in shares for part in share if part.counts for row in part.rows)
    assert counted == Counter(batch)
    sizes = [len(part.rows) for share in shares for part in share if part.counts]
    assert max(sizes) - min(sizes) <= 1
    assert all(len(part.rows) for share in shares for part in share)
