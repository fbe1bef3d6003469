"""Packing: several rows of tokens in one sequence, which do not attend to each other.

S = sequences, T = tokens of the longest, K = tokens whose prediction counts, B = rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer

from gauntlet.manifests.dataset import SplitName
from gauntlet.trainer.batching import Lengths
from gauntlet.trainer.mapped import map_tokens

TEXTS = ("prompt", "target")
"""The columns of a split that are tokenised."""


@dataclass(frozen=True)
class TokenRow:
    """A prompt and the answer to learn, as token ids; neither is empty."""

    prompt: Sequence[int]
    target: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)

    @property
    def whole(self) -> list[int]:
        """The prompt, then the answer."""
        return [*self.prompt, *self.target]

    def cut(self, most: int) -> TokenRow:
        """The row in `most` tokens: the prompt loses its beginning, and the answer at most half of `most`."""
        room = max(most - len(self.target), most - most // 2)
        prompt = self.prompt[-room:]
        return TokenRow(prompt, self.target[: most - len(prompt)])


def token_rows(split: pd.DataFrame, tokenizer: Tokenizer, most: int) -> list[TokenRow]:
    """The rows of a split in at most `most` tokens. The rendered text holds all special tokens."""

    def encoded(column: str) -> list[list[int]]:
        texts = split[column].tolist()
        return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]

    rows = zip(encoded("prompt"), encoded("target"), strict=True)
    return [TokenRow(*row).cut(most) for row in rows]


class TokenRows(Sequence[TokenRow]):
    """The rows of a split, whose tokens are on disk, each in at most `most` tokens.

    Attributes:
        lengths: Tokens of each row.
        targets: How many of them are its answer.
    """

    def __init__(self, splits: Path, split: SplitName, tokenizer: Tokenizer, most: int) -> None:
        columns, _ = map_tokens(splits, split, tokenizer, TEXTS, special_tokens=False)
        self._prompts, self._targets = (columns[name] for name in TEXTS)
        self._most = most
        prompts, targets = self._prompts.lengths, self._targets.lengths
        kept = np.minimum(prompts, np.maximum(most - targets, most - most // 2))  # as `TokenRow.cut`
        self.targets: Lengths = np.minimum(targets, most - kept)
        self.lengths: Lengths = kept + self.targets

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, at: int) -> TokenRow: ...
    @overload
    def __getitem__(self, at: slice) -> list[TokenRow]: ...
    def __getitem__(self, at: int | slice) -> TokenRow | list[TokenRow]:
        if isinstance(at, slice):
            return [self[row] for row in range(*at.indices(len(self)))]
        return TokenRow(self._prompts[at].tolist(), self._targets[at].tolist()).cut(self._most)

    @property
    def largest_id(self) -> int:
        """The largest token id of all rows, also of what is cut off."""
        return max(int(column.used().max(initial=0)) for column in (self._prompts, self._targets))


def bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """The rows' indices by sequence, by first-fit decreasing (Johnson, 1973)."""
    found: list[list[int]] = []
    free: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        place = next((at for at, room in enumerate(free) if lengths[row] <= room), None)
        if place is None:
            found.append([])
            free.append(capacity)
            place = len(found) - 1
        found[place].append(row)
        free[place] -= lengths[row]
    return found


def packed(
    rows: Sequence[TokenRow], sequences: Sequence[Sequence[int]], pad_id: int
) -> tuple[torch.Tensor, ...]:
    """The rows as int64 tensors, distributed over sequences as `sequences` says.

    Returns:
        ids, segments, positions: (S, T). A segment is a row's number in its sequence, from 1; 0 is padding.
            Positions count from each row's beginning.
        kept: (K,) the indices into the flattened ids at which the model predicts a token of an answer.
        targets: (K,) these tokens, in the order of the rows.
        counts: (B,) how many of them each row has.
    """
    width = max(sum(len(rows[at]) for at in sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad_id)
    segments, positions = torch.zeros_like(ids), torch.zeros_like(ids)
    kept: dict[int, torch.Tensor] = {}
    for number, sequence in enumerate(sequences):
        start = 0
        for segment, at in enumerate(sequence, start=1):
            row = rows[at]
            end = start + len(row)
            ids[number, start:end] = torch.tensor(row.whole)
            segments[number, start:end] = segment
            positions[number, start:end] = torch.arange(len(row))
            kept[at] = torch.arange(start + len(row.prompt) - 1, end - 1) + number * width
            start = end
    targets = torch.cat([torch.tensor(row.target) for row in rows])
    counts = torch.tensor([len(row.target) for row in rows])
    return ids, segments, positions, torch.cat([kept[at] for at in range(len(rows))]), targets, counts


def seen(segments: torch.Tensor) -> torch.Tensor:
    """The attention mask (S, 1, T, T) for segments (S, T): a token sees its own row, up to itself."""
    same = segments[:, :, None] == segments[:, None, :]
    return (same & same.new_ones(same.shape[1:]).tril())[:, None]
