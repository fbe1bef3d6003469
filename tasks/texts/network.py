"""The network: a pretrained encoder, mean pooling, one linear layer. `encoder_files` finds encoders.

B = batch, T = tokens, H = hidden size, C = classes, V = vocabulary, U = rows of the embedding in use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

Attention = Literal["sdpa", "eager"]
ABSENT = -1

transformers_logging.disable_progress_bar()  # it would print a bar per weight file to the log


class TextClassifier(nn.Module):
    """Mean of the encoder's last hidden states over the real tokens, dropout, one linear layer."""

    def __init__(self, encoder: nn.Module, hidden_size: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of token ids and mask, both (B, T) int64."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]  # (B, T, H)
        mask = attention_mask.unsqueeze(-1).to(states.dtype)  # (B, T, 1)
        pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)  # (B, H)
        return cast(torch.Tensor, self.classifier(self.dropout(pooled)))  # (B, C)


def load_encoder(
    folder: Path,
    attention: Attention = "sdpa",
    pretrained: bool = True,
    dropout: float = 0.0,
    layers: int | None = None,
) -> nn.Module:
    """The transformer without a head: `(B, T)` ids and mask in, `last_hidden_state` `(B, T, H)` out.

    Args:
        folder: The encoder's files.
        attention: transformers' implementation of it.
        pretrained: Whether to load the weights, or only build the architecture.
        dropout: Replaces every dropout probability of the configuration.
        layers: How many layers to keep, from the first; None: all.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    for key in vars(config):
        if "dropout" in key and isinstance(getattr(config, key), float):
            setattr(config, key, dropout)
    settings = {"attn_implementation": attention, "dtype": torch.float32}
    if pretrained:
        encoder = AutoModel.from_pretrained(folder, config=config, **settings)
    else:
        encoder = AutoModel.from_config(config, **settings)
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # BERT's next-sentence head, which the classifier does not use
    if layers is not None:
        del layers_of(encoder)[1][layers:]
        encoder.config.num_hidden_layers = layers
    module: nn.Module = encoder
    return module


def layers_of(encoder: nn.Module) -> tuple[str, nn.ModuleList]:
    """The stack of a transformer's layers, and its name in the transformer."""
    count = encoder.config.num_hidden_layers  # type: ignore[union-attr]
    stacks = (pair for pair in encoder.named_modules() if isinstance(pair[1], nn.ModuleList))
    return next((name, stack) for name, stack in stacks if len(stack) == count)


class PartlyTrainedEmbedding(nn.Module):
    """An embedding (V, H) that trains only the rows that training texts use: `trained` (U, H).

    Other rows have no gradient, so their moments stay zero and training them is wasted work: 11.7 M of
    MiniLM's 22.7 M parameters are the table. The only effect is that these rows see no weight decay. In
    training mode it takes only the ids in `used`, in eval mode all ids.
    """

    def __init__(self, embedding: nn.Embedding, used: Sequence[int]) -> None:
        super().__init__()
        self._used = torch.tensor(sorted(set(used)))
        position = torch.full((embedding.num_embeddings,), ABSENT)
        position[self._used] = torch.arange(len(self._used))
        self.trained = nn.Parameter(embedding.weight.detach()[self._used])
        # Not part of the state, since the pretrained encoder and the training texts determine them.
        self.register_buffer("_frozen", embedding.weight.detach(), persistent=False)
        self.register_buffer("_position", position, persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows (…, H) of ids (…) int64."""
        position = cast(torch.Tensor, self._position)[ids]
        if self.training:
            return functional.embedding(position, self.trained)
        frozen = functional.embedding(ids, cast(torch.Tensor, self._frozen))
        trained = functional.embedding(position.clamp(min=0), self.trained)
        return torch.where((position == ABSENT).unsqueeze(-1), frozen, trained)

    def whole(self, trained: torch.Tensor) -> torch.Tensor:
        """The table (V, H) of an ordinary embedding with these trained rows (U, H)."""
        table = cast(torch.Tensor, self._frozen).detach().cpu().clone()
        table[self._used] = trained
        return table


def train_used_rows_only(encoder: nn.Module, used: Sequence[int]) -> None:
    """Replace the encoder's word embedding in place."""
    embedding = encoder.get_input_embeddings()  # type: ignore[operator]
    partly = PartlyTrainedEmbedding(embedding, used).train(embedding.training)
    encoder.set_input_embeddings(partly)  # type: ignore[operator]


def with_whole_tables(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The model's weights under the names that the pretrained architecture has for them."""
    whole = dict(weights)
    for name, module in model.named_modules():
        if isinstance(module, PartlyTrainedEmbedding):
            whole[f"{name}.weight"] = module.whole(whole.pop(f"{name}.trained"))
    return whole
