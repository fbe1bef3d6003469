from __future__ import annotations

import gzip
import io
import json
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gauntlet.backends import storage
from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.serving.images import read_image
from gauntlet.tasks.images.manifest import ImageColumns
from gauntlet.tasks.images.reading import ImageSource, ImageTable, image_uris, read_images
from tests.fakes.cloud import FakeCloud

SIDE = 8


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(seed: int, form: str = "PNG") -> bytes:
    content = io.BytesIO()
    picture(seed).save(content, format=form)
    return content.getvalue()


def write_classes(folder: Path, names: tuple[str, ...] = ("cat", "dog"), images: int = 2) -> Path:
    for at, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            (folder / name / f"{number}.png").write_bytes(encoded(10 * at + number))
    return folder


def read(uri: Path | str, **settings: Any) -> ImageTable:
    return read_images(ImageSource(uri=str(uri), shape=(SIDE, SIDE), channels=3, **settings))


def values(table: ImageTable) -> list[tuple[str, str, Any]]:
    return [(row.split, row.place, row.value) for row in table.rows.itertuples()]


def test_a_folder_for_each_class_gives_rows_with_its_name_and_the_pixels_that_serving_gives(
    tmp_path: Path,
) -> None:
    folder = write_classes(tmp_path / "pets")
    (folder / "dog" / "more").mkdir()
    (folder / "dog" / "more" / "9.JPG").write_bytes(encoded(9, "JPEG"))
    for name in ("notes.txt", ".DS_Store", "dog/Thumbs.db", "dog/._1.png"):
        (folder / name).write_text("no image")
    for resize in ("stretch", "crop", "pad"):
        table = read(folder, resize=resize)
        assert values(table) == [
            ("train", "cat/0.png", "cat"),
            ("train", "cat/1.png", "cat"),
            ("train", "dog/0.png", "dog"),
            ("train", "dog/1.png", "dog"),
            ("train", "dog/more/9.JPG", "dog"),
        ]
        assert table.other_files == ("notes.txt",)
        for at, place in enumerate(table.rows["place"]):
            served = read_image(folder / place, (3, SIDE, SIDE), resize)
            np.testing.assert_array_equal(np.moveaxis(table.pixels[at], 2, 0), served)
    assert table.rows["width"].unique().tolist() == [12]
    assert (table.form, table.rows["unreadable"].tolist()) == ("folders", [""] * 5)


def test_folders_of_splits_hold_the_folders_of_classes(tmp_path: Path) -> None:
    for name in ("Training", "val", "test"):
        write_classes(tmp_path / name, images=1)
    table = read(tmp_path)
    assert [(split, value) for split, _, value in values(table)] == [
        ("train", "cat"),
        ("train", "dog"),
        ("test", "cat"),
        ("test", "dog"),
        ("validation", "cat"),
        ("validation", "dog"),
    ]
    write_classes(tmp_path / "extra")
    with pytest.raises(DataError, match="found the folders extra beside Training, expected train, valid"):
        read(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_classes(tmp_path, ("bus", "train"), images=1)
    assert [value for *_, value in values(read(tmp_path))] == ["bus", "train"]


def _csv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pd.DataFrame(rows).to_csv(folder / "data.csv", index=False)
    return folder / "data.csv"


def _tsv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pd.DataFrame(rows).to_csv(folder / "data.tsv", index=False, sep="\t")
    return folder / "data.tsv"


def _jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "data.jsonl"


def _parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "data.parquet")
    return folder / "data.parquet"


