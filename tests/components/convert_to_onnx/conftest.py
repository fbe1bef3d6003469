"""A small checkpoint with the weights of no training, wide enough apart that its classes differ."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import ModernBertConfig

from gauntlet.contracts.training import TrainingRecord
from gauntlet.tasks.texts.network import TextClassifier, load_encoder
from gauntlet.trainer.saved_model import write_checkpoint

LABELS = ("calm", "angry", "glad")
WEIGHT_SPREAD = 0.2  # standard deviation; the usual 0.02 gives every text nearly the same scores


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine threads wait for each other, which slows a small model many times over."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save_checkpoint(folder: Path, encoder: Path) -> Path:
    """A classifier with seeded weights on the architecture and tokenizer in the folder `encoder`."""
    torch.manual_seed(0)
    module = load_encoder(encoder, pretrained=False)
    model = TextClassifier(module, module.config.hidden_size, len(LABELS))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=WEIGHT_SPREAD)

    def save_files(target: Path) -> None:
        save_file(model.state_dict(), target / "model.safetensors")
        for name in ("config.json", "tokenizer.json"):
            shutil.copyfile(encoder / name, target / name)

    record = TrainingRecord(
        task="text_classification",
        labels=LABELS,
        encoder="tiny",
        max_length=32,
        seed=0,
        epoch=1,
        data_sha256="d" * 64,
        training_sha256="e" * 64,
    )
    write_checkpoint(folder, record, save_files)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """A checkpoint of a BERT with two layers."""
    return save_checkpoint(tmp_path_factory.mktemp("bert") / "checkpoint", tiny_encoder)


@pytest.fixture(scope="session")
def rotary_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """A checkpoint of a ModernBERT, whose rotary positions keep its attention from fusing."""
    folder = tmp_path_factory.mktemp("modernbert")
    shutil.copyfile(tiny_encoder / "tokenizer.json", folder / "tokenizer.json")
    ModernBertConfig(
        vocab_size=64,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        cls_token_id=2,
        eos_token_id=3,
        sep_token_id=3,
    ).save_pretrained(folder)
    return save_checkpoint(folder / "checkpoint", folder)
