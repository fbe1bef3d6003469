from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from gauntlet.tasks.images.networks import ImageClassifier, NetworkConfig, Normalisation, ResidualUnit

MEAN, STD = [72.9], [90.0]


def config(arch: str, **changes: object) -> NetworkConfig:
    settings = {
        "input_shape": (1, 28, 28),
        "classes": 10,
        "filters": (32, 64, 128),
        "depth": 1,
        "units": 512,
        "dropout": 0.25,
        "head_dropout": 0.5,
    }
    return NetworkConfig(arch=arch, **settings | changes)  # type: ignore[arg-type]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_plain_network_is_the_one_that_its_sizes_say() -> None:
    model = ImageClassifier(config("plain_cnn"), MEAN, STD)
    convolutions = 9 * (1 * 32 + 32 * 64 + 64 * 128)
    normalisations = 2 * (32 + 64 + 128)
    dense = (3 * 3 * 128 + 1) * 512 + (512 + 1) * 10  # 28 pixels, halved three times, leave 3
    assert parameters(model) == convolutions + normalisations + dense
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_depth_adds_convolutions_of_the_blocks_own_width() -> None:
    one, two = (parameters(ImageClassifier(config("plain_cnn", depth=depth), MEAN, STD)) for depth in (1, 2))
    assert two - one == sum(9 * width * width + 2 * width for width in (32, 64, 128))


def test_the_small_resnet_has_less_than_a_million_parameters() -> None:
    model = ImageClassifier(config("resnet", depth=2, units=0), MEAN, STD)
    stem = 9 * 32 + 2 * 32
    first = 2 * 2 * (9 * 32 * 32 + 2 * 32)
    others = 0
    for before, width in ((32, 64), (64, 128)):
        others += 9 * before * width + 3 * 9 * width * width + 4 * 2 * width + before * width + 2 * width
    assert parameters(model) == stem + first + others + 128 * 10 + 10
    assert parameters(model) < 1_000_000
    assert model.blocks[0](torch.zeros(1, 32, 28, 28)).shape == (1, 32, 28, 28)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_colours_are_normalised_each_by_its_own_mean() -> None:
    images = torch.randint(0, 256, (50, 3, 4, 4), dtype=torch.uint8)
    mean, std = images.double().mean((0, 2, 3)), images.double().std((0, 2, 3), correction=0)
    normalised = Normalisation(mean.tolist(), std.tolist())(images)
    assert normalised.dtype == torch.float32
    assert normalised.mean((0, 2, 3)) == pytest.approx(torch.zeros(3), abs=1e-6)
    assert normalised.std((0, 2, 3), correction=0) == pytest.approx(torch.ones(3), abs=1e-6)


@pytest.mark.parametrize("arch", ["plain_cnn", "resnet"])
def test_pixels_as_bytes_and_as_numbers_are_the_same_image(arch: str) -> None:
    model = ImageClassifier(config(arch), MEAN, STD).eval()
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(model(images), model(images.float()))
        assert not torch.allclose(model(images), model(images / 255))


def test_a_shortcut_that_halves_sees_what_a_stride_of_two_would() -> None:
    torch.manual_seed(0)
    unit = ResidualUnit(3, 5, stride=2).eval()
    values = torch.randn(2, 3, 7, 9)
    convolution, normalisation = unit.shortcut
    with torch.no_grad():
        strided = normalisation(functional.conv2d(values, convolution.weight, stride=2))
        expected = torch.relu(unit.second(unit.first(values)) + strided)
        torch.testing.assert_close(unit(values), expected)
