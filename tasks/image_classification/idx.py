"""Read the idx format, in which MNIST and its kin are published.

Two zero bytes, a byte for the type of the values (8: unsigned bytes), a byte for the number of dimensions,
each dimension as 32 bits, the highest first, then the values: https://yann.lecun.com/exdb/mnist/
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gauntlet.manifests.errors import DataError

UNSIGNED_BYTES = 8
START = 4  # bytes before the dimensions


def read_idx(data: bytes, name: str, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of an unpacked idx file; `name` is named in errors.

    Raises:
        DataError: It is no idx file of unsigned bytes with so many dimensions, or it is not whole.
    """
    start = START + 4 * dimensions
    if len(data) < START or data[:2] != b"\0\0":
        raise DataError(
            f"{name}: found {data[:START].hex(' ') or 'no bytes'} at its start, expected "
            f"{bytes([0, 0, UNSIGNED_BYTES, dimensions]).hex(' ')}, as in an idx file. "
            "Name the right file in dataset.files"
        )
    if data[2] != UNSIGNED_BYTES or data[3] != dimensions:
        raise DataError(
            f"{name}: found an idx file of type {data[2]} with {data[3]} dimensions, expected type "
            f"{UNSIGNED_BYTES} (unsigned bytes) with {dimensions}. Name the right file in dataset.files"
        )
    if len(data) < start:
        raise DataError(
            f"{name}: found {len(data)} bytes, expected {start} before its values. Fetch it again"
        )
    shape = tuple(int(side) for side in np.frombuffer(data, dtype=">u4", count=dimensions, offset=START))
    expected = math.prod(shape)
    if len(data) - start != expected:
        raise DataError(
            f"{name}: found {len(data) - start:,} bytes of values, expected {expected:,} "
            f"({' × '.join(f'{side:,}' for side in shape)}). Fetch it again"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
