"""Pretrained networks for images, by their name in timm or by a function of the user's own.

docs/how-to/train_on_your_own_images.md says what such a function returns. B = batch, C = channels,
H = height, W = width, F = features, K = classes.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Self, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from gauntlet.backends import storage
from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.images.manifest import FROM_HUB, Backbone
from gauntlet.tasks.images.networks import NetworkConfig, Normalisation, head
from gauntlet.trainer.own_network import own_module

KEY = "training.backbone"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pixels of ImageNet from 0 to 1, by channel: what most pretrained networks were trained with."""

WHITE = 255
COUNTER = "num_batches_tracked"  # of batch normalisation; some published files lack it, and nothing reads it
SHOWN = 3


@dataclass(frozen=True)
class BackboneConfig:
    """A backbone and the sizes of its head: the content of a checkpoint's `config.json`.

    Attributes:
        backbone: Its name, as in the manifest.
        input_shape: Channels, height, width.
        mean, std: Of the pixels from 0 to 1 that the backbone was trained with, by channel.
        units, head_dropout: As in `ImageTraining`.
    """

    backbone: str
    input_shape: tuple[int, int, int]
    classes: int
    units: int
    head_dropout: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class BackboneClassifier(nn.Module):
    """Normalisation, the backbone, and a head of one or two dense layers.

    Frozen parts get no gradient, and stay in eval mode, so that their batch normalisation does not change.
    """

    is_own_network = True  # `own_network.require_usable` tries it if the backbone is code of the user's own

    def __init__(self, config: BackboneConfig, backbone: nn.Module) -> None:
        """Raises UsageError if the backbone does not give features for images of this shape."""
        super().__init__()
        self.config = config
        self.normalisation = Normalisation(
            [WHITE * value for value in config.mean], [WHITE * value for value in config.std]
        )
        self.backbone = backbone
        self._frozen: tuple[nn.Module, ...] = ()
        self.head = head(self._features(config), config)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of images (B, C, H, W), uint8 or floating point, with values of 0 to 255."""
        # A grey image becomes one of three equal channels here, before each is normalised by itself.
        return cast(torch.Tensor, self.head(self._pooled(self.normalisation(images))))

    def freeze(self, freeze: str | int) -> None:
        """Freeze `all` of the backbone, or so many of its first stages.

        Raises:
            UsageError: It has fewer stages.
        """
        parts = list(stages(self.backbone))
        if isinstance(freeze, int) and freeze > len(parts):
            raise UsageError(
                f"{KEY}.freeze: found {freeze}, expected at most {len(parts)}, the stages of this backbone: "
                f"{', '.join(name for name, _ in parts)}."
            )
        if freeze == "all":
            self._frozen = (self.backbone,)
        elif isinstance(freeze, int):
            self._frozen = tuple(part for _, part in parts[:freeze])
        for module in self._frozen:
            module.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, except for frozen parts."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _pooled(self, images: torch.Tensor) -> torch.Tensor:
        """(B, F) of normalised images (B, 3, H, W): the mean over positions if the backbone gives them."""
        features = cast(torch.Tensor, self.backbone(images))
        return features.mean(dim=(2, 3)) if features.ndim == 4 else features

    def _features(self, config: BackboneConfig) -> int:
        _, height, width = config.input_shape
        was_training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.no_grad():
                found = self._pooled(torch.zeros(1, 3, height, width))
        except Exception as error:  # whatever the user's code may raise
            raise UsageError(
                f"{KEY}.name: the forward of {config.backbone} failed for an image of 3 × {height} × "
                f"{width}: {type(error).__name__}: {error}"
            ) from error
        self.backbone.train(was_training)
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != 1:
            raise UsageError(
                f"{KEY}.name: for one image {config.backbone} gives "
                f"{getattr(found, 'shape', type(found).__name__)}, expected features (1, F) or "
                "(1, F, height, width)."
            )
        return found.shape[1]


def stages(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts with weights in their order, by name: a sequence of several parts counts as that many."""
    children = [(name, child) for name, child in backbone.named_children() if _has_weights(child)]
    if len(children) == 1:
        name, only = children[0]
        inside = list(stages(only))
        yield from ((f"{name}.{part}", module) for part, module in inside) if inside else children
        return
    for name, child in children:
        parts = [(f"{name}.{part}", module) for part, module in child.named_children()]
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(parts) > 1:
            yield from (part for part in parts if _has_weights(part[1]))
        else:
            yield name, child


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def pretrained_model(section: Backbone, sizes: NetworkConfig) -> BackboneClassifier:
    """The model of `training.backbone` with its pretrained weights, partly frozen; `sizes` has its head's.

    Raises:
        UsageError: The backbone cannot be made, or the weights are not its own.
    """
    backbone = _made(section.name, section.weights == FROM_HUB)
    if section.weights not in (None, FROM_HUB):
        load_weights(backbone, section)
    known = getattr(backbone, "pretrained_cfg", None) or {}
    config = BackboneConfig(
        backbone=section.name,
        input_shape=sizes.input_shape,
        classes=sizes.classes,
        units=sizes.units,
        head_dropout=sizes.head_dropout,
        mean=section.mean or tuple(known.get("mean", MEAN)),
        std=section.std or tuple(known.get("std", STD)),
    )
    model = BackboneClassifier(config, backbone)
    model.freeze(section.freeze)
    return model


