"""Random movements of training images: a function of seed, epoch and row, however rows are batched.

One affine map for each image does all of them at once, on the device that trains; torch interpolates.
N = rows of the training split, B = rows of a batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from gauntlet.tasks.image_classification.manifest import Augmentation

DRAWS = 6  # rotation, zoom, shear, shift along the width and the height, flip
STREAM = 1  # the order of the rows is drawn from (seed, epoch) itself


def affine_maps(
    augmentation: Augmentation, shape: tuple[int, int], rows: int, seed: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """For each of N rows the map (2, 3) from a place in the moved image to one in the image as it was.

    Places are (x, y) from -1 to 1 over the width and the height, as `affine_grid` has them. The image is
    flipped, then sheared, zoomed, turned about its centre and shifted.

    Args:
        augmentation: How far at most; each draw is uniform between that and its opposite.
        shape: Height and width of an image.
        rows: N.
        seed: The run's seed and the epoch.
    """
    draws = np.random.default_rng((*seed, STREAM)).uniform(-1.0, 1.0, (rows, DRAWS))
    turn, zoom, shear, across, down, side = draws.T
    angle = np.deg2rad(augmentation.rotation) * turn
    scale = 1 + augmentation.zoom * zoom
    flip = np.where((side < 0) & augmentation.horizontal_flip, -1.0, 1.0)
    height, width = shape
    # Places count in half sides, so what goes from one axis to the other takes the sides' proportion.
    proportion = height / width
    cos, sin = np.cos(angle), np.sin(angle)
    slide = augmentation.shear * shear * proportion
    forward = np.empty((rows, 2, 2))
    forward[:, 0, 0] = scale * cos * flip
    forward[:, 0, 1] = scale * (cos * slide - sin * proportion)
    forward[:, 1, 0] = scale * sin / proportion * flip
    forward[:, 1, 1] = scale * (sin / proportion * slide + cos)
    shift = 2 * augmentation.shift * np.stack([across, down], axis=1)  # a side is 2 long
    back = np.linalg.inv(forward)
    maps = np.concatenate([back, -back @ shift[:, :, None]], axis=2)
    return maps.astype(np.float32)


def moves(augmentation: Augmentation) -> bool:
    """Whether any image would move."""
    return augmentation != Augmentation()


def moved(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) of floating point seen through maps (B, 2, 3); outside of an image all is 0."""
    with torch.autocast(images.device.type, enabled=False):  # bf16 has no room for a place in an image
        grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
        return functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
