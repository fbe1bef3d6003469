from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from gauntlet.components.convert_to_onnx.export import export_plain, signature_of_images
from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.image_classification.manifest import ImageTraining
from gauntlet.tasks.images.backbones import BackboneClassifier, pretrained_model, stages
from gauntlet.tasks.images.manifest import Backbone
from gauntlet.tasks.images.networks import NetworkConfig
from tests.image_backbones import FEATURES, small

SMALL = "tests.image_backbones:small"
SHAPE = (3, 16, 16)


def sizes(shape: tuple[int, int, int] = SHAPE, units: int = 0) -> NetworkConfig:
    return NetworkConfig("plain_cnn", shape, 4, (8,), 1, units, 0.0, 0.0)


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file of weights, with a head that a backbone has not."""
    torch.manual_seed(5)
    network = small()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_file(weights | {"classifier.weight": torch.ones(2, 2)}, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors", weights


def section(**keys: Any) -> Backbone:
    return Backbone.model_validate({"name": SMALL} | keys)


@pytest.mark.parametrize("channels", [1, 3])
def test_logits_are_those_of_the_published_weights_on_normalised_pixels(
    published: tuple[Path, dict[str, torch.Tensor]], channels: int
) -> None:
    path, weights = published
    mean, std = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)
    model = pretrained_model(section(weights=str(path), mean=mean, std=std), sizes((channels, 16, 16))).eval()
    images = torch.randint(0, 256, (2, channels, 16, 16), dtype=torch.uint8)
    network = small()
    network.load_state_dict(weights)
    network.eval()
    normalised = (images.expand(2, 3, 16, 16) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(
        std
    ).view(3, 1, 1)
    features = functional.adaptive_avg_pool2d(network(normalised), 1).flatten(1)
    assert features.shape == (2, FEATURES)
    torch.testing.assert_close(model(images), model.head(features), rtol=1e-4, atol=1e-4)


def trained_for_a_step(model: BackboneClassifier) -> set[str]:
    """The names in the state that a step changes."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], lr=0.5)
    images = torch.randint(0, 256, (8, *SHAPE), dtype=torch.uint8)
    functional.cross_entropy(model(images), torch.arange(8) % 4).backward()
    optimizer.step()
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize(
    ("freeze", "changed"),
    [
        ("all", {"head"}),
        ("none", {"head", "backbone.stem", "backbone.blocks.0", "backbone.blocks.1"}),
        (1, {"head", "backbone.blocks.0", "backbone.blocks.1"}),
        (2, {"head", "backbone.blocks.1"}),
        (3, {"head"}),
    ],
)
def test_frozen_stages_and_their_batch_normalisation_stay_as_they_are(
    published: tuple[Path, dict[str, torch.Tensor]], freeze: str | int, changed: set[str]
) -> None:
    model = pretrained_model(section(weights=str(published[0]), freeze=freeze), sizes())
    assert [name for name, _ in stages(model.backbone)] == ["stem", "blocks.0", "blocks.1"]
    found = trained_for_a_step(model)
    parts = {"backbone.stem", "backbone.blocks.0", "backbone.blocks.1", "head"}
    assert {part for part in parts if any(name.startswith(f"{part}.") for name in found)} == changed


def test_the_graph_takes_bytes_and_gives_pytorchs_logits(
    published: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    model = pretrained_model(section(weights=str(published[0])), sizes(units=6)).eval()
    export_plain(model, signature_of_images(SHAPE), tmp_path / "model.onnx", opset=17)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    images = np.random.default_rng(1).integers(0, 256, (3, *SHAPE), dtype=np.uint8)
    (logits,) = session.run(None, {"images": images})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(torch.from_numpy(images)), atol=1e-4)


