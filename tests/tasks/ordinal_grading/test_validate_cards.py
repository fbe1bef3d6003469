"""Cards from their list to the splits: every fault is a check's or a message's, and none is trained on."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from gauntlet.components.validate_data.run import run
from gauntlet.manifests.errors import DataError, GauntletError, UsageError
from gauntlet.tasks.ordinal_grading.data import CardSplit, read_card_split
from gauntlet.tasks.ordinal_grading.manifest import CardDataset
from tests import drawn_cards
from tests.drawn_cards import dataset, read_splits, write_cards, write_splits
from tests.fakes.bucket import Bucket


@dataclass(frozen=True)
class Step:
    """validate-data on a folder of cards."""

    cards: Path
    folder: Path

    def run(self, uri: str | None = None, **settings: Any) -> None:
        section = CardDataset.model_validate(dataset(uri or self.cards, **settings))
        run(
            "ordinal_grading",
            section,
            self.folder / "splits",
            self.folder / "checks",
            self.folder / "report.html",
        )

    def fails(self, **settings: Any) -> str:
        with pytest.raises(DataError) as caught:
            self.run(**settings)
        assert not (self.folder / "splits").exists()
        return str(caught.value)

    def check(self, name: str) -> dict[str, Any]:
        checks = json.loads((self.folder / "checks").read_text())["checks"]
        return next(check for check in checks if check["check"] == name)

    def split(self, name: Any) -> CardSplit:
        return read_card_split(self.folder / "splits", name)

    def change(self, alter: Callable[[Any], object]) -> None:
        splits = read_splits(self.cards)
        alter(splits)
        write_splits(self.cards, splits)


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(write_cards(tmp_path / "cards"), tmp_path)


def test_each_list_becomes_a_split_with_both_sides_and_what_is_known(step: Step) -> None:
    step.run()
    train = step.split("train")
    assert (train.images.shape, train.images.dtype) == ((60, 2, 3, *drawn_cards.SHAPE), np.uint8)
    assert train.labels.tolist() == [number % 10 for number in range(60)]
    assert (train.certificates[7], train.rows[7]) == ("train-7", 7)
    assert train.centering[7].tolist() == [52, 48, 50, 58]  # grade 8
    assert train.edge_damage[7].tolist() == pytest.approx([0.1, 0.2])
    assert np.isnan(train.centering[6]).all()
    for at, side in enumerate(("front", "back")):
        with Image.open(step.cards / f"train-7-{side}.png") as picture:
            np.testing.assert_array_equal(np.moveaxis(train.images[7, at], 0, 2), np.asarray(picture))
    assert (len(step.split("validation").labels), len(step.split("test").labels)) == (20, 30)


def test_cards_are_read_from_a_bucket_and_a_scan_from_an_address_of_its_own(
    step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    step.run()
    read_here = step.split("test").images
    store, elsewhere = Bucket(), "gs://bucket/scans/first.png"
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "endpoint_url": store.url})
    step.change(lambda splits: splits["test"][0].update(front=elsewhere))
    for file in step.cards.iterdir():
        store.objects[f"gs://bucket/cards/{file.name}"] = file.read_bytes()
    store.objects[elsewhere] = store.objects.pop("gs://bucket/cards/test-0-front.png")
    step.run("gs://bucket/cards", roots=["gs://bucket/scans"])
    np.testing.assert_array_equal(step.split("test").images, read_here)
    del store.objects[elsewhere]
    with pytest.raises(DataError, match="unreadable_images: found 1 row"):
        step.run("gs://bucket/cards", roots=["gs://bucket/scans"])
    (example,) = step.check("unreadable_images")["examples"]
    assert f"{elsewhere}: no such file" in example


def test_what_is_learned_beside_the_grade_is_part_of_the_datas_hash(step: Step) -> None:
    def hashed() -> str:
        step.run()
        return str(json.loads((step.folder / "splits" / "statistics.json").read_text())["sha256"])

    before = hashed()
    assert hashed() == before
    step.change(lambda splits: splits["train"][1].update(edge_damage={"front": 0.11, "back": 0.8}))
    assert hashed() != before


def saved(picture: Image.Image, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    picture.save(content, format=kind)
    return content.getvalue()


def side(step: Step) -> Image.Image:
    return Image.open(step.cards / "train-3-front.png").convert("RGB")


def deep_in_colour(_: Step) -> bytes:
    """A PNG of 16 bits a channel in colour, which pillow itself cannot write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 32, 44, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(32 * 6) for _ in range(44)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda step: saved(side(step).resize((320, 440)), "JPEG")[:3000], "cannot be read"),
        (lambda _: b"no image", "found no image, expected a PNG or JPEG file"),
        (lambda step: saved(side(step).convert("CMYK"), "JPEG"), "found colours in CMYK"),
        (lambda _: saved(Image.new("I;16", (32, 44), 60_000)), "expected 8 bits a channel"),
        (deep_in_colour, "expected 8 bits a channel"),
        (lambda _: saved(Image.new("1", (6000, 8400))), "found 6000 × 8400 pixels, expected at most"),
        (None, "no such file"),
    ],
    ids=["corrupt JPEG", "no image", "CMYK", "16 bits", "16 bits in colour", "50 megapixels", "no file"],
)
def test_a_scan_that_cannot_be_read_stops_the_run_and_is_named(
    step: Step, make: Callable[[Step], bytes] | None, said: str
) -> None:
    file = step.cards / "train-3-front.png"
    if make is None:
        file.unlink()
    else:
        file.write_bytes(make(step))
    assert "unreadable_images: found 1 row (0.909 %)" in step.fails()
    (example,) = step.check("unreadable_images")["examples"]
    assert example.startswith("splits.json train[3]: ")
    assert "train-3-front.png" in example
    assert said in example