def _hub(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """As the Hugging Face hub has images: objects with bytes, and class indices whose names are metadata."""
    table = pa.table(
        {
            "image": [{"bytes": (folder / row["image"]).read_bytes(), "path": None} for row in rows],
            "label": [("cat", "dog").index(row["label"]) for row in rows],
        }
    )
    feature = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    pq.write_table(table.replace_schema_metadata(metadata), folder / "data.parquet")
    return folder / "data.parquet"


def _binary(folder: Path, rows: list[dict[str, Any]]) -> Path:
    content = [(folder / row["image"]).read_bytes() for row in rows]
    pq.write_table(
        pa.table({"image": content, "label": [row["label"] for row in rows]}), folder / "data.parquet"
    )
    return folder / "data.parquet"


@pytest.mark.parametrize("write", [_csv, _tsv, _jsonl, _parquet, _hub, _binary])
def test_a_table_names_or_holds_the_images(
    tmp_path: Path, write: Callable[[Path, list[dict[str, Any]]], Path]
) -> None:
    folders = read(write_classes(tmp_path / "pets"))
    rows = [
        {"image": f"pets/{place}", "label": value}
        for place, value in zip(folders.rows["place"], folders.rows["value"], strict=True)
    ]
    table = read(write(tmp_path, rows))
    np.testing.assert_array_equal(table.pixels, folders.pixels)
    assert table.rows["value"].tolist() == ["cat", "cat", "dog", "dog"]
    assert table.rows["place"].str.startswith("data.").all()
    assert table.form == "table"


def test_a_table_may_have_other_columns_and_targets_of_any_type(tmp_path: Path) -> None:
    write_classes(tmp_path, ("cat",))
    table = pa.table({"file": ["cat/0.png", "cat/1.png"], "price": [1.5, None], "note": ["a", "b"]})
    pq.write_table(table, tmp_path / "train.parquet")
    found = read(tmp_path, columns=ImageColumns(image="file", label="price"))
    assert found.rows["value"].tolist()[0] == 1.5
    assert pd.isna(found.rows["value"].tolist()[1])
    with pytest.raises(DataError, match=r"no column image: set dataset\.columns\.image to one of .*file"):
        read(tmp_path)


def test_paths_that_lead_out_of_the_folder_or_nowhere_are_faults_of_their_rows(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "data")
    (tmp_path / "secret.png").write_bytes(encoded(5))
    names = ["cat/0.png", "../secret.png", str(tmp_path / "secret.png"), "cat/7.png", ""]
    faults = read(_csv(folder, [{"image": name, "label": "cat"} for name in names])).rows["unreadable"]
    assert faults[0] == ""
    for at in (1, 2):
        assert "leads out of" in faults[at]
    assert "cat/7.png: no such file" in faults[3]
    assert faults[4] == "no path"
    allowed = read(folder / "data.csv", roots=(str(tmp_path),)).rows["unreadable"]
    assert allowed[1] == allowed[2] == ""


def _zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, f"w:{path.suffix[1:].replace('tgz', 'gz').replace('tar', '')}") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("pets.zip", _zip),
        ("pets.tar", _tar),
        ("pets.tar.gz", _tar),
        ("pets.tgz", _tar),
        ("pets.tar.xz", _tar),
    ],
)
@pytest.mark.parametrize("top", ["", "pets/"])
def test_an_archive_is_read_like_the_folder_in_it(
    tmp_path: Path, name: str, pack: Callable[[Path, dict[str, bytes]], Path], top: str
) -> None:
    folder = read(write_classes(tmp_path / "pets"))
    files = {f"{top}{place}": (tmp_path / "pets" / place).read_bytes() for place in folder.rows["place"]}
    archive = pack(tmp_path / name, files | {f"{top}.DS_Store": b"", "__MACOSX/._0.png": b"no image"})
    table = read(archive)
    assert values(table) == values(folder)
    np.testing.assert_array_equal(table.pixels, folder.pixels)
    source = ImageSource(uri=str(archive), shape=(SIDE, SIDE), channels=3)
    assert image_uris(source) == (str(archive),)


def test_an_archive_may_hold_a_table_of_paths(tmp_path: Path) -> None:
    files = {"images/1.png": encoded(1), "images/2.png": encoded(2), "labels.csv": b"image,label\n"}
    files["labels.csv"] += b"images/1.png,cat\nimages/2.png,dog\n"
    assert values(read(_zip(tmp_path / "pets.zip", files))) == [
        ("train", "labels.csv line 2", "cat"),
        ("train", "labels.csv line 3", "dog"),
    ]


