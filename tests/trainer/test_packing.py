from __future__ import annotations

import pytest
import torch

from gauntlet.tasks.language.packing import TokenRow, bins, packed, seen


@pytest.mark.parametrize(
    ("prompt", "target", "expected"),
    [
        ([1, 2, 3], [4, 5], ([1, 2, 3], [4, 5])),
        ([1, 2, 3, 4, 5, 6], [7, 8], ([3, 4, 5, 6], [7, 8])),  # the answer is whole, the prompt's end is left
        ([1, 2], [3, 4, 5, 6, 7, 8], ([1, 2], [3, 4, 5, 6])),
        ([1, 2, 3, 4, 5], [6, 7, 8, 9, 10], ([3, 4, 5], [6, 7, 8])),  # half each where both are too long
    ],
)
def test_a_long_row_keeps_the_end_of_its_prompt_and_the_start_of_its_answer(
    prompt: list[int], target: list[int], expected: tuple[list[int], list[int]]
) -> None:
    row = TokenRow(prompt, target).cut(6)
    assert (list(row.prompt), list(row.target)) == expected


def test_rows_go_where_they_first_fit_the_longest_first() -> None:
    assert bins([3, 7, 2, 5, 9], capacity=10) == [[4], [1, 0], [3, 2]]
    assert bins([3, 7], capacity=0) == [[1], [0]]


def test_packed_rows_are_numbered_placed_and_counted() -> None:
    rows = [TokenRow([5, 6], [7]), TokenRow([8], [9, 10])]
    ids, segments, positions, kept, targets, counts = packed(rows, [[1, 0]], pad_id=0)
    assert ids.tolist() == [[8, 9, 10, 5, 6, 7]]
    assert segments.tolist() == [[1, 1, 1, 2, 2, 2]]
    assert positions.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert kept.tolist() == [4, 0, 1]  # the token before each of the answers', in the order of the rows
    assert targets.tolist() == [7, 9, 10]
    assert counts.tolist() == [1, 2]


def test_a_token_sees_its_own_row_up_to_itself() -> None:
    mask = seen(torch.tensor([[1, 1, 2]]))
    assert mask.tolist() == [[[[True, False, False], [True, True, False], [False, False, True]]]]
