"""Graphs of an image classifier as torch exports them, and the faults that such an export may have."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from gauntlet.tasks.images.networks import ImageClassifier
from gauntlet.trainer.cpu.kernels import Dropout


class QuarterTurn(nn.Module):
    """An augmentation that was left in the graph: every image (B, C, H, W) is turned by 90°."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.transpose(2, 3).flip(3)


def export(model: nn.Module, path: Path, shape: tuple[int, ...]) -> Path:
    """Write the graph of the model in the mode that it is in, for images (C, H, W)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros((2, *shape), dtype=torch.uint8),),
            str(path),
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
    return path


def unchanged(model: ImageClassifier) -> None:
    """As it is trained."""


def without_normalisation(model: ImageClassifier) -> None:
    """Pixels from 0 to 1, where training gave it zero mean and unit variance."""
    model.normalisation.mean.zero_()  # type: ignore[operator, union-attr]
    model.normalisation.std.fill_(255.0)  # type: ignore[operator, union-attr]


def augmented(model: ImageClassifier) -> None:
    """Images move, as they might in training alone."""
    model.normalisation = nn.Sequential(QuarterTurn(), model.normalisation)  # type: ignore[assignment]


def in_training_mode(model: ImageClassifier) -> None:
    """Batches are normalised by themselves; dropout, which would be found for being random, stays off."""
    model.train()
    for module in model.modules():
        if isinstance(module, Dropout):
            module.eval()
