"""The network: hashed word features, and convolutions over the sentence.

B = sentences, T = words of the longest one, F = features of a word, D = width, K = tags.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from gauntlet_token_classification.features import PADDING


@dataclass(frozen=True)
class TaggerConfig:
    """The network's sizes."""

    tags: tuple[str, ...]
    buckets: int
    width: int
    layers: int
    dropout: float


class Tagger(nn.Module):
    """A score for each tag of each word. Padding has no influence on the words beside it."""

    def __init__(self, config: TaggerConfig) -> None:
        """Initialise from torch's global seed."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.buckets + 1, config.width, padding_idx=PADDING)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.width, config.width, kernel_size=3, padding=1) for _ in range(config.layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, len(config.tags))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (B, T, K) of features (B, T, F)."""
        present = (features[:, :, :1] != PADDING).to(self.embedding.weight.dtype)  # (B, T, 1)
        words = self.embedding(features).sum(dim=2) * present  # (B, T, D)
        for convolution in self.convolutions:
            neighbours = convolution(self.dropout(words).transpose(1, 2)).transpose(1, 2)  # (B, T, D)
            words = words + torch.relu(neighbours) * present
        logits: torch.Tensor = self.head(self.dropout(words))
        return logits
