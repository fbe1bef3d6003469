"""Texts as a graph takes them: cut at a number of tokens, padded on the right.

B = batch, T = tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from gauntlet.serving.inputs import Batch, InputError
from gauntlet.serving.tokenizer import TokenizerError, encodings, open_tokenizer


@dataclass(frozen=True)
class TextInputs:
    """A tokenizer as a bundle uses it."""

    tokenizer: Tokenizer

    @classmethod
    def open(cls, path: Path, max_length: int) -> TextInputs:
        """The tokenizer in a file, made to cut at `max_length` tokens and to pad on the right.

        Raises:
            TokenizerError: The file is no tokenizer that can be used.
        """
        opened = open_tokenizer(path)
        opened.tokenizer.enable_truncation(max_length)
        opened.tokenizer.enable_padding(direction="right", pad_id=opened.pad_id, pad_token=opened.pad_token)
        return cls(opened.tokenizer)

    def cut(self, rows: Sequence[str]) -> list[int]:
        """The positions of the texts that have more tokens than are read."""
        encodings = self.tokenizer.encode_batch(list(rows))
        return [position for position, encoding in enumerate(encodings) if encoding.overflowing]

    def batch(self, rows: Sequence[str]) -> Batch:
        """`input_ids` and `attention_mask`, each int64 (B, T); T is the length of the longest text in tokens.

        Raises:
            InputError: A row is not a text, or the tokenizer fails at one.
        """
        if not all(isinstance(row, str) for row in rows):
            raise InputError("found rows that are no texts, expected texts: this model classifies texts")
        try:
            encoded = encodings(self.tokenizer, rows)
        except TokenizerError as error:
            raise InputError(str(error)) from None
        return {
            "input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encoded], dtype=np.int64),
        }
