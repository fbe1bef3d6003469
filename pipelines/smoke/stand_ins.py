"""Rows and a language model for a machine that has none: drawn, small, and the same every time.

They show that every step works. What a model makes of them says nothing of any system.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gauntlet.manifests.dataset import LabelledDataset
from gauntlet.manifests.schema import Manifest
from gauntlet.tasks.image_classification.manifest import ImageDataset
from gauntlet.tasks.ordinal_grading.manifest import CardDataset

PACKAGED_CONVERSATIONS = "package://gauntlet.manifests/data/conversations_sample.json"
CARDS = "synthetic://cards?cards=160&seed=7"
SMALL_CARD = (66, 48)
FEW_CARDS = {
    "dataset.checks.rows_per_class.severity": "warn",
    "dataset.checks.class_balance.severity": "warn",
}
AT_HAND = ("package://", "synthetic://")
TEXTS_PER_LABEL, WORDS_PER_TEXT = 80, 9  # about 12 for validation and as many for testing
TRAINING_IMAGES, TEST_IMAGES = 40, 16
"""Of each class."""
SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "sa", "to", "vi")
LANGUAGE_SAMPLE = "User: What makes you feel calm?\nAssistant: Walking slowly, and talking to a friend.\n"


@dataclass(frozen=True)
class Data:
    """What a smoke run reads: in words, and the keys of the manifest that lead there."""

    rows: str
    settings: dict[str, Any] = field(default_factory=dict)


def dataset_for(manifest: Manifest, folder: Path) -> Data:
    """The manifest's own data where it is at hand, else what is drawn into `folder`."""
    dataset = manifest.dataset
    if isinstance(dataset, CardDataset) and dataset.uri.startswith("synthetic://"):
        return Data("fewer cards", {"dataset.uri": CARDS, "dataset.shape": SMALL_CARD} | FEW_CARDS)
    if dataset.uri.startswith(AT_HAND) or ("://" not in dataset.uri and Path(dataset.uri).exists()):
        return Data("its own")
    if isinstance(dataset, CardDataset):
        return Data("drawn", {"dataset.uri": CARDS, "dataset.shape": SMALL_CARD} | FEW_CARDS)
    common = {"name": dataset.name, "version": "drawn"}
    if isinstance(dataset, ImageDataset):
        uri = write_images(folder, len(dataset.labels), dataset.shape, dataset.channels)
        kept = {"labels": dataset.labels, "shape": dataset.shape, "channels": dataset.channels}
        return Data("drawn", {"dataset": {**common, **kept, "uri": str(uri), "validation_fraction": 0.25}})
    if isinstance(dataset, LabelledDataset):
        uri = write_texts(folder, dataset.labels)
        return Data("drawn", {"dataset": {**common, "labels": dataset.labels, "uri": str(uri)}})
    return Data("packaged", {"dataset": {**common, "uri": PACKAGED_CONVERSATIONS}})


def write_texts(folder: Path, labels: tuple[str, ...]) -> Path:
    """A CSV of sentences without sense, in each of which a word of its class's own stands."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines = ["text,label"]
    for number, label in enumerate(labels):
        for _ in range(TEXTS_PER_LABEL):
            words = ["".join(generator.choice(SYLLABLES, 3)) for _ in range(WORDS_PER_TEXT)]
            words[int(generator.integers(WORDS_PER_TEXT))] = f"class{number}"
            lines.append(f'{" ".join(words)},"{label.replace(chr(34), chr(34) * 2)}"')
    path = folder / "texts.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_images(folder: Path, classes: int, shape: tuple[int, int], channels: int) -> Path:
    """The four idx files of images with noise, in which a bright bar stands where its class has it."""
    folder.mkdir(parents=True)
    for seed, (role, count) in enumerate((("train", TRAINING_IMAGES), ("t10k", TEST_IMAGES))):
        generator = np.random.default_rng(seed)
        labels = np.tile(np.arange(classes, dtype=np.uint8), count)
        sides = (*shape, channels) if channels > 1 else shape
        images = generator.integers(0, 60, (len(labels), *sides), dtype=np.uint8)
        width = max(1, shape[1] // classes)
        for image, label in zip(images, labels, strict=True):
            image[:, label * width % shape[1] :][:, :width] += np.uint8(150)
        for name, array in ((f"{role}-images-idx3-ubyte", images), (f"{role}-labels-idx1-ubyte", labels)):
            (folder / f"{name}.gz").write_bytes(gzip.compress(_idx(array), compresslevel=1))
    return folder


def _idx(array: npt.NDArray[np.uint8]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_language_model(folder: Path) -> Path:
    """A Llama of two layers that nobody trained, whose tokens are bytes and what follows them often."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    end = "<|end|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(fast),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=131_072,  # whatever dataset.max_tokens is
                bos_token_id=fast.eos_token_id,
                eos_token_id=fast.eos_token_id,
            )
        )
    network.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def _sentences() -> Iterator[str]:
    yield LANGUAGE_SAMPLE
