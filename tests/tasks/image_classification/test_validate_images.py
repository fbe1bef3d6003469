from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gauntlet.components.validate_data.component import validate_data
from gauntlet.components.validate_data.run import run
from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.manifests.schema import as_parameter
from gauntlet.tasks.image_classification.manifest import ImageDataset
from gauntlet.tasks.image_classification.tiny import Drawn, idx, write_files
from tests.drawn_images import FILES, SHAPES, SIDE, dataset, draw

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Step:
    """validate-data on files that a test has altered."""

    files: Path
    outputs: Path

    def run(self, **settings: Any) -> None:
        section = ImageDataset.model_validate(dataset(self.files, **settings))
        run(
            "image_classification",
            section,
            self.outputs / "splits",
            self.outputs / "checks",
            self.outputs / "report",
        )

    def fails(self, **settings: Any) -> str:
        with pytest.raises(DataError) as raised:
            self.run(**settings)
        assert not (self.outputs / "splits").exists()
        return str(raised.value)

    def check(self, name: str) -> dict[str, Any]:
        checks = json.loads((self.outputs / "checks").read_text())["checks"]
        return next(check for check in checks if check["check"] == name)

    def split(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.outputs / "splits" / f"{name}.npz") as arrays:
            return dict(arrays)

    @property
    def statistics(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.outputs / "splits" / "statistics.json").read_text())
        return content

    @property
    def report(self) -> str:
        return (self.outputs / "report").read_text()


@pytest.fixture
def step(tmp_path: Path) -> Step:
    files = write_files(tmp_path / "files", draw(40, seed=1), draw(20, seed=2))
    return Step(files, tmp_path / "outputs")


def test_the_training_file_is_split_with_classes_in_proportion_and_the_test_file_stays(step: Step) -> None:
    step.run()
    (train_images, train_labels), (test_images, test_labels) = draw(40, seed=1), draw(20, seed=2)
    train, validation, test = (step.split(split) for split in SPLITS)
    assert np.bincount(test["label"]).tolist() == [20] * 3
    held_out = np.bincount(validation["label"])
    assert (held_out >= 10).all()  # the fewest of a class; a quarter of 40 on average
    assert (np.bincount(train["label"]) + held_out).tolist() == [40] * 3
    assert sorted([*train["row"], *validation["row"]]) == list(range(120))
    for part in (train, validation):
        assert np.array_equal(part["images"], train_images[part["row"]])
        assert np.array_equal(part["label"], train_labels[part["row"]])
    assert np.array_equal(test["images"], test_images)
    assert np.array_equal(test["label"], test_labels)
    assert train["images"].dtype == np.uint8


def test_another_run_leaves_every_image_in_its_split(step: Step) -> None:
    hashes = []
    for _ in range(2):
        step.run()
        hashes.append(step.statistics["sha256"])
    assert hashes[0] == hashes[1]


def test_files_that_are_not_packed_are_the_same_data(step: Step) -> None:
    step.run()
    packed = step.statistics
    names = {role: name.removesuffix(".gz") for role, name in FILES.items()}
    for role, name in names.items():
        (step.files / name).write_bytes(gzip.decompress((step.files / FILES[role]).read_bytes()))
    step.run(files=names)
    assert step.statistics == packed


def test_statistics_are_those_that_numpy_finds(step: Step) -> None:
    step.run()
    images = step.split("train")["images"]
    pixels = step.statistics["pixels"]["train"]
    assert pixels["mean"] == pytest.approx([images.mean()])
    assert pixels["std"] == pytest.approx([images.std()])
    expected, _ = np.histogram(images.mean(axis=(1, 2)), bins=[*range(0, 256, 16), 256])
    assert pixels["brightness"] == expected.tolist()
    assert step.statistics["class_counts"]["test"] == dict.fromkeys(SHAPES, 20)
    assert (step.statistics["shape"], step.statistics["channels"]) == ([SIDE, SIDE], 1)


