"""Whether Fashion-MNIST as a folder of PNG files for each class gives the model that its idx files give.

    python benchmarks/image_folders.py DATA/fashion-mnist
    python benchmarks/image_folders.py DATA/fashion-mnist --quick

DATA/fashion-mnist has the four idx files. The images are written as train/CLASS/N.png and test/CLASS/N.png.
`gauntlet run` takes both forms from data to a promoted model, with the same settings and no labels in the
manifest of the folder. Aims, each of which is printed with what was found; exit code 1 if one is missed:

1. The pixels of the test split are the same, image by image.
2. Accuracy on the test split differs by no more than the 95 % interval of the difference of two models
   that are independent of each other, sqrt(2) times the half-width of one model's interval: validation is
   carved by groups of near-duplicates, so the two are trained on slightly different rows.
3. Both models are promoted, and `gauntlet predict` gives 50 test images that are saved at another size the
   probabilities that the model gives to the pixels that validate-data reads from the same files.
4. An image is read, decoded, hashed and compared in less than 5 ms of CPU time.

`--quick` takes 6,000 images of the training file and 2,000 of the test file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

LABELS = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
PREDICTED = 50
ROUNDING = 1e-6
MOST_CPU_MS = 5.0
FILES = {"train": "train", "test": "t10k"}
ROWS = {"train": (24_000, 6_000), "test": (10_000, 2_000)}
"""Of the whole benchmark, and with `--quick`."""

SETTINGS: dict[str, Any] = {
    "training": {
        "filters": [16, 32],
        "units": 128,
        "head_dropout": 0.3,
        "epochs": 4,
        "learning_rate": 2e-3,
        "schedule": "one_cycle",
    },
    "conversion": {"candidates": ["plain"], "pytorch": ["eager"], "batch_sizes": [1, 32]},
    "gates": {"min_macro_f1": 0.6, "min_speedup": 0.01, "max_class_f1_drop": 0.5},
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gauntlet-folders-") as scratch:
        folder = Path(scratch)
        rows = {split: sizes[options.quick] for split, sizes in ROWS.items()}
        arrays = {split: read(options.data, FILES[split], rows[split]) for split in FILES}
        write_idx(folder / "idx", arrays)
        write_folders(folder / "folders", arrays)
        common = {"name": "fashion", "version": "1", "shape": [28, 28], "channels": 1}
        # Fashion-MNIST has near-duplicates across its files; only images in folders are compared for them.
        checks = {"leakage": {"severity": "warn"}}
        found = {
            "idx": run(folder, "idx", {**common, "labels": list(LABELS), "checks": checks}),
            "folders": run(folder, "folders", {**common, "checks": checks}),
        }
        return judge(folder, found, arrays["test"], sum(rows.values()))


def read(folder: Path, name: str, rows: int) -> tuple[Any, Any]:
    """Images (N, 28, 28) and labels (N,) of the first rows."""
    images = gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{name}-labels-idx1-ubyte.gz").read_bytes())
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)[:rows],
        np.frombuffer(labels, np.uint8, offset=8)[:rows],
    )


def write_idx(folder: Path, arrays: dict[str, tuple[Any, Any]]) -> None:
    from gauntlet.tasks.image_classification.tiny import write_files

    write_files(folder, arrays["train"], arrays["test"])


def write_folders(folder: Path, arrays: dict[str, tuple[Any, Any]]) -> None:
    for split, (images, labels) in arrays.items():
        for label in LABELS:
            (folder / split / label).mkdir(parents=True)
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            Image.fromarray(image).save(folder / split / LABELS[label] / f"{row}.png")


def run(folder: Path, form: str, dataset: dict[str, Any]) -> dict[str, Any]:
    """The run's scores and folders, and the seconds of CPU time of validate-data alone."""
    content = {
        "name": f"fashion_{form}",
        "description": "Fashion-MNIST",
        "task": "image_classification",
        "seed": 1,
        "dataset": {"uri": str(folder / form), **dataset},
        **SETTINGS,
    }
    manifest = folder / f"{form}.yaml"
    manifest.write_text(yaml.safe_dump(content))
    began = time.monotonic()
    validated = gauntlet(folder, "validate", str(manifest))
    ran = gauntlet(folder, "run", str(manifest))
    seconds = time.monotonic() - began
    print(f"{form}: {seconds:.0f} s, exit code {ran.returncode}", flush=True)
    if ran.returncode:
        print(ran.stdout[-3000:], ran.stderr[-3000:], file=sys.stderr)
    (of_run,) = (folder / "home" / "runs").glob(f"fashion_{form}-*")
    return {"folder": of_run, "code": ran.returncode, "cpu": validated.cpu}


