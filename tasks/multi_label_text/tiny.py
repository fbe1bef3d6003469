"""Settings and data with which any manifest of the kind trains in seconds, for `gauntlet smoke`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gauntlet.tasks.texts.tiny import SETTINGS, nonsense

TEXTS_PER_LABEL = 80


def settings(manifest: Any, folder: Path, at_hand: bool) -> tuple[dict[str, Any], str]:
    """Manifest keys to set, and in words which texts are read: its own, or generated ones of its labels."""
    dataset = manifest.dataset
    if at_hand:
        return SETTINGS, "its own"
    uri = write_texts(folder / "data", dataset.labels)
    generated = {"name": dataset.name, "version": "drawn", "labels": dataset.labels, "uri": str(uri)}
    separator = {"label_separator": dataset.label_separator}
    return {"dataset": generated | separator} | SETTINGS, "drawn"


def write_texts(folder: Path, labels: tuple[str, ...]) -> Path:
    """Nonsense sentences with a word for each of their labels; every fourth has two labels."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(len(labels)):
        for row in range(TEXTS_PER_LABEL):
            both = [number, (number + 1) % len(labels)] if row % 4 == 0 else [number]
            text = nonsense(generator, [f"class{at}" for at in both])
            rows.append(json.dumps({"text": text, "labels": [labels[at] for at in both]}))
    path = folder / "texts.jsonl"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