def _lacking(path: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file({name: tensor for name, tensor in weights.items() if not name.startswith("stem")}, path)


def _other_shape(path: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights | {"stem.bias": torch.ones(5)}, path)


def _pickled(path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.save(weights, path)


@pytest.mark.parametrize(
    ("write", "keys", "words"),
    [
        (_lacking, {}, ["small.safetensors: does not fit", "lacks stem.weight, lacks stem.bias", "It has"]),
        (_other_shape, {}, ["has stem.bias of shape (5,) instead of (8,)"]),
        (_pickled, {}, ["found no safetensors", "safetensors.torch.save_file"]),
        (None, {"sha256": "0" * 64}, ["found sha256", f"expected {'0' * 64}"]),
        (None, {"weights": "/nowhere/a.safetensors"}, ["/nowhere/a.safetensors: no such file"]),
        (None, {"freeze": 4}, ["freeze: found 4, expected at most 3", "stem, blocks.0, blocks.1"]),
        (None, {"name": "no_package:f"}, ["there is no module 'no_package'"]),
        (None, {"name": "tests.image_backbones:large"}, ["has no 'large'"]),
    ],
)
def test_weights_and_names_that_do_not_fit_are_one_message(
    published: tuple[Path, dict[str, torch.Tensor]], write: Any, keys: dict[str, Any], words: list[str]
) -> None:
    path, weights = published
    if write is not None:
        write(path, weights)
    with pytest.raises(UsageError) as raised:
        pretrained_model(section(**{"weights": str(path)} | keys), sizes())
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text", "training.backbone.name: .* made a str, expected a torch.nn.Module"),
        ("raises", "training.backbone.name: .* could not be made with no arguments: OSError: no such file"),
        ("wants", "missing a required argument: 'width'. Give it a default: it gets no arguments"),
        ("pairs", "for one image tests.image_backbones:pairs gives"),
        ("fails", "the forward of tests.image_backbones:fails failed for an image of 3 × 16 × 16"),
    ],
)
def test_a_function_that_returns_no_backbone_is_named(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        pretrained_model(section(name=f"tests.image_backbones:{name}", freeze="none"), sizes())


def test_weights_with_their_hash_are_taken(published: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, _ = published
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert pretrained_model(section(weights=str(path), sha256=sha256), sizes()).config.classes == 4


def test_without_timm_its_names_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"a name of timm, but timm is not installed.*gauntlet\[timm\]"):
        pretrained_model(section(name="resnet18", freeze="none"), sizes())


def test_a_network_of_timm_is_made_by_its_name() -> None:
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))  # torchvision of another PyTorch
    model = pretrained_model(section(name="tf_efficientnet_lite0", freeze="none"), sizes((3, 32, 32)))
    assert model.config.mean == tuple(timm.get_pretrained_cfg("tf_efficientnet_lite0").mean)
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    assert len(list(stages(model.backbone))) == 11
    with pytest.raises(UsageError, match=r"which timm .* does not have; it has resnet"):
        pretrained_model(section(name="resnet_none", freeze="none"), sizes())


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"backbone": {"name": SMALL}}, "freeze all keeps random weights"),
        ({"backbone": {"name": SMALL, "weights": "hub"}}, "hub is for networks of timm"),
        ({"backbone": {"name": "a", "freeze": "none", "sha256": "0" * 64}}, "sha256 is of a file of weights"),
        ({"backbone": {"name": "a", "weights": "b"}, "filters": [8]}, "filters: of another network"),
        ({"backbone": {"name": "a", "weights": "b"}, "network": "a:b"}, "network: of another network"),
        ({"backbone": {"name": "a", "weights": "b"}, "distribution": "fsdp2"}, "fsdp2 does not keep frozen"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ImageTraining.model_validate(keys)


def test_a_section_comes_back_from_a_pipelines_parameter_as_it_was() -> None:
    given = {"backbone": {"name": "a", "weights": "b", "freeze": 1.0, "mean": [0.5, 0.5, 0.5]}}
    assert ImageTraining.model_validate(given).backbone == section(
        name="a", weights="b", freeze=1, mean=(0.5, 0.5, 0.5)
    )
