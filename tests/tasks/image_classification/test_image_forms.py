from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gauntlet.components.fingerprint_data.run import run as fingerprint
from gauntlet.components.validate_data.run import run
from gauntlet.manifests.errors import DataError, GauntletError, UsageError
from gauntlet.tasks.image_classification.manifest import ImageDataset
from tests.drawn_images import SHAPES, SIDE, draw, write_pictures

TASK = "image_classification"


def section(uri: Path, **settings: Any) -> ImageDataset:
    content = {"name": "drawn", "version": "1", "uri": str(uri), "shape": [SIDE, SIDE], "channels": 1}
    return ImageDataset.model_validate(content | settings)


def validate(folder: Path, outputs: Path, **settings: Any) -> dict[str, Any]:
    """The statistics of the splits."""
    run(TASK, section(folder, **settings), outputs / "splits", outputs / "checks", outputs / "report")
    content: dict[str, Any] = json.loads((outputs / "splits" / "statistics.json").read_text())
    return content


def check(outputs: Path, name: str) -> dict[str, Any]:
    checks = json.loads((outputs / "checks").read_text())["checks"]
    return next(check for check in checks if check["check"] == name)


def split(outputs: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(outputs / "splits" / f"{name}.npz") as arrays:
        return dict(arrays)


def refused(folder: Path, outputs: Path, error: type[GauntletError] = DataError, **settings: Any) -> str:
    with pytest.raises(error) as raised:
        validate(folder, outputs, **settings)
    assert not (outputs / "splits").exists()
    return str(raised.value)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "shapes", draw(60, seed=1))


def test_classes_are_the_names_of_the_folders_and_three_splits_are_made(drawn: Path, tmp_path: Path) -> None:
    statistics = validate(drawn, tmp_path / "out")
    assert statistics["labels"] == sorted(SHAPES)
    assert (statistics["labels_from"], statistics["resize"]) == ("folders", "stretch")
    assert statistics["sizes"] == [[SIDE, SIDE], [SIDE, SIDE]]
    images, labels = draw(60, seed=1)
    expected = {image.tobytes(): SHAPES[label] for image, label in zip(images, labels, strict=True)}
    found: dict[bytes, str] = {}
    for name in ("train", "validation", "test"):
        rows = split(tmp_path / "out", name)
        assert (np.bincount(rows["label"], minlength=3) >= 10).all()
        names = [statistics["labels"][label] for label in rows["label"]]
        found |= {image.tobytes(): name for image, name in zip(rows["images"], names, strict=True)}
    assert found == expected
    assert "The labels are the names of the folders" in (tmp_path / "out" / "report").read_text()


def test_a_split_stays_as_it_is_when_images_are_added(drawn: Path, tmp_path: Path) -> None:
    validate(drawn, tmp_path / "first")
    before = {image.tobytes() for image in split(tmp_path / "first", "train")["images"]}
    write_pictures(drawn, draw(20, seed=9), start=1000)
    validate(drawn, tmp_path / "second")
    tested = {image.tobytes() for image in split(tmp_path / "second", "test")["images"]}
    assert not before & tested


def test_the_order_of_given_labels_is_kept_and_one_that_differs_in_case_is_named_with_the_nearest(
    tmp_path: Path,
) -> None:
    drawn = write_pictures(tmp_path / "others", draw(60, seed=1), ("upright", "level", "Block"))
    statistics = validate(drawn, tmp_path / "out", labels=["level", "upright", "Block"])
    assert (statistics["labels"], statistics["labels_from"]) == (["level", "upright", "Block"], "manifest")
    message = refused(drawn, tmp_path / "other", labels=list(SHAPES))
    assert "unknown_labels: found 60 rows (33.3 %)" in message
    examples = check(tmp_path / "other", "unknown_labels")["examples"]
    assert examples[0] == "label “Block”: 60 rows, nearest: block"


def test_folders_that_differ_only_in_case_are_refused(drawn: Path, tmp_path: Path) -> None:
    write_pictures(drawn, draw(2, seed=5), names=("Upright", "level", "block"), start=500)
    message = refused(drawn, tmp_path / "out")
    assert "labels differ only in case: Upright (2 images) and upright (60 images)" in message


def test_one_class_is_no_classification(drawn: Path, tmp_path: Path) -> None:
    rows = [{"image": f"upright/{number}.png", "label": "upright"} for number in range(60)]
    pd.DataFrame(rows).to_csv(drawn / "data.csv", index=False)
    assert "classes: found upright alone, expected at least 2" in refused(drawn, tmp_path / "out")


def test_a_column_of_something_else_than_labels_is_refused(drawn: Path, tmp_path: Path) -> None:
    place = next(drawn.rglob("*.png")).relative_to(drawn)
    pd.DataFrame({"image": [str(place)] * 1200, "id": range(1200)}).to_csv(drawn / "data.csv", index=False)
    message = refused(drawn / "data.csv", tmp_path / "out")
    assert "found 1,200 classes" in message
    assert "Set dataset.columns.label" in message