def lacks_a_side(splits: Any) -> None:
    del splits["val"][2]["back"]


def of_grade(grade: Any) -> Callable[[Any], None]:
    return lambda splits: splits["train"][4].update(grade=grade)


@pytest.mark.parametrize(
    ("alter", "check", "said"),
    [
        (lacks_a_side, "missing_sides", "splits.json val[2]: back"),
        (of_grade(11), "grade_range", "grade 11, expected a whole number from 1 to 10"),
        (of_grade(0), "grade_range", "grade 0, expected"),
        (of_grade(7.5), "grade_range", "grade 7.5, expected"),
        (of_grade(None), "grade_range", "grade None, expected"),
        (
            lambda splits: splits["test"][1].update(centering={"front": [50, 101], "back": None}),
            "grade_range",
            "splits.json test[1]: centering 101, expected a number from 0 to 100",
        ),
        (
            lambda splits: splits["test"][1].update(edge_damage={"front": "some", "back": 0}),
            "grade_range",
            "edge_damage inf, expected a number from 0 to 1",
        ),
        (
            lambda splits: splits["train"][5].update(certificate="train-4"),
            "conflicting_grades",
            "certificate train-4: 5 (splits.json train[4]), 6 (splits.json train[5])",
        ),
    ],
)
def test_an_entry_that_cannot_be_true_stops_the_run(
    step: Step, alter: Callable[[Any], None], check: str, said: str
) -> None:
    step.change(alter)
    assert f"{check}: found" in step.fails()
    assert any(said in example for example in step.check(check)["examples"])


def test_scans_of_another_size_or_aspect_stop_the_run(step: Step) -> None:
    side(step).resize((12, 17)).save(step.cards / "train-3-front.png")
    side(step).resize((44, 32)).save(step.cards / "train-8-back.png")
    said = step.fails()
    assert "image_size: found 1 row" in said
    assert step.check("image_size")["examples"] == ["splits.json train[3]: 12 × 17 and 32 × 44 pixels"]
    assert step.check("aspect")["examples"] == ["splits.json train[8]: 32 × 44 and 44 × 32 pixels"]


def test_a_certificate_in_two_lists_stops_the_run(step: Step) -> None:
    step.change(lambda splits: splits["test"][14].update(certificate="train-4"))  # of one grade
    assert "leakage: found 1 row" in step.fails()
    (example,) = step.check("leakage")["examples"]
    assert example == "splits.json train[4] (train) certificate train-4 = splits.json test[14] (test)"


def test_lists_that_overlap_stop_the_run_under_whatever_certificate(step: Step) -> None:
    step.change(lambda splits: splits["val"].append(splits["train"][4] | {"certificate": "another"}))
    assert "leakage: found 1 row" in step.fails()
    (example,) = step.check("leakage")["examples"]
    assert "splits.json train[4] (train) certificate train-4 ≈ splits.json val[20] (validation)" in example
    assert example.endswith("1.00")


