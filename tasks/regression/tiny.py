"""Settings and data with which any manifest of the kind trains in seconds, for `gauntlet smoke`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SETTINGS: dict[str, Any] = {
    "training.epochs": 1,
    "training.batch_size": 16,
    "training.gradient_accumulation": 1,
    "conversion.pytorch": ["eager"],
}
OF_TEXTS: dict[str, Any] = {
    "training.max_length": 32,
    "dataset.max_tokens": 32,
    "conversion.candidates": ["plain", "fused"],
}
OF_IMAGES: dict[str, Any] = {
    "training.filters": [8],
    "training.depth": 1,
    "training.units": 16,
    "conversion.candidates": ["plain", "int8_static"],
}
ROWS, WORDS_PER_TEXT = 300, 9
SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "sa", "to", "vi")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def settings(manifest: Any, folder: Path, at_hand: bool) -> tuple[dict[str, Any], str]:
    """Manifest keys to set, and in words which rows are read: its own, or generated ones."""
    dataset = manifest.dataset
    is_text = dataset.columns.kind == "text"
    own = SETTINGS | (OF_TEXTS if is_text else OF_IMAGES)
    if at_hand:
        return own, "its own"
    folder = folder / "data"
    folder.mkdir(parents=True)
    low = 0.0 if dataset.target.min is None else dataset.target.min
    high = low + 9.0 if dataset.target.max is None else dataset.target.max
    targets = np.linspace(low, high, ROWS)
    input_column, target = str(dataset.columns.input), str(dataset.columns.target)
    write = write_texts if is_text else write_images
    generated: dict[str, Any] = {
        "name": dataset.name,
        "version": "drawn",
        "uri": str(write(folder, targets, (input_column, target), dataset.shape)),
        "columns": {dataset.columns.kind: input_column, "target": target},
        "target": dataset.target.model_dump(exclude_none=True),
        # Pictures of noise are alike in their lowest waves.
        "checks": {"leakage": {"severity": "warn"}, "near_duplicates": {"severity": "warn"}},
    }
    if not is_text:
        generated |= {"shape": dataset.shape, "channels": dataset.channels}
    return {"dataset": generated} | own, "drawn"


def write_texts(
    folder: Path, targets: npt.NDArray[np.float64], columns: tuple[str, str], _shape: object = None
) -> Path:
    """A CSV of nonsense sentences; each has a word for its target's place among all targets."""
    generator = np.random.default_rng(0)
    lines = [",".join(columns)]
    for at, target in enumerate(targets):
        words = ["".join(generator.choice(SYLLABLES, 3)) for _ in range(WORDS_PER_TEXT)]
        words[int(generator.integers(WORDS_PER_TEXT))] = DIGITS[at * len(DIGITS) // len(targets)]
        lines.append(f"{' '.join(words)},{target:.6g}")
    path = folder / "texts.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_images(
    folder: Path,
    targets: npt.NDArray[np.float64],
    columns: tuple[str, str],
    shape: tuple[int, int] | None = (28, 28),
) -> Path:
    """A CSV of paths and as many PNG files of noise; the larger the target, the brighter the image."""
    generator = np.random.default_rng(0)
    height, width = shape or (28, 28)
    lines = [",".join(columns)]
    for at, target in enumerate(targets):
        brightness = 40 + 150 * at // len(targets)
        pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8) + np.uint8(brightness)
        Image.fromarray(pixels).save(folder / f"{at:03d}.png")
        lines.append(f"{at:03d}.png,{target:.6g}")
    path = folder / "images.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
