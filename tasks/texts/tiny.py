"""Settings and data with which any manifest of the kind trains in seconds, for `gauntlet smoke`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS: dict[str, Any] = {
    "training.epochs": 1,
    "training.batch_size": 16,
    "training.gradient_accumulation": 1,
    "training.max_length": 32,
    "dataset.max_tokens": 32,
    "conversion.candidates": ["plain", "fused"],
    "conversion.pytorch": ["eager"],
}
TEXTS_PER_LABEL, WORDS_PER_TEXT = 80, 9  # about 12 for validation and as many for testing
SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "sa", "to", "vi")


def settings(manifest: Any, folder: Path, at_hand: bool) -> tuple[dict[str, Any], str]:
    """Manifest keys to set, and in words which texts are read: its own, or generated ones of its labels."""
    dataset = manifest.dataset
    if at_hand:
        return SETTINGS, "its own"
    uri = write_texts(folder / "data", dataset.labels)
    generated = {"name": dataset.name, "version": "drawn", "labels": dataset.labels, "uri": str(uri)}
    return {"dataset": generated} | SETTINGS, "drawn"


def nonsense(generator: np.random.Generator, marks: Sequence[str]) -> str:
    """A sentence of nonsense words, with each of the marks in the place of one of them."""
    words = ["".join(generator.choice(SYLLABLES, 3)) for _ in range(WORDS_PER_TEXT)]
    for mark in marks:
        words[int(generator.integers(WORDS_PER_TEXT))] = mark
    return " ".join(words)


def write_texts(folder: Path, labels: tuple[str, ...]) -> Path:
    """A CSV of nonsense sentences; each contains a word that only its class has."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    lines = ["text,label"]
    for number, label in enumerate(labels):
        for _ in range(TEXTS_PER_LABEL):
            text = nonsense(generator, [f"class{number}"])
            lines.append(f'{text},"{label.replace(chr(34), chr(34) * 2)}"')
    path = folder / "texts.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