class Done(subprocess.CompletedProcess[str]):
    """A command that ended, and its seconds of CPU time."""

    cpu: float


def gauntlet(folder: Path, *arguments: str) -> Done:
    before = os.times()
    environment = {**os.environ, "GAUNTLET_HOME": str(folder / "home")}
    program = "import sys; from gauntlet.pipelines.cli import main; sys.exit(main())"
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    after = os.times()
    done = Done(ended.args, ended.returncode, ended.stdout, ended.stderr)
    done.cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return done


def judge(folder: Path, found: dict[str, Any], test: tuple[Any, Any], images: int) -> int:
    scores = {form: json.loads(output(one, "scores").read_text()) for form, one in found.items()}
    value = {form: of_form["challenger"]["accuracy"] for form, of_form in scores.items()}
    low, high = scores["idx"]["challenger"]["intervals"]["accuracy"]
    half = (high - low) / 2
    difference = value["folders"] - value["idx"]
    same = same_pixels(found)
    same_served = same_answers(folder, output(found["folders"], "bundle.json").parent, test[0])
    cpu = 1000 * (found["folders"]["cpu"]) / images
    promoted = all(one["code"] == 0 for one in found.values())
    aims = (
        (f"test images with the same pixels: {same:.4f}", same == 1),
        (f"accuracy {value['idx']:.4f} ± {half:.4f} from idx, {value['folders']:.4f} from folders",
         abs(difference) <= math.sqrt(2) * half),
        (f"both promoted, and predict answers as the bundle for {same_served:.0%} of resized images",
         promoted and same_served == 1),
        (f"validate: {cpu:.2f} ms of CPU time an image", cpu < MOST_CPU_MS),
    )  # fmt: skip
    for words, is_met in aims:
        print(f"{'met   ' if is_met else 'MISSED'}  {words}", flush=True)
    on = f"on {len(test[0]):,} test images"
    print(f"image_folders: accuracy from folders less that from idx {difference:+.4f} {on}")
    return 0 if all(is_met for _, is_met in aims) else 1


def output(one: dict[str, Any], name: str) -> Path:
    return next(path for path in one["folder"].rglob(name) if path.is_file())


def same_pixels(found: dict[str, Any]) -> float:
    """The share of test images from idx that the other test split has too, with the same label."""
    rows = {}
    for form, one in found.items():
        splits = next(path for path in one["folder"].rglob("test.npz"))
        names = json.loads((splits.parent / "statistics.json").read_text())["labels"]
        with np.load(splits) as arrays:
            rows[form] = sorted(
                (image.tobytes(), names[label])
                for image, label in zip(arrays["images"], arrays["label"], strict=True)
            )
    same = sum(one == other for one, other in zip(rows["idx"], rows["folders"], strict=False))
    return same / max(len(rows["idx"]), len(rows["folders"]))


def same_answers(folder: Path, bundle: Path, images: Any) -> float:
    """The share of images at 70 × 70 pixels, in colour, for which predict and the bundle agree."""
    from gauntlet.tasks.images.reading import ImageSource, read_images
    from gauntlet.tasks.images.serving import open_model

    (folder / "large" / "any").mkdir(parents=True)
    for row, image in enumerate(images[:PREDICTED]):
        large = Image.fromarray(image).convert("RGB").resize((70, 70), Image.Resampling.BICUBIC)
        large.save(folder / "large" / "any" / f"{row:02d}.png")
    table = read_images(ImageSource(uri=str(folder / "large"), shape=(28, 28), channels=1))
    expected = open_model(bundle).probabilities(table.pixels[:, None])
    paths = [str(folder / "large" / place) for place in table.rows["place"]]
    done = gauntlet(folder, "predict", "--model", "fashion_folders", "--json", *paths)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(answers) != len(paths):
        print(done.stdout[-1000:], done.stderr[-1000:], file=sys.stderr)
        return 0.0
    found = np.array([list(answer["probabilities"].values()) for answer in answers])
    return float((np.abs(found - expected).max(axis=1) <= ROUNDING).mean())


if __name__ == "__main__":
    sys.exit(main())
