"""Words as numbers: what the network reads. Serving imports this module, so it needs only numpy.

B = sentences, T = words of the longest one, F = features of a word.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FEATURES = 5
PADDING = 0
SHAPE = ((re.compile("[A-ZÀ-Þ]"), "X"), (re.compile("[a-zß-ÿ]"), "x"), (re.compile("[0-9]"), "9"))


def word_ids(word: str, buckets: int) -> list[int]:
    """The bucket of each feature of a word, from 1; 0 is padding."""
    shape = word[:12]
    for pattern, sign in SHAPE:
        shape = pattern.sub(sign, shape)
    lower = word.lower()
    features = (f"w={lower}", f"p={lower[:3]}", f"s={lower[-3:]}", f"e={lower[-2:]}", f"c={shape}")
    return [1 + zlib.crc32(feature.encode()) % buckets for feature in features]


def batch_ids(sentences: Sequence[Sequence[str]], buckets: int) -> npt.NDArray[np.int64]:
    """The features of sentences, (B, T, F), with 0 after the last word of a shorter one."""
    longest = max(len(words) for words in sentences)
    ids = np.full((len(sentences), longest, FEATURES), PADDING, dtype=np.int64)
    for row, words in enumerate(sentences):
        ids[row, : len(words)] = [word_ids(word, buckets) for word in words]
    return ids
