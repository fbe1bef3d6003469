"""Small cards whose grade a small network can read: the brighter a bar at the side, the better the card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 32, 44
SHAPE = (44, 32)
PER_GRADE = {"train": 6, "val": 2, "test": 3}


def draw_side(generator: np.random.Generator, grade: int) -> Image.Image:
    """A picture of random blocks, beside which the grade shines."""
    blocks = generator.integers(60, 200, (11, 8, 3), dtype=np.uint8)
    pixels = np.kron(blocks, np.ones((4, 4, 1), dtype=np.uint8))
    pixels[:, :10] = 25 * grade
    return Image.fromarray(pixels)


def write_cards(folder: Path, per_grade: dict[str, int] = PER_GRADE, seed: int = 0) -> Path:
    """Cards of every grade as PNG files, and their `splits.json`; half of them with centering and edges."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[dict[str, Any]]] = {}
    for name, count in per_grade.items():
        splits[name] = []
        for number in range(10 * count):
            grade = number % 10 + 1
            card: dict[str, Any] = {"grade": grade, "certificate": f"{name}-{number}"}
            for side in ("front", "back"):
                card[side] = f"{name}-{number}-{side}.png"
                draw_side(generator, grade).save(folder / card[side])
            if number % 2:
                card["centering"] = {"front": [52.0, 48.0], "back": [50.0, 50.0 + grade]}
                card["edge_damage"] = {"front": 0.1, "back": 1 - grade / 10}
            splits[name].append(card)
    write_splits(folder, splits)
    return folder


def write_splits(folder: Path, splits: Any) -> None:
    (folder / "splits.json").write_text(json.dumps(splits))


def read_splits(folder: Path) -> Any:
    return json.loads((folder / "splits.json").read_text())


def dataset(uri: Path | str, **settings: Any) -> dict[str, Any]:
    """The section `dataset` of the drawn cards."""
    content = {"name": "drawn", "version": "1", "uri": str(uri), "shape": list(SHAPE)}
    return content | {"checks": {"image_size": {"min_side": 16}} | settings.pop("checks", {})} | settings
