from __future__ import annotations

import numpy as np
import pytest

from gauntlet.manifests.errors import DataError
from gauntlet.tasks.image_classification.data import read_idx


@pytest.mark.parametrize("shape", [(4,), (3, 2, 5), (2, 2, 2, 3)])
def test_an_array_comes_back_as_it_was_written(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(side.to_bytes(4, "big") for side in shape)
    read = read_idx(header + array.tobytes(), "a", dimensions=len(shape))
    assert np.array_equal(read, array)
    assert read.dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "found no bytes at its start, expected 00 00 08 01"),
        (b"<htm", "found 3c 68 74 6d at its start, expected 00 00 08 01"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0]), "type 13 with 1 dimensions, expected type 8"),
        (
            bytes([0, 0, 8, 3, 0, 0, 0, 1, 0]),
            "type 8 with 3 dimensions, expected type 8 (unsigned bytes) with 1",
        ),
        (bytes([0, 0, 8, 1, 0, 0]), "found 6 bytes, expected 8 before its values"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 7]), "found 2 bytes of values, expected 3 (3)"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 7, 7]), "found 2 bytes of values, expected 1 (1)"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named_with_what_it_is(data: bytes, words: str) -> None:
    with pytest.raises(DataError) as raised:
        read_idx(data, "labels.gz", dimensions=1)
    assert str(raised.value).startswith("labels.gz: found ")
    assert words in str(raised.value)
