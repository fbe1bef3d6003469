from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from gauntlet.tasks.ordinal_grading.network import BorderNetwork

SHAPE = (3, 88, 64)
STEPS = 250


def framed(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (N, C, H, W) of a panel in a frame on some ground, and the frame's centering (N, 2)."""
    random = np.random.default_rng(seed)
    _, height, width = SHAPE
    pictures = np.empty((count, *SHAPE), dtype=np.float32)
    shares = np.empty((count, 2), dtype=np.float32)
    for picture, share in zip(pictures, shares, strict=True):
        ground, frame, panel = random.permutation([-1.0, 0.2, 1.4])
        picture[:] = ground
        across, down = (random.integers(2, 6, 2) for _ in range(2))  # where the card begins and ends
        picture[:, down[0] : height - down[1], across[0] : width - across[1]] = frame
        left, right, top, bottom = random.integers(2, 9, 4)
        picture[
            :,
            down[0] + top : height - down[1] - bottom,
            across[0] + left : width - across[1] - right,
        ] = panel
        share[:] = 100 * left / (left + right), 100 * top / (top + bottom)
    pictures += random.normal(0, 0.1, pictures.shape)
    return torch.from_numpy(pictures), torch.from_numpy(shares)


@pytest.fixture(scope="module")
def trained() -> BorderNetwork:
    torch.manual_seed(0)
    network = BorderNetwork(SHAPE)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    pictures, shares = framed(512, seed=1)
    for step in range(STEPS):
        chosen = torch.arange(32 * step, 32 * step + 32) % len(pictures)
        loss = functional.smooth_l1_loss(network(pictures[chosen]) / 10, shares[chosen] / 10, beta=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def errors(network: BorderNetwork, pictures: torch.Tensor, shares: torch.Tensor) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        return (network(pictures) - shares).abs().numpy()


def test_centering_is_learned_to_a_point_or_two_where_guessing_is_ten_off(trained: BorderNetwork) -> None:
    pictures, shares = framed(64, seed=2)
    assert errors(trained, pictures, shares).mean() < 2
    assert (shares - 50).abs().mean() > 10


def test_a_mirror_turns_left_into_right_and_upside_down_top_into_bottom(trained: BorderNetwork) -> None:
    pictures, _ = framed(4, seed=3)
    with torch.no_grad():
        seen, mirrored, turned = (trained(way) for way in (pictures, pictures.flip(3), pictures.flip((2, 3))))
    torch.testing.assert_close(mirrored[:, 0], 100 - seen[:, 0])
    torch.testing.assert_close(turned[:, 0], 100 - seen[:, 0])


def test_light_does_not_move_a_border(trained: BorderNetwork) -> None:
    pictures, shares = framed(64, seed=4)
    assert errors(trained, pictures + 0.2, shares).mean() < 2.5


@pytest.mark.parametrize("shape", [(3, 330, 240), (1, 44, 32), (3, 13, 17)])
def test_scans_of_any_size_have_two_centerings(shape: tuple[int, int, int]) -> None:
    assert BorderNetwork(shape)(torch.zeros(2, *shape)).tolist() == [[50.0, 50.0]] * 2
