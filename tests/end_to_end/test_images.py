"""The image task through the whole DAG, by the commands that a user types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score

from gauntlet.pipelines.home import Home
from gauntlet.tasks.image_classification.tiny import write_files
from tests.drawn_images import SHAPES, dataset, draw
from tests.end_to_end.conftest import System

FILES = {
    "golden.json",
    "model.onnx",
    "monitoring.json",
    "monitoring.npz",
    "parity.json",
    "training_rows.npz",
}
TEST_ROWS_PER_CLASS = 40


def manifest_content(data: Path) -> dict[str, Any]:
    return {
        "name": "shapes",
        "description": "Bars that stand or lie, and squares",
        "task": "image_classification",
        "seed": 1,
        "dataset": dataset(data),
        "training": {
            "filters": [8, 16],
            "units": 32,
            "dropout": 0.1,
            "head_dropout": 0.1,
            "epochs": 3,
            "batch_size": 16,
            "learning_rate": 5e-3,
            "augmentation": {"rotation": 5, "shift": 0.05},
            "early_stopping": {"metric": "accuracy", "patience": 3},
        },
        "conversion": {
            "candidates": ["plain", "fused", "int8", "int8_static"],
            "batch_sizes": [1, 4],
            "pytorch": ["eager"],
            "min_label_agreement": 0.9,
            "max_metric_drop": 0.1,
        },
        "evaluation": {"bootstrap_resamples": 300},
        "gates": {
            "min_macro_f1": 0.5,
            "min_speedup": 0.01,
        },
    }


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    """A system after its first run."""
    folder = tmp_path_factory.mktemp("shapes")
    data = write_files(folder / "data", draw(100, seed=1), draw(TEST_ROWS_PER_CLASS, seed=2))
    manifest = folder / "shapes.yaml"
    manifest.write_text(yaml.safe_dump(manifest_content(data)))
    system = System(manifest, Home(folder / "home"))
    done = system.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return system


def output(system: System, path: str) -> Any:
    return json.loads((system.steps() / path).read_text(encoding="utf-8"))


def test_candidates_that_do_not_suit_the_network_say_why(system: System) -> None:
    rows = {row["name"]: row for row in output(system, "convert-to-onnx/candidates")["candidates"]}
    assert rows["plain"]["admitted"]
    assert rows["plain"]["max_abs_difference"] < 1e-4
    assert rows["int8_static"]["admitted"], rows["int8_static"]["reason"]
    assert "file_row" in rows["plain"]["worst_rows"][0]
    for name in ("fused", "int8"):
        assert "needs a transformer encoder" in rows[name]["reason"]
    assert "tokenizing_ms" not in output(system, "convert-to-onnx/candidates")


def test_the_bundle_takes_raw_pixels_and_needs_no_tokenizer(system: System) -> None:
    info = output(system, "convert-to-onnx/bundle/bundle.json")
    assert info["inputs"] == [{"name": "images", "dtype": "uint8", "shape": ["batch", 1, 16, 16]}]
    assert "max_length" not in info
    assert info["files"].keys() == FILES
    certificate = output(system, "convert-to-onnx/bundle/parity.json")
    rows = output(system, "validate-data/splits/statistics.json")["rows"]
    assert (certificate["rows"], certificate["left_padded_rows"]) == (rows["validation"], 0)
    verified = system.gauntlet("bundle", "verify", str(system.steps() / "convert-to-onnx" / "bundle"))
    assert verified.returncode == 0, verified.stdout
    assert "an image of noise is" in verified.stdout


def test_the_test_split_is_scored_and_predictions_name_rows_without_pixels(system: System) -> None:
    scores = output(system, "evaluate-model/scores")
    predictions = pd.read_parquet(system.steps() / "evaluate-model" / "predictions")
    assert predictions["row"].tolist() == list(range(TEST_ROWS_PER_CLASS * len(SHAPES)))
    assert predictions["label"].tolist() == [SHAPES[label] for label in draw(TEST_ROWS_PER_CLASS, seed=2)[1]]
    assert not {"text", "images"} & set(predictions.columns)
    truth, predicted = predictions["label"], predictions["predicted"]
    assert scores["challenger"]["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert scores["challenger"]["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert scores["challenger"]["accuracy"] > 0.8


def test_image_files_of_any_size_are_scored_by_the_champion(system: System, tmp_path: Path) -> None:
    images, labels = draw(1, seed=9)
    files = []
    for image, label in zip(images, labels, strict=True):
        large = Image.fromarray(np.kron(image, np.ones((4, 4), dtype=np.uint8)))
        files.append(tmp_path / f"{SHAPES[label]}.png")
        large.convert("RGB").save(files[-1])
    predicted = system.gauntlet("predict", *map(str, files))
    assert predicted.returncode == 0, predicted.stderr
    for line, label in zip(predicted.stdout.splitlines()[1:], labels, strict=False):
        assert line.split()[1] == SHAPES[label]


def test_what_is_no_image_is_one_message(system: System, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    refused = system.gauntlet("predict", str(tmp_path / "notes.png"))
    assert refused.returncode == 2
    assert "notes.png: found no image" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_report_shows_the_run(system: System) -> None:
    page = Path(system.gauntlet("report").stdout.strip()).read_text(encoding="utf-8")
    assert "gauntlet predict --model shapes IMAGE.png" in page
    assert "unreadable" not in page
