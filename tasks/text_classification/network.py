"""Pretrained text encoders as networks; `encoder_files` finds them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

Attention = Literal["sdpa", "eager"]

transformers_logging.disable_progress_bar()  # a bar per weight file has no place in a step's log


def load_encoder(
    folder: Path,
    attention: Attention = "sdpa",
    pretrained: bool = True,
    dropout: float = 0.0,
    layers: int | None = None,
) -> nn.Module:
    """The transformer without a head: `(B, T)` ids and mask in, `last_hidden_state` `(B, T, H)` out.

    With `pretrained=False` only the architecture is built, for weights that follow from elsewhere. `dropout`
    replaces every dropout probability of the configuration; `layers` cuts it down to its first ones.
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
        encoder.pooler = None  # BERT's next-sentence head: the classifier pools by mean and never calls it
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
