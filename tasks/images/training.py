"""What kinds that read images have in common in training: rows on the device, augmentation, networks.

B = batch, N = rows of a split, C = channels, H = height, W = width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from gauntlet.serving.images import PREPROCESSING_FILE
from gauntlet.serving.interface import Resize
from gauntlet.tasks.images.augmentation import affine_maps, moved, moves
from gauntlet.tasks.images.data import PixelStatistics
from gauntlet.tasks.images.manifest import Augmentation
from gauntlet.tasks.images.networks import (
    ImageClassifier,
    NetworkConfig,
    NormalisedImages,
    Sizes,
    in_channels_last,
    in_fast_layout,
    network_config,
)
from gauntlet.trainer.batching import Lengths
from gauntlet.trainer.own_network import NamesNetwork, own_network
from gauntlet.trainer.saved_model import read_record
from gauntlet.trainer.task import WEIGHTS_FILE, Batch, Task, with_frozen

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

CONFIG_FILE = "config.json"
COPIED_ROWS = 1_024


class RowsOnDevice:
    """A split's arrays (N, …), copied to the device that first asks for them; a batch is their positions.

    If they would take over half of a GPU's free memory, they stay on the CPU, where images are in a file.
    """

    def __init__(self, *arrays: npt.NDArray[Any]) -> None:
        self._tensors = tuple(torch.from_numpy(array) for array in arrays)
        self._too_small: torch.device | None = None

    def __len__(self) -> int:
        return len(self._tensors[0])

    def at(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The arrays' rows (B, …) at positions (B,), on the positions' device."""
        if rows.device not in (self._tensors[0].device, self._too_small):
            self._move(rows.device)
        own = rows.to(self._tensors[0].device)
        return tuple(tensor[own].contiguous().to(rows.device) for tensor in self._tensors)

    def _move(self, device: torch.device) -> None:
        size = sum(tensor.nbytes for tensor in self._tensors)
        if device.type == "cuda" and size > torch.cuda.mem_get_info(device)[0] // 2:
            self._too_small = device
        else:
            self._tensors = tuple(copied(tensor, device) for tensor in self._tensors)


def copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A contiguous copy on a device, made in pieces, since the tensor may be a file larger than memory."""
    made = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    for start in range(0, len(tensor), COPIED_ROWS):
        made[start : start + COPIED_ROWS] = tensor[start : start + COPIED_ROWS].to(device)
    return made


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


class ImageSection(Sizes, NamesNetwork, Protocol):
    """The keys of a section `training` that `ImageTask` reads."""

    @property
    def augmentation(self) -> Augmentation: ...  # noqa: D102


class ImageTask(Task):
    """A network that sees one image per row, on images that are kept on the training device.

    A kind calls `prepare`, and says what the loss and the metrics of the outputs are.
    """

    def prepare(
        self,
        section: ImageSection,
        train: tuple[npt.NDArray[np.uint8], npt.NDArray[Any]],
        validation: npt.NDArray[np.uint8],
        pixels: PixelStatistics,
        resize: Resize | None,
        outputs: int,
    ) -> None:
        """Take the training images (N, C, H, W) with their targets (N,), and the images for validation.

        `pixels` are the training split's, `resize` says how images got to their shape, and `outputs` how many
        numbers the network gives for one.

        Raises:
            UsageError: The network has more blocks than the images allow.
        """
        images, _ = train
        self._train, self._validation = RowsOnDevice(*train), RowsOnDevice(validation)
        self._mean, self._std, self._resize = list(pixels.mean), list(pixels.std), resize
        self._named, self._config = section, network_config(section, images.shape[1:], outputs)
        self._maps = AugmentationMaps(section.augmentation, images.shape[2:], len(images))

    @property
    def train_lengths(self) -> Lengths:
        """All images have one size."""
        return np.ones(len(self._train), dtype=np.int64)

    @property
    def validation_lengths(self) -> Lengths:
        """As `train_lengths`."""
        return np.ones(len(self._validation), dtype=np.int64)

    @property
    def of_record(self) -> Mapping[str, Any]:
        """The shape of an image."""
        return {"input_shape": self._config.input_shape}

    def build_model(self) -> nn.Module:
        """The network, initialised from torch's global seed."""
        own = own_network(self._named, self.own_arguments)
        if own is not None:
            return NormalisedImages(own, self._mean, self._std)
        return in_fast_layout(self.built_in_network())

    def built_in_network(self) -> nn.Module:
        """The network if the section names none."""
        return ImageClassifier(self._config, self._mean, self._std)

    def training_batch(self, rows: Sequence[int], seed: tuple[int, int]) -> Batch:
        """Positions (B,), and if images are augmented their affine maps (B, 2, 3)."""
        positions, maps = torch.tensor(rows, dtype=torch.int64), self._maps.at(rows, seed)
        return (positions,) if maps is None else (positions, maps[:, 0])

    def validation_batch(self, rows: Sequence[int], _epoch: int) -> Batch:
        """Positions (B,): nothing is augmented."""
        return (torch.tensor(rows, dtype=torch.int64),)

    def training_outputs(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's outputs (B, …) for a batch of training rows, and their targets (B,)."""
        images, targets = self._train.at(batch[0])
        if len(batch) > 1:
            images = moved(images.float(), batch[1])
        return model(in_channels_last(images)), targets

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The network's outputs (B, …) for validation rows."""
        (images,) = self._validation.at(batch[0])
        return cast(torch.Tensor, model(in_channels_last(images)))

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
        """Write `model.safetensors`, the network's `config.json`, and how images were resized."""
        save_network(self._config, model, weights, folder, self._resize)


def untrained_network(folder: Path) -> nn.Module:
    """The network of `ImageTask` that a checkpoint's folder describes, without its weights."""
    config = NetworkConfig(**read_config(folder))
    channels = config.input_shape[0]
    mean, std = [0.0] * channels, [1.0] * channels  # both are among the weights
    own = own_network(read_record(folder))
    if own is not None:
        return NormalisedImages(own, mean, std)
    return in_fast_layout(ImageClassifier(config, mean, std))


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
