"""Random movements of training images: a function of seed, epoch and row, independent of the batches.

One affine map per image combines all movements. Torch interpolates, on the training device.
N = rows of the training split, B = rows of a batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from gauntlet.tasks.images.manifest import Augmentation

DRAWS = 6  # rotation, zoom, shear, shift along the width and the height, flip
STREAM = 1  # the order of the rows is drawn from (seed, epoch) itself


def affine_maps(
    augmentation: Augmentation, shape: tuple[int, int], rows: int, seed: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """For each of N rows the map (2, 3) from positions in the moved image to positions in the original.

    Positions are (x, y) from -1 to 1 over the width and the height, as in `affine_grid`. The image is
    flipped, then sheared, zoomed, rotated about its centre and shifted.

    Args:
        augmentation: The limits; each draw is uniform between a limit and its opposite.
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
    # Positions are in half sides, so terms from one axis to the other are scaled by the aspect ratio.
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
    """Floating-point images (B, C, H, W) seen through maps (B, 2, 3); 0 outside of the original image."""
    with torch.autocast(images.device.type, enabled=False):  # bf16 is too coarse for a position in an image
        grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
        return functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="zeros", align_corners=False
        )