def test_images_of_every_size_and_mode_are_brought_to_one_shape(drawn: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    for number, mode in enumerate(["L", "RGB", "RGBA", "P", "CMYK", "I;16", "1", "LA"]):
        size = tuple(int(side) for side in generator.integers(9, 60, 2))
        shape = (*size[::-1], 3)
        noise = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
        deep = Image.fromarray(generator.integers(0, 2**16, shape[:2], dtype=np.uint16))
        made = (
            deep
            if mode == "I;16"
            else noise.convert("L").convert("LA")
            if mode == "LA"
            else noise.convert(mode)
        )
        made.save(drawn / "block" / f"x{number}.{'tif' if mode == 'CMYK' else 'png'}")
    statistics = validate(drawn, tmp_path / "out", channels=3, resize="crop")
    assert sum(statistics["rows"].values()) == 3 * 60 + 8
    assert split(tmp_path / "out", "train")["images"].shape[1:] == (SIDE, SIDE, 3)
    assert (statistics["resize"], statistics["channels"]) == ("crop", 3)


def test_images_are_in_colour_unless_the_manifest_says_otherwise(drawn: Path, tmp_path: Path) -> None:
    assert validate(drawn, tmp_path / "out", channels=None)["channels"] == 3


def test_damaged_images_stop_the_run_and_are_named_and_can_be_dropped(drawn: Path, tmp_path: Path) -> None:
    (drawn / "block" / "zero.png").write_bytes(b"")
    (drawn / "block" / "cut.png").write_bytes((drawn / "block" / "0.png").read_bytes()[:60])
    message = refused(drawn, tmp_path / "out")
    assert "unreadable_images: found 2 rows (1.1 %)" in message
    examples = check(tmp_path / "out", "unreadable_images")["examples"]
    assert "block/zero.png: found an empty file, expected an image." in examples
    dropped = validate(
        drawn, tmp_path / "dropped", checks={"unreadable_images": {"severity": "drop", "max_fraction": 0.02}}
    )
    assert sum(dropped["rows"].values()) == 180


def saved_again(path: Path, other: Path, side: int) -> None:
    """The image in another size and as a JPEG."""
    Image.open(path).resize((side, side), Image.Resampling.BICUBIC).save(other, quality=90)


def test_near_duplicates_in_given_splits_are_leaks_and_in_others_stay_together(
    drawn: Path, tmp_path: Path
) -> None:
    for number in range(4):
        saved_again(drawn / "block" / f"{number}.png", drawn / "block" / f"again{number}.jpg", 40)
    validate(drawn, tmp_path / "carved")
    assert check(tmp_path / "carved", "near_duplicates")["verdict"] == "warn"
    assert check(tmp_path / "carved", "near_duplicates")["rows_affected"] == 4
    assert check(tmp_path / "carved", "leakage")["rows_affected"] == 0
    given = tmp_path / "given"
    write_pictures(given / "train", draw(60, seed=1))
    write_pictures(given / "test", draw(20, seed=2))
    saved_again(given / "train" / "block" / "0.png", given / "test" / "block" / "again0.jpg", 40)
    message = refused(given, tmp_path / "leaking")
    assert "leakage: found 1 row" in message
    example = check(tmp_path / "leaking", "leakage")["examples"][0]
    assert "train/block/0.png (train)" in example
    assert "test/block/again0.jpg (test)" in example


def test_an_image_under_two_labels_is_a_conflict(drawn: Path, tmp_path: Path) -> None:
    (drawn / "level" / "twin.png").write_bytes((drawn / "block" / "0.png").read_bytes())
    refused(drawn, tmp_path / "out")
    (example,) = check(tmp_path / "out", "conflicting_labels")["examples"]
    assert "block (block/0.png)" in example
    assert "level (level/twin.png)" in example


def test_a_table_that_names_a_file_which_is_not_there_is_told_which_line(drawn: Path, tmp_path: Path) -> None:
    rows = [
        {"image": f"shapes/{path.parent.name}/{path.name}", "label": path.parent.name}
        for path in sorted(drawn.rglob("*.png"))
    ]
    rows[3]["image"] = "shapes/block/nowhere.png"
    pd.DataFrame(rows).to_csv(tmp_path / "train.csv", index=False)
    refused(tmp_path / "train.csv", tmp_path / "out")
    (example,) = check(tmp_path / "out", "unreadable_images")["examples"]
    assert example.startswith("train.csv line 5: ")
    assert "shapes/block/nowhere.png: no such file" in example
    rejected = (tmp_path / "out" / "rejected.csv").read_text()
    assert "train.csv,5,unreadable_images,fail" in rejected


def test_an_image_in_a_folder_is_named_in_the_file_of_rejected_rows(drawn: Path, tmp_path: Path) -> None:
    (drawn / "block" / "my empty.png").write_bytes(b"")
    refused(drawn, tmp_path / "out")
    rejected = (tmp_path / "out" / "rejected.csv").read_text()
    assert "block/my empty.png,,unreadable_images,fail" in rejected


def test_the_fingerprint_of_a_folder_changes_with_any_image(drawn: Path, tmp_path: Path) -> None:
    before = fingerprint(TASK, section(drawn), tmp_path / "a")
    assert fingerprint(TASK, section(drawn), tmp_path / "b") == before
    content = io.BytesIO()
    Image.new("L", (SIDE, SIDE), 3).save(content, format="PNG")
    (drawn / "block" / "7.png").write_bytes(content.getvalue())
    assert fingerprint(TASK, section(drawn), tmp_path / "c") != before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "idx"}, "dataset.labels: found none"),
        ({"format": "idx", "labels": list(SHAPES), "sha256": "0" * 64}, "dataset.sha256: found one hash"),
        (
            {"format": "idx", "labels": list(SHAPES), "checks": {"near_duplicates": {"similarity": 0.8}}},
            "dataset.checks.near_duplicates: found a check",
        ),
    ],
)
def test_keys_that_idx_files_do_not_go_with_are_named(
    drawn: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    assert message in refused(drawn, tmp_path / "out", UsageError, **settings)