def _climbing(name: str) -> Callable[[Path], Path]:
    return lambda path: _zip(path / "x.zip", {"cat/1.png": encoded(1), name: encoded(2)})


def _linked(path: Path) -> Path:
    link = zipfile.ZipInfo("cat/passwd.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    return path / "x.zip"


def _tar_climbing(path: Path) -> Path:
    return _tar(path / "x.tar.gz", {"cat/1.png": encoded(1), "../../evil.png": encoded(2)})


def _tar_linked(path: Path) -> Path:
    with tarfile.open(path / "x.tar", "w") as archive:
        entry = tarfile.TarInfo("cat/link.png")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    return path / "x.tar"


def _bomb(path: Path) -> Path:
    """Its directory says that three files unpack to 400 MiB each."""
    with zipfile.ZipFile(path / "x.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"cat/{number}.png", b"small")
            archive.filelist[-1].file_size = 400 * 2**20
    return path / "x.zip"


def _understated(path: Path) -> Path:
    """Its directory says that a file unpacks to 10 bytes, and it has a thousand times as many."""
    with zipfile.ZipFile(path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", bytes(10_000))
        archive.filelist[-1].file_size = 10
    return path / "x.zip"


def _tar_bomb(path: Path) -> Path:
    entry = tarfile.TarInfo("cat/1.png")
    entry.size = 2**31
    (path / "x.tar.gz").write_bytes(gzip.compress(entry.tobuf() + bytes(10_000)))
    return path / "x.tar.gz"


def _cut(path: Path) -> Path:
    whole = _zip(path / "x.zip", {"cat/1.png": encoded(1)}).read_bytes()
    (path / "x.zip").write_bytes(whole[: len(whole) // 2])
    return path / "x.zip"


def _tar_cut(path: Path) -> Path:
    whole = _tar(path / "x.tar.gz", {f"cat/{seed}.png": encoded(seed) for seed in range(50)}).read_bytes()
    (path / "x.tar.gz").write_bytes(whole[: len(whole) // 2])
    return path / "x.tar.gz"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_climbing("../evil.png"), r"\.\./evil\.png leads out of the archive"),
        (_climbing("cat/../../evil.png"), "leads out of the archive"),
        (_climbing("/tmp/evil.png"), "/tmp/evil.png leads out of the archive"),
        (_climbing("..\\evil.png"), "leads out of the archive"),
        (_linked, "cat/passwd.png is a link or a device"),
        (_tar_climbing, "leads out of the archive"),
        (_tar_linked, "cat/link.png is a link or a device"),
        (_bomb, "unpacks to 1.2 GiB or more, expected at most 1.0 GiB"),
        (_understated, "not a whole archive"),
        (_tar_bomb, "unpacks to 2.0 GiB or more"),
        (_cut, "not a whole archive"),
        (_tar_cut, "not a whole archive"),
    ],
    ids=[
        "dots",
        "dots inside",
        "absolute",
        "backslash",
        "link",
        "tar",
        "tar link",
        "bomb",
        "lie",
        "tar bomb",
        "cut",
        "tar cut",
    ],
)
def test_an_archive_that_is_dangerous_or_damaged_is_refused_and_nothing_is_left_behind(
    tmp_path: Path, make: Callable[[Path], Path], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make(tmp_path)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    with pytest.raises(DataError, match=rf"{archive.name}: .*{message}"):
        read(archive)
    assert not list((tmp_path / "scratch").iterdir())
    assert not list(tmp_path.rglob("evil.png"))


def test_an_archive_is_compared_with_the_hash_in_the_manifest(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "x.zip", {"cat/1.png": encoded(1), "dog/1.png": encoded(2)})
    with pytest.raises(DataError, match=f"x.zip: found sha256 .*, expected {'0' * 64}"):
        read(archive, sha256="0" * 64)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "found no files, expected images in a folder for each class"),
        ({"a.txt": b"", "b.md": b""}, r"found 2 other files \(a\.txt, b\.md\)"),
        (
            {"1.png": encoded(1), "cat/2.png": encoded(2)},
            r"1 images in no class's folder \(1\.png\), .*CLASS",
        ),
        ({"train/cat/1.png": encoded(1), "test/2.png": encoded(2)}, "expected SPLIT/CLASS/2.png"),
    ],
)
def test_a_folder_without_classes_is_named_with_what_it_has(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_what_is_wrong_with_an_image_is_noted_in_its_row_and_the_others_are_read(tmp_path: Path) -> None:
    folder = write_classes(tmp_path)
    for name, content in (
        ("cat/empty.png", b""),
        ("cat/half.jpg", encoded(3, "JPEG")[:400]),
        ("cat/text.png", b"no image"),
    ):
        (folder / name).write_bytes(content)
    Image.new("1", (20_000, 10_000)).save(folder / "dog" / "vast.png")  # 200 megapixels
    first, second = picture(1), picture(2)
    first.save(folder / "dog" / "moving.gif", save_all=True, append_images=[second])
    rows = read(folder).rows
    faults = dict(zip(rows["place"], rows["unreadable"], strict=True))
    assert faults["cat/empty.png"] == "found an empty file, expected an image."
    assert faults["cat/half.jpg"].startswith("cannot be read")
    assert faults["cat/text.png"].startswith("found no image")
    vast = "found more than 178,956,970 pixels, expected at most 50,000,000. Shrink it."
    assert faults["dog/vast.png"] == vast
    assert faults["dog/moving.gif"].startswith("found 2 pictures, expected one")
    assert [fault for fault in faults.values() if not fault] == [""] * 4


def test_links_inside_the_folder_are_followed_and_links_out_of_it_are_not_read(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "data")
    (tmp_path / "secret.png").write_bytes(encoded(5))
    (folder / "cat" / "secret.png").symlink_to(tmp_path / "secret.png")
    (folder / "cat" / "round").symlink_to(folder / "cat")
    rows = read(folder).rows
    faults = dict(zip(rows["place"], rows["unreadable"], strict=True))
    assert "leads out of" in faults.pop("cat/secret.png")
    assert list(faults.values()) == [""] * 4


def test_a_folder_in_a_bucket_is_listed_at_any_depth(cloud: FakeCloud, tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "pets")
    storage.upload(folder, "gs://bucket/pets")
    there, here = read("gs://bucket/pets"), read(folder)
    assert values(there) == values(here)
    np.testing.assert_array_equal(there.pixels, here.pixels)
    source = ImageSource(uri="gs://bucket/pets", shape=(SIDE, SIDE), channels=3)
    assert image_uris(source) == tuple(f"gs://bucket/pets/{place}" for place in here.rows["place"])
    _zip(tmp_path / "pets.zip", {f"{place}": (folder / place).read_bytes() for place in here.rows["place"]})
    cloud.bucket.objects["gs://bucket/pets.zip"] = (tmp_path / "pets.zip").read_bytes()
    assert values(read("gs://bucket/pets.zip")) == values(here)


def test_nothing_there_is_one_message(tmp_path: Path) -> None:
    for name in ("none", "none.zip", "none.csv"):
        with pytest.raises(UsageError, match=f"{name}: no such file"):
            read(tmp_path / name)


def test_more_images_than_the_disk_holds_are_refused_before_any_is_read(tmp_path: Path) -> None:
    rows = [{"image": "none.png", "label": "cat"}] * 20_000
    table = _csv(tmp_path, rows)
    with pytest.raises(DataError, match=r"20,000 images of 8192 × 8192 with 3 channels take 8,053\.1 GB"):
        read_images(ImageSource(uri=str(table), shape=(8192, 8192), channels=3))
