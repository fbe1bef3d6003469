from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from gauntlet.tasks.images.augmentation import DRAWS, STREAM, affine_maps, moved
from gauntlet.tasks.images.manifest import Augmentation

ALL = Augmentation(rotation=15, shift=0.15, shear=0.15, zoom=0.15, horizontal_flip=True)
ROWS = 40
SHAPE = (20, 12)  # higher than wide, so that a mixed-up axis shows


def images() -> torch.Tensor:
    """Smooth pictures, of which interpolations hardly differ: blots in random places."""
    generator = np.random.default_rng(0)
    noise = generator.uniform(0, 255, (ROWS, 1, *SHAPE))
    noise[:, :, :2], noise[:, :, -2:], noise[..., :2], noise[..., -2:] = 0, 0, 0, 0
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 1, 1)).astype(np.float32))


def augmented(augmentation: Augmentation, seed: tuple[int, int] = (3, 1)) -> np.ndarray:
    maps = torch.from_numpy(affine_maps(augmentation, SHAPE, ROWS, seed))
    return moved(images(), maps).numpy()


def test_a_moved_image_is_the_one_that_scipy_moves_in_pixels() -> None:
    draws = np.random.default_rng((3, 1, STREAM)).uniform(-1, 1, (ROWS, DRAWS))
    height, width = SHAPE
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    result = augmented(ALL)
    for image, found, (turn, zoom, shear, across, down, side) in zip(images(), result, draws, strict=True):
        angle = math.radians(15) * turn
        # In pixels, (x, y): flip, then slide x by y, zoom, turn.
        flip = np.diag([-1.0 if side < 0 else 1.0, 1.0])
        slide = np.array([[1.0, 0.15 * shear], [0.0, 1.0]])
        turned = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        forward = (1 + 0.15 * zoom) * turned @ slide @ flip
        back = np.linalg.inv(forward)[::-1, ::-1]  # scipy counts (y, x)
        shift = np.array([0.15 * down * height, 0.15 * across * width])
        expected = ndimage.affine_transform(
            image[0].numpy(), back, offset=centre - back @ (centre + shift), order=1, mode="grid-constant"
        )
        assert found[0] == pytest.approx(expected, abs=0.02)


def test_half_of_the_images_are_flipped_and_nothing_else() -> None:
    originals = images().numpy()
    result = augmented(Augmentation(horizontal_flip=True))
    pairs = list(zip(originals, result, strict=True))
    flipped = [np.allclose(found, image[..., ::-1], atol=1e-3) for image, found in pairs]
    kept = [np.allclose(found, image, atol=1e-3) for image, found in pairs]
    assert all(one != other for one, other in zip(flipped, kept, strict=True))
    assert 10 <= sum(flipped) <= 30


def test_the_seed_the_epoch_and_the_row_decide_alone() -> None:
    again, other_epoch, other_seed = augmented(ALL), augmented(ALL, (3, 2)), augmented(ALL, (4, 1))
    assert np.array_equal(augmented(ALL), again)
    assert not np.array_equal(other_epoch, again)
    assert not np.array_equal(other_seed, again)


def test_no_image_goes_further_than_the_manifest_lets_it() -> None:
    maps = affine_maps(ALL.model_copy(update={"horizontal_flip": False}), (28, 28), 10_000, (0, 1))
    forward = np.linalg.inv(maps[:, :, :2])
    shift = -np.einsum("nij,nj->ni", forward, maps[:, :, 2])
    assert np.abs(shift).max() == pytest.approx(2 * 0.15, abs=0.002)
    turn = np.degrees(np.arctan2(forward[:, 1, 0], forward[:, 0, 0]))
    assert (turn.min(), turn.max()) == pytest.approx((-15, 15), abs=0.1)
    zoom = np.sqrt(np.linalg.det(forward))
    assert (zoom.min(), zoom.max()) == pytest.approx((0.85, 1.15), abs=0.002)
