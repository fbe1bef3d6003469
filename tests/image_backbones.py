"""Networks that give features of images, as a user's own package would have them."""

from __future__ import annotations

from torch import nn

FEATURES = 12


def small() -> nn.Module:
    """Three stages: a stem, and two blocks in a sequence; the features have positions."""
    network = nn.Sequential()
    network.add_module("stem", nn.Conv2d(3, 8, 3, 2, padding=1))
    blocks = nn.Sequential(
        nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)),
        nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, FEATURES, 3, 2, padding=1)),
    )
    network.add_module("blocks", blocks)
    return network


def pairs() -> nn.Module:
    """Not features, but three numbers with a shape of their own."""
    return nn.Flatten(0, 2)


def fails() -> nn.Module:
    """It takes vectors."""
    return nn.Linear(7, 2)


def text() -> str:
    """No network."""
    return "small"


def raises() -> nn.Module:
    """It looks for a file that is not there."""
    raise OSError("no such file")


def wants(width: int) -> nn.Module:
    """It cannot be called without arguments."""
    return nn.Conv2d(3, width, 3)
