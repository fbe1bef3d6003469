"""Convolutional networks for small images, with the normalisation of their pixels inside.

B = batch, C = channels, H = height, W = width, F = filters of a block, K = classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol, TypeVar, cast

import torch
from torch import nn

from gauntlet.manifests.errors import UsageError

CONVOLUTION = 3  # pixels wide and high

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class NetworkConfig:
    """The sizes of a network: the content of a checkpoint's `config.json`.

    Attributes:
        input_shape: Channels, height, width.
        filters, depth, units, dropout, head_dropout: As in `ImageTraining`.
    """

    arch: Literal["plain_cnn", "resnet"]
    input_shape: tuple[int, int, int]
    classes: int
    filters: tuple[int, ...]
    depth: int
    units: int
    dropout: float
    head_dropout: float


class Sizes(Protocol):
    """The keys of a section `training` that describe a network: see `ImageTraining`."""

    @property
    def arch(self) -> Any: ...  # noqa: D102
    @property
    def filters(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def depth(self) -> int: ...  # noqa: D102
    @property
    def units(self) -> int: ...  # noqa: D102
    @property
    def dropout(self) -> float: ...  # noqa: D102
    @property
    def head_dropout(self) -> float: ...  # noqa: D102


def network_config(section: Sizes, shape: Sequence[int], classes: int) -> NetworkConfig:
    """The network of a section for images of a shape (C, H, W).

    Raises:
        UsageError: Its blocks would halve the images to less than a pixel.
    """
    channels, height, width = shape
    most = min(height, width).bit_length() - 1
    if len(section.filters) > most:
        raise UsageError(
            f"training.filters: found {len(section.filters)} blocks, expected at most {most} for images of "
            f"{height} × {width} pixels, as blocks halve them. Name fewer widths."
        )
    return NetworkConfig(
        arch=section.arch,
        input_shape=(channels, height, width),
        classes=classes,
        filters=section.filters,
        depth=section.depth,
        units=section.units,
        dropout=section.dropout,
        head_dropout=section.head_dropout,
    )


class Normalisation(nn.Module):
    """Pixels of 0 to 255 to zero mean and unit variance over the training split, by channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised float32 images from images (B, C, H, W) of any type with values of 0 to 255."""
        return (images.float() - cast(torch.Tensor, self.mean)) / cast(torch.Tensor, self.std)


class ImageClassifier(nn.Module):
    """Normalisation, blocks of convolutions, and a head of one or two dense layers."""

    def __init__(self, config: NetworkConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalisation = Normalisation(mean, std)
        channels, height, width = config.input_shape
        last = config.filters[-1]
        if config.arch == "resnet":
            self.stem: nn.Module = convolution(channels, config.filters[0])
            self.blocks = residual_blocks(config)
            self.pool: nn.Module = GlobalAverage()
            features = last
        else:
            self.stem = nn.Identity()
            self.blocks = plain_blocks(config)
            self.pool = nn.Flatten()
            features = last * (height >> len(config.filters)) * (width >> len(config.filters))
        self.head = head(features, config)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of images (B, C, H, W), uint8 or floating point, with values of 0 to 255."""
        values = self.stem(self.normalisation(images))
        for block in self.blocks:
            values = block(values)
        return cast(torch.Tensor, self.head(self.pool(values)))


class NormalisedImages(nn.Module):
    """A network of the user's own, which gets float32 images of zero mean and unit variance, by channel."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalisation = Normalisation(mean, std)
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What the network returns for images (B, C, H, W) of any type with values of 0 to 255."""
        # Contiguous, so that `view` works in the network as it does in any other program.
        return cast(torch.Tensor, self.network(self.normalisation(images).contiguous()))


class GlobalAverage(nn.Module):
    """The mean over height and width. Unlike AdaptiveAvgPool2d, its gradient is deterministic on a GPU."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(B, F) of (B, F, H, W)."""
        return values.mean(dim=(2, 3))


class ResidualUnit(nn.Module):
    """Two convolutions and a shortcut (He et al., 2016), which is a 1 × 1 convolution if sizes change."""

    def __init__(self, before: int, filters: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(before, filters, stride)
        self.second = nn.Sequential(_convolution(filters, filters), nn.BatchNorm2d(filters))
        self._stride = stride
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != filters:
            self.shortcut = nn.Sequential(nn.Conv2d(before, filters, 1, bias=False), nn.BatchNorm2d(filters))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(B, F, H / stride, W / stride) of (B, before, H, W)."""
        # The pixels that a 1 × 1 convolution of this stride reads. They are selected here because the
        # gradient of such a convolution writes past its memory with several threads and channels last (torch
        # 2.13, CPU).
        seen = values[:, :, :: self._stride, :: self._stride]
        return torch.relu(self.second(self.first(values)) + self.shortcut(seen))


def convolution(before: int, filters: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    return nn.Sequential(_convolution(before, filters, stride), nn.BatchNorm2d(filters), nn.ReLU())


def _convolution(before: int, filters: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, filters, CONVOLUTION, stride, padding=CONVOLUTION // 2, bias=False)


def plain_blocks(config: NetworkConfig) -> nn.ModuleList:
    """Blocks of `depth` convolutions; each block ends in a pooling that halves height and width."""
    blocks = nn.ModuleList()
    for before, filters in pairwise([config.input_shape[0], *config.filters]):
        widths = [before, *[filters] * config.depth]
        layers = [convolution(*pair) for pair in pairwise(widths)]
        blocks.append(nn.Sequential(*layers, nn.MaxPool2d(2), nn.Dropout(config.dropout)))
    return blocks


def residual_blocks(config: NetworkConfig) -> nn.ModuleList:
    """Blocks of `depth` residual units; all blocks except the first start by halving height and width."""
    blocks = nn.ModuleList()
    for number, (before, filters) in enumerate(pairwise([config.filters[0], *config.filters])):
        units = [ResidualUnit(before, filters, stride=2 if number else 1)]
        units += [ResidualUnit(filters, filters, stride=1) for _ in range(config.depth - 1)]
        blocks.append(nn.Sequential(*units, nn.Dropout(config.dropout)))
    return blocks


class HeadSizes(Protocol):
    """The sizes of a head."""

    @property
    def classes(self) -> int: ...  # noqa: D102
    @property
    def units(self) -> int: ...  # noqa: D102
    @property
    def head_dropout(self) -> float: ...  # noqa: D102


def head(features: int, config: HeadSizes) -> nn.Sequential:
    """A dense layer with ReLU unless `units` is 0, then dropout and the last layer."""
    dense: list[nn.Module] = [nn.Linear(features, config.units), nn.ReLU()] if config.units else []
    last = nn.Linear(config.units or features, config.classes)
    return nn.Sequential(*dense, nn.Dropout(config.head_dropout), last)


def in_fast_layout(model: Model) -> Model:
    """The model with its convolutions' weights in channels-last layout, the fastest on CPU and GPU."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def in_channels_last(images: torch.Tensor) -> torch.Tensor:
    """The images (B, C, H, W) in channels-last layout."""
    return images.contiguous(memory_format=torch.channels_last)