def test_a_scan_that_was_lit_cut_and_compressed_anew_is_still_the_same_card(tmp_path: Path) -> None:
    from gauntlet.tasks.ordinal_grading.synthetic_cards import write_cards as draw_cards

    draw_cards(tmp_path / "cards", cards=30, seed=2)
    splits = read_splits(tmp_path / "cards")
    copy = dict(splits["train"][0])
    for name in ("front", "back"):
        picture = Image.open(tmp_path / "cards" / copy[name])
        copy[name] = f"images/copy-{name}.jpg"
        wide, high = picture.size
        altered = ImageEnhance.Brightness(picture.crop((2, 2, wide - 2, high - 2))).enhance(0.9)
        altered.resize((180, 248)).save(tmp_path / "cards" / copy[name], quality=70)
    splits["test"].append(copy | {"certificate": "another"})
    write_splits(tmp_path / "cards", splits)
    step = Step(tmp_path / "cards", tmp_path)
    said = step.fails(checks={"rows_per_class": {"severity": "warn"}, "class_balance": {"severity": "warn"}})
    assert "failed 1 of" in said
    assert "leakage: found 1 row" in said


def test_two_scans_of_a_card_in_one_list_are_a_warning(step: Step) -> None:
    step.change(lambda splits: splits["train"].append(splits["train"][4]))
    step.run()
    assert step.check("duplicates")["verdict"] == "warn"
    assert len(step.split("train").labels) == 61


def test_rows_can_be_dropped_for_all_that_is_wrong_with_them(step: Step) -> None:
    (step.cards / "train-3-front.png").write_bytes(b"no image")
    step.change(lacks_a_side)
    drop = {"severity": "drop", "max_fraction": 0.1}
    step.run(checks={"image_size": {"min_side": 16}, "unreadable_images": drop, "missing_sides": drop})
    assert 3 not in step.split("train").rows
    assert 2 not in step.split("validation").rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"splits.json: found no JSON"),
        ("[]", "found no object, expected an object with the lists train, val, test"),
        ('{"train": [], "val": []}', "found the keys train, val, expected"),
        ('{"train": [1], "val": [], "test": []}', "train: found something else than a list of objects"),
        ('{"train": [], "val": [], "test": []}', "found no cards, expected at least one"),
    ],
)
def test_a_list_that_is_none_is_one_message(step: Step, content: str, said: str) -> None:
    (step.cards / "splits.json").write_text(content)
    with pytest.raises(DataError, match=said):
        step.run()


def test_a_store_out_of_reach_ends_the_step_with_its_name(step: Step) -> None:
    address = "http://127.0.0.1:1/3.jpg"
    step.change(lambda splits: splits["train"][3].update(front=address))
    with pytest.raises(GauntletError, match=f"{address}: cannot be reached") as caught:
        step.run(roots=["http://127.0.0.1:1"])
    assert caught.value.exit_code == 1, "not the data's fault"


@pytest.mark.parametrize(
    "uri",
    [
        "synthetic://cards",
        "synthetic://cards?cards=9",
        "synthetic://cards?cards=9&seed=x",
        "synthetic://dogs?cards=9&seed=1",
    ],
)
def test_a_set_that_cannot_be_drawn_is_one_message(step: Step, uri: str) -> None:
    with pytest.raises(UsageError, match=r"expected such as synthetic://cards\?cards=600&seed=7"):
        step.run(uri)


def test_a_set_is_drawn_on_the_fly_and_is_the_same_each_time(step: Step) -> None:
    warn = {"rows_per_class": {"severity": "warn"}, "class_balance": {"severity": "warn"}}
    step.run("synthetic://cards?cards=20&seed=3", shape=[44, 32], checks=warn)
    first = step.split("train").images
    step.run("synthetic://cards?cards=20&seed=3", shape=[44, 32], checks=warn)
    np.testing.assert_array_equal(step.split("train").images, first)
    assert "cards were read" in (step.folder / "report.html").read_text()


def test_a_number_that_no_float_holds_is_out_of_range(step: Step) -> None:
    step.change(lambda splits: splits["test"][1].update(centering={"front": [10**400, 50], "back": None}))
    assert "grade_range" in step.fails()