def untrained_backbone(config: BackboneConfig, code: str) -> BackboneClassifier:
    """The model of a checkpoint without its weights; `code` is the `network` of its record.

    Raises:
        UsageError: The backbone is code that the record does not name. Such code must not run.
    """
    if ":" in config.backbone and config.backbone != code:
        raise UsageError(
            f"config.json: backbone: found {config.backbone}, expected {code or 'no code'}, the network in "
            "training.json. Restore the checkpoint."
        )
    return BackboneClassifier(config, _made(config.backbone, from_hub=False))


def _made(name: str, from_hub: bool) -> nn.Module:
    """The backbone; `from_hub` only for one of timm."""
    return own_module(name, f"{KEY}.name") if ":" in name else _of_timm(name, from_hub)


def _of_timm(name: str, from_hub: bool) -> nn.Module:
    otherwise = "or name a function that returns the network: my_package.models:my_backbone"
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{KEY}.name: found {name!r}, a name of timm, but {error.name} is not installed. "
            f"`pip install 'gauntlet[timm]'`, {otherwise}."
        ) from None
    except Exception as error:  # torchvision raises RuntimeError
        raise UsageError(
            f"{KEY}.name: found {name!r}, a name of timm, which cannot be imported: {error}. It needs a "
            f"torchvision that was built for PyTorch {torch.__version__}; {otherwise}."
        ) from None
    if not timm.is_model(name):
        similar = ", ".join(get_close_matches(name, timm.list_models(), n=SHOWN, cutoff=0.0))
        raise UsageError(
            f"{KEY}.name: found {name!r}, which timm {timm.__version__} does not have"
            f"; it has {similar}. Name one of timm.list_models(), {otherwise}."
        )
    try:
        return cast(nn.Module, timm.create_model(name, pretrained=from_hub, num_classes=0))
    except Exception as error:  # the hub's errors, and timm's for a network without published weights
        raise UsageError(
            f"{KEY}.weights: {name} cannot be fetched from the hub ({type(error).__name__}: {error}). Check "
            "the network, or name a file of safetensors."
        ) from None


def load_weights(backbone: nn.Module, section: Backbone) -> None:
    """Load a safetensors file into a backbone; what the file has beside that, such as a head, is left out.

    Raises:
        UsageError: The file is missing, is not safetensors, has another hash, or lacks weights.
    """
    assert section.weights is not None
    where = f"{KEY}.weights: {section.weights}"
    with tempfile.TemporaryDirectory(prefix="gauntlet-weights-") as scratch:
        path = Path(scratch, "weights")
        storage.fetch(section.weights, path)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if section.sha256 not in (None, found):
            raise UsageError(
                f"{where}: found sha256 {found}, expected {section.sha256}. Fetch it again, or correct "
                f"{KEY}.sha256."
            )
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise UsageError(
                f"{where}: found no safetensors ({error}). Convert it: load the file where you trust it, and "
                "write its tensors with safetensors.torch.save_file(state_dict, FILE)."
            ) from None
    own = backbone.state_dict()
    faults = [f"lacks {name}" for name in own if name not in tensors and not name.endswith(COUNTER)]
    faults += [
        f"has {name} of shape {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if faults:
        more = f", and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        has = ", ".join(sorted(tensors)[:SHOWN])
        raise UsageError(
            f"{where}: does not fit {section.name}: it {', '.join(faults[:SHOWN])}{more}. It has {has}, …"
        )
    left = sorted(set(tensors) - set(own))
    if left:
        print(f"{section.weights}: {', '.join(left)} not used", flush=True)
    backbone.load_state_dict({name: tensors[name] for name in own if name in tensors}, strict=False)
