"""How long an image classifier trains to an accuracy on the test file, beside a loop as a user writes it.

    python benchmarks/time_to_accuracy.py manifests/fashion_mnist.yaml --set dataset.uri=DATA/fashion-mnist \\
        --target 0.94 --runs 3

Both train the manifest's network with its optimizer and its schedule on the same rows, and both score the
test file after every epoch, which says when the accuracy is reached and chooses nothing. The plain loop is
the usual one: a Dataset that flips an image and makes it a tensor, a DataLoader with workers, fp32, a batch
moved to the device when its turn comes. It moves no image but by flipping it, which is less work than the
manifest may ask for: for a comparison of like with like set `training.augmentation={horizontal_flip: true}`.

Seconds run from the first batch to the end of the scoring that reached the target; reading the files and
building the network on the device are before them. They take turns, since no machine is as fast at all times.
With `--target 1` every epoch is trained, and the last accuracy in `--json FILE` is that of the recipe.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gauntlet.trainer.process import settle_process

settle_process()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from gauntlet.components.validate_data.run import run as validate_data  # noqa: E402
from gauntlet.manifests.loading import load_manifest  # noqa: E402
from gauntlet.tasks.image_classification.manifest import ImageTraining  # noqa: E402
from gauntlet.tasks.image_classification.training import load_task  # noqa: E402
from gauntlet.trainer.device import choose_device, make_deterministic  # noqa: E402
from gauntlet.trainer.loop import fit  # noqa: E402
from gauntlet.trainer.ranks import World  # noqa: E402
from gauntlet.trainer.replica import Replica  # noqa: E402
from gauntlet.trainer.run import trained_parameters  # noqa: E402
from gauntlet.trainer.schedule import learning_rate  # noqa: E402
from gauntlet.trainer.splits import ImageSplit, read_images  # noqa: E402

WORKERS = 2


@dataclass
class Training:
    """How a training went.

    Attributes:
        seconds: To the target; infinite when it was not reached.
        accuracies: On the test file, after each epoch.
        parameters: Of the network.
    """

    parameters: int
    seconds: float = math.inf
    accuracies: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """As `--json` holds it; seconds are null when the target was not reached."""
        return {
            "parameters": self.parameters,
            "seconds": self.seconds if math.isfinite(self.seconds) else None,
            "accuracies": self.accuracies,
        }


Contestant = Callable[[ImageTraining, Path, int, float], Training]


class Reached(Exception):
    """The target is reached."""


class Stopwatch:
    """A tracker that keeps each epoch's accuracy and ends the training when one reaches the target."""

    def __init__(self, training: Training, target: float) -> None:
        self._training, self._target = training, target

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Look at an epoch's."""
        if (accuracy := metrics.get("validation_accuracy")) is None:
            return
        self._training.accuracies.append(accuracy)
        if accuracy >= self._target:
            raise Reached(f"after epoch {step}")


def gauntlet(section: ImageTraining, splits: Path, seed: int, target: float) -> Training:
    """This project's loop."""
    device = choose_device(section.compute_target, World())
    make_deterministic(seed)
    task = load_task(section, splits)
    model = task.build_model()
    training = Training(trained_parameters(model))
    replica = Replica(task, model, section, device, World())
    began = time.perf_counter()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            fit(replica, section, seed, lambda *_: None, Stopwatch(training, target))
    except Reached:
        training.seconds = time.perf_counter() - began
    return training


class Flipped(Dataset):  # type: ignore[type-arg]
    """Images as tensors, half of them flipped."""

    def __init__(self, split: ImageSplit) -> None:
        self.images, self.labels = split.images, split.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(self.images[row]).float()
        return (image.flip(2) if torch.rand(()) < 0.5 else image), int(self.labels[row])


def plain(section: ImageTraining, splits: Path, seed: int, target: float) -> Training:
    """The plain loop."""
    device = choose_device(section.compute_target, World())
    torch.use_deterministic_algorithms(False)
    torch.manual_seed(seed)
    train, test = read_images(splits, "train"), read_images(splits, "validation")
    model: nn.Module = load_task(section, splits).build_model()
    model.to(device, memory_format=torch.contiguous_format)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=section.weight_decay)
    loader = DataLoader(
        Flipped(train),
        section.batch_size,
        shuffle=True,
        num_workers=WORKERS,
        pin_memory=device.type == "cuda",
    )
    total, step = section.epochs * len(loader), 0
    training = Training(trained_parameters(model))
    scores = training.accuracies
    began = time.perf_counter()
    for _ in range(section.epochs):
        model.train()
        for images, labels in loader:
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(section, section.phases[0], step, total, scores)
            optimizer.zero_grad()
            loss = functional.cross_entropy(
                model(images.to(device)), labels.to(device), label_smoothing=section.label_smoothing
            )
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), section.max_grad_norm)
            optimizer.step()
        scores.append(accuracy(model, test, device))
        if scores[-1] >= target:
            training.seconds = time.perf_counter() - began
            break
    return training


@torch.no_grad()
def accuracy(model: nn.Module, split: ImageSplit, device: torch.device) -> float:
    model.eval()
    right = 0
    for start in range(0, len(split.labels), 512):
        images = torch.from_numpy(split.images[start : start + 512]).to(device)
        labels = torch.from_numpy(split.labels[start : start + 512]).to(device)
        right += int((model(images).argmax(dim=1) == labels).sum())
    return right / len(split.labels)


CONTESTANTS: dict[str, Contestant] = {"gauntlet": gauntlet, "plain loop": plain}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest")
    parser.add_argument("--target", type=float, default=0.94)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--only", choices=CONTESTANTS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here as they come")
    options = parser.parse_args()
    manifest = load_manifest(options.manifest, options.overrides)
    names = [options.only] if options.only else list(CONTESTANTS)
    found: dict[str, list[Training]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        splits = Path(scratch) / "splits"
        validate_data(
            manifest.task, manifest.dataset, splits, Path(scratch) / "checks", Path(scratch) / "page"
        )
        (splits / "test.npz").replace(splits / "validation.npz")
        for seed in range(options.runs):
            for name in names:
                found[name].append(CONTESTANTS[name](manifest.training, splits, seed, options.target))
                print(f"{name:<10}  seed {seed}  {described(found[name][-1])}", flush=True)
                if options.json:
                    document = {name: [run.as_json() for run in runs] for name, runs in found.items()}
                    options.json.write_text(json.dumps(document, indent=2), encoding="utf-8")
    medians = {name: statistics.median(run.seconds for run in runs) for name, runs in found.items()}
    print(f"median to {options.target:g}: " + ", ".join(f"{name} {s:.1f} s" for name, s in medians.items()))
    if len(medians) > 1:
        print(f"gauntlet is {medians['plain loop'] / medians['gauntlet']:.2f} times as fast")


def described(training: Training) -> str:
    last = f"{training.accuracies[-1]:.4f} after {len(training.accuracies)} epochs"
    return f"{training.seconds:.1f} s, {last}, {training.parameters:,} parameters"


if __name__ == "__main__":
    main()