def test_colours_keep_their_channels(tmp_path: Path) -> None:
    def coloured(rows: int, seed: int) -> Drawn:
        images, labels = draw(rows, seed)
        return np.stack([images, images // 2, 255 - images], axis=3), labels

    step = Step(write_files(tmp_path / "files", coloured(40, 1), coloured(20, 2)), tmp_path / "outputs")
    step.run(channels=3)
    images = step.split("train")["images"]
    assert images.shape == (90, SIDE, SIDE, 3)
    assert step.statistics["pixels"]["train"]["std"] == pytest.approx(images.std(axis=(0, 1, 2)).tolist())


def test_the_report_shows_rows_of_each_class(step: Step) -> None:
    step.run()
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" width="(\d+)"', step.report)
    assert len(pictures) == len(SHAPES)
    train = step.split("train")
    for label, (content, width) in enumerate(pictures):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        assert shown.shape == (SIDE, int(width))
        assert np.array_equal(shown[:, :SIDE], train["images"][train["label"] == label][0])


ZEROS = np.zeros(200, np.uint8)
IMAGES = draw(20, seed=2)[0]


def packed(role: str, data: bytes) -> Callable[[Path], None]:
    return raw(role, lambda _: gzip.compress(data))


def raw(role: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def alter(files: Path) -> None:
        path = files / FILES[role]
        path.write_bytes(change(path.read_bytes()))

    return alter


@pytest.mark.parametrize(
    ("alter", "file", "words"),
    [
        (raw("train_images", lambda data: data[:-20]), "train_images", "not a whole gzip file"),
        (raw("test_labels", lambda data: data[:30] + b"\xff" + data[31:]), "test_labels", "not a whole gzip"),
        (raw("test_images", lambda _: b"<html>Not found</html>"), "test_images", "not a whole gzip file"),
        (packed("train_images", b"PK\x03\x04"), "train_images", "found 50 4b 03 04 at its start"),
        (packed("train_labels", idx(ZEROS[:119])), "train_labels", "found 119 labels, expected 120, one for"),
        (
            packed("test_images", idx(IMAGES[:, :8])),
            "test_images",
            "found images of 8 × 16, expected 16",
        ),
        (packed("test_images", idx(IMAGES[:0])), "test_labels", "found 60 labels, expected 0"),
        (packed("test_images", idx(IMAGES)[:-5]), "test_images", "expected 15,360 (60 × 16 × 16)"),
    ],
    ids=["truncated", "corrupt", "a page", "no idx", "label count", "size", "no images", "short"],
)
def test_files_that_cannot_be_read_are_refused_with_one_message(
    step: Step, alter: Callable[[Path], None], file: str, words: str
) -> None:
    alter(step.files)
    message = step.fails()
    assert message.startswith(f"{FILES[file]}: ")
    assert words in message
    assert "\n" not in message


def test_the_faults_of_all_files_are_reported_together(step: Step) -> None:
    raw("train_images", lambda data: data[:-20])(step.files)
    hashes = {role: hashlib.sha256(gzip.decompress((step.files / FILES[role]).read_bytes())).hexdigest()
              for role in FILES if role != "train_images"}  # fmt: skip
    message = step.fails(sha256={**hashes, "train_images": "0" * 64, "test_labels": "1" * 64})
    found = hashes["test_labels"]
    assert message.splitlines()[0].startswith("train-images-idx3-ubyte.gz: not a whole gzip file")
    assert f"t10k-labels-idx1-ubyte.gz: found sha256 {found} when unpacked, expected {'1' * 64}" in message
    assert len(message.splitlines()) == 2


def test_a_file_that_is_not_there_is_named(step: Step) -> None:
    (step.files / FILES["test_labels"]).unlink()
    with pytest.raises(UsageError, match=r"t10k-labels-idx1-ubyte.gz: no such file"):
        step.run()


@pytest.fixture
def faulty(tmp_path: Path) -> Step:
    """Row 0 of the training file is also row 3 of it and, with another label, row 4; row 5 is of one colour,
    row 6 of no class, and row 7 is row 1 of the test file, of which row 2 is there twice as row 5."""
    (images, labels), (test_images, test_labels) = draw(40, seed=1), draw(20, seed=2)
    images[3], images[4], images[5] = images[0], images[0], 9
    labels[6] = 3
    images[7] = test_images[1]
    test_images[5] = test_images[2]
    files = write_files(tmp_path / "files", (images, labels), (test_images, test_labels))
    return Step(files, tmp_path / "outputs")


def test_every_check_says_which_rows_it_found(faulty: Step) -> None:
    message = faulty.fails(checks={"rows_per_class": {"min_rows": 1}})
    assert "failed 5 of 7 checks" in message
    image = "train-images-idx3-ubyte.gz image"
    found = {
        "unknown_labels": f"{image} 6: label 3, and the last of dataset.labels is 2",
        "empty_images": f"{image} 5: every pixel is 9",
        "conflicting_labels": f"the image: upright ({image} 0), upright ({image} 3), level ({image} 4)",
        "exact_duplicates": f"the image: {image} 0, {image} 3, {image} 4",
        "leakage": f"{image} 7 (train) the image = t10k-images-idx3-ubyte.gz image 1 (test)",
    }
    for check, example in found.items():
        assert faulty.check(check)["verdict"] == "fail"
        assert example in faulty.check(check)["examples"]
    assert faulty.check("conflicting_labels")["rows_affected"] == 3
    assert (
        "the image: t10k-images-idx3-ubyte.gz image 2, t10k-images-idx3-ubyte.gz image 5"
        in (faulty.check("exact_duplicates")["examples"])
    )


def test_rows_can_be_dropped_but_never_from_the_test_file(faulty: Step) -> None:
    drop = {"severity": "drop", "max_fraction": 0.1}
    names = ("unknown_labels", "empty_images", "conflicting_labels", "exact_duplicates", "leakage")
    faulty.run(checks=dict.fromkeys(names, drop) | {"rows_per_class": {"min_rows": 1}})
    kept = [*faulty.split("train")["row"], *faulty.split("validation")["row"]]
    assert sorted(kept) == [row for row in range(120) if row not in (0, 3, 4, 5, 6, 7)]
    assert faulty.split("test")["row"].tolist() == list(range(60))
    assert faulty.check("exact_duplicates")["rows_affected"] == 1
    assert faulty.check("exact_duplicates")["rows_dropped"] == 0


def test_a_class_that_another_one_drowns_stops_the_run(tmp_path: Path) -> None:
    images, labels = draw(40, seed=1)
    few = (labels != 2) | (np.cumsum(labels == 2) <= 20)
    step = Step(
        write_files(tmp_path / "files", (images[few], labels[few]), draw(20, 2)), tmp_path / "outputs"
    )
    message = step.fails(checks={"class_balance": {"max_ratio": 1.5}, "rows_per_class": {"min_rows": 1}})
    assert re.search(r"class_balance: found \d\.\d times \(\w+ \d\d, block \d\d\)", message)


def test_the_component_runs_on_the_section_as_kfp_hands_it_on(step: Step) -> None:
    section = ImageDataset.model_validate(dataset(step.files))
    floats = json.loads(json.dumps(as_parameter(section)), parse_int=float)

    class Output:
        def __init__(self, path: Path) -> None:
            self.path = self.uri = str(path)

    outputs = {name: Output(step.outputs / name) for name in ("splits", "checks", "report", "rejected")}
    given = {
        "dataset": floats,
        "task": "image_classification",
        "data_fingerprint": "f" * 64,
        "splits_folder": "",
    }
    validate_data.python_func(**given, **outputs)
    rows = step.statistics["rows"]
    assert (rows["train"] + rows["validation"], rows["test"]) == (120, 60)
