"""What kinds that read images have in common in training: rows on the device, augmentation, saving.

B = batch, N = rows of a split, C = channels, H = height, W = width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from gauntlet.serving.images import PREPROCESSING_FILE
from gauntlet.serving.interface import Resize
from gauntlet.tasks.images.augmentation import affine_maps, moves
from gauntlet.tasks.images.manifest import Augmentation
from gauntlet.trainer.task import WEIGHTS_FILE, with_frozen

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIG_FILE = "config.json"


class RowsOnDevice:
    """A split's arrays (N, …), copied to the device that first asks for them; a batch is their positions."""

    def __init__(self, *arrays: npt.NDArray[Any]) -> None:
        self._tensors = tuple(torch.from_numpy(array) for array in arrays)

    def at(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The arrays' rows (B, …) at positions (B,), on the positions' device."""
        if self._tensors[0].device != rows.device:
            self._tensors = tuple(tensor.to(rows.device) for tensor in self._tensors)
        return tuple(tensor[rows] for tensor in self._tensors)


class AugmentationMaps:
    """The affine maps of all training images (N, M, 2, 3) in an epoch, for M images per row."""

    def __init__(
        self, augmentation: Augmentation, shape: Sequence[int], rows: int, images_per_row: int = 1
    ) -> None:
        self._augmentation = augmentation
        self._shape = (shape[0], shape[1])
        self._rows, self._images_per_row = rows, images_per_row
        self._maps: npt.NDArray[np.float32] = np.empty(0, dtype=np.float32)
        self._seed: tuple[int, int] | None = None

    def at(self, rows: Sequence[int], seed: tuple[int, int]) -> torch.Tensor | None:
        """The maps (B, M, 2, 3) of rows, given (seed, epoch); None if nothing moves."""
        if not moves(self._augmentation):
            return None
        if self._seed != seed:
            maps = affine_maps(self._augmentation, self._shape, self._images_per_row * self._rows, seed)
            self._maps = maps.reshape(self._rows, self._images_per_row, 2, 3)
            self._seed = seed
        return torch.from_numpy(self._maps[rows])


def save_network(
    config: DataclassInstance,
    model: nn.Module,
    weights: Mapping[str, torch.Tensor],
    folder: Path,
    resize: Resize | None = None,
) -> None:
    """Write `model.safetensors`, `config.json`, and if images were resized how they were."""
    save_file(with_frozen(weights, model), folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=2), encoding="utf-8")
    if resize is not None:
        (folder / PREPROCESSING_FILE).write_text(json.dumps({"resize": resize}), encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's `config.json`, with lists as tuples."""
    content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
