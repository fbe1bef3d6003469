from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gauntlet.serving.bundle import Bundle, BundleError, read_info
from gauntlet.serving.images import read_image
from gauntlet.serving.interface import InputError, Resize
from gauntlet.serving.verification import verify
from gauntlet.tasks.images.serving import open_model
from tests.image_bundles import write_image_bundle

REPOSITORY = Path(__file__).parents[2]
SHAPE = (1, 2, 3)
# The class "left" gets the left column's pixels, "right" twice those of the right one.
WEIGHTS = np.zeros((*SHAPE, 2), dtype=np.float32)
WEIGHTS[:, :, 0, 0], WEIGHTS[:, :, 2, 1] = 1, 2
IMAGES = np.array([[[[3, 9, 1], [4, 9, 0]]], [[[0, 0, 100], [1, 0, 150]]]], dtype=np.uint8)
LOGITS = [[7.0, 2.0], [1.0, 500.0]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_image_bundle(tmp_path / "bundle", WEIGHTS, ("left", "right"))


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_logits_are_of_raw_pixels_in_order_at_any_batch_size(folder: Path, batch_size: int) -> None:
    bundle = Bundle(folder)
    assert bundle.logits(IMAGES, batch_size).tolist() == LOGITS
    assert bundle.logits([*IMAGES], batch_size).tolist() == LOGITS
    assert bundle.logits(IMAGES[:0], batch_size).shape == (0, 2)


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (IMAGES.astype(np.float32) / 255, "found float32"),
        (IMAGES[:, 0], r"found uint8 \(2, 3\)"),
        (["a text"], "found str"),
    ],
)
def test_rows_that_are_no_images_of_the_models_shape_are_refused(
    folder: Path, rows: list[str] | np.ndarray, found: str
) -> None:
    with pytest.raises(InputError, match=rf"{found}.*expected an image of uint8 \(1, 2, 3\)"):
        Bundle(folder).logits(rows)


def test_an_image_bundle_passes_every_check(folder: Path) -> None:
    checks = verify(folder)
    assert [check.name for check in checks if not check.fault] == [
        "files",
        "certificate",
        "tensors",
        "prediction",
    ]
    assert checks[-1].found.startswith("an image of noise is ")


def test_a_task_that_nobody_knows_is_refused(folder: Path) -> None:
    content = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(content | {"task": "sound_classification"}))
    with pytest.raises(
        BundleError, match="task: found 'sound_classification', expected one of causal_lm, image"
    ):
        read_info(folder)


def test_images_are_served_with_onnxruntime_and_numpy_alone(folder: Path) -> None:
    program = f"""
import sys
for name in ("torch", "tokenizers", "transformers", "pandas", "onnx", "sklearn", "kfp", "pydantic", "PIL"):
    sys.modules[name] = None
import numpy as np
from gauntlet.serving.bundle import Bundle
print(Bundle({str(folder)!r}).logits(np.array({IMAGES.tolist()}, dtype=np.uint8)).tolist())
"""
    served = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert served.stderr == ""
    assert served.stdout.strip() == str(LOGITS)


def test_a_grey_file_of_the_models_size_keeps_its_pixels(tmp_path: Path) -> None:
    Image.fromarray(IMAGES[1, 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png", SHAPE), IMAGES[1])


def test_a_larger_file_in_colour_is_shrunk_and_made_grey(tmp_path: Path) -> None:
    large = np.kron(np.array([[0, 255]], dtype=np.uint8), np.ones((20, 20), dtype=np.uint8))
    Image.fromarray(np.stack([large] * 3, axis=-1)).save(tmp_path / "large.png")
    found = read_image(tmp_path / "large.png", (1, 4, 8))
    assert (found.shape, found.dtype) == ((1, 4, 8), np.uint8)
    assert (found[0, :, :3].max(), found[0, :, 5:].min()) == (0, 255)


def test_colours_become_channels_and_a_grey_file_three_of_them(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (10, 20, 30)).save(tmp_path / "colour.png")
    assert read_image(tmp_path / "colour.png", (3, 4, 5))[:, 1, 2].tolist() == [10, 20, 30]
    Image.new("L", (5, 4), 7).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png", (3, 4, 5))[:, 1, 2].tolist() == [7, 7, 7]


def test_what_is_transparent_is_black_whatever_colour_hides_there(tmp_path: Path) -> None:
    Image.new("RGBA", (3, 2), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png", SHAPE).max() == 0


def test_a_photo_is_turned_as_its_camera_was(tmp_path: Path) -> None:
    photo, exif = Image.fromarray(IMAGES[1, 0]), Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    photo.save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png", SHAPE), IMAGES[1][:, ::-1, ::-1])


@pytest.mark.parametrize(
    ("name", "mode", "colour", "expected"),
    [
        ("deep.png", "I;16", 0xEA60, [0xEA] * 3),  # the upper 8 of 16 bits
        ("print.jpg", "CMYK", (255, 0, 0, 0), [0, 255, 255]),  # cyan
        ("palette.gif", "P", 0, [0, 0, 0]),
        ("grey.bmp", "L", 7, [7, 7, 7]),
        ("colour.webp", "RGB", (10, 20, 30), [10, 20, 30]),
        ("colour.tif", "RGB", (10, 20, 30), [10, 20, 30]),
        ("bits.png", "1", 1, [255] * 3),
    ],
)
def test_an_image_of_any_mode_and_format_is_read(
    tmp_path: Path, name: str, mode: str, colour: int | tuple[int, ...], expected: list[int]
) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    Image.new(mode, (6, 4), colour).save(tmp_path / name, **options)
    found = read_image(tmp_path / name, (3, 4, 6))
    assert found[:, 2, 3].astype(int) == pytest.approx(expected, abs=3)  # JPEG is lossy


def test_a_wide_image_is_stretched_cut_or_padded(tmp_path: Path) -> None:
    wide = np.repeat(np.array([[10, 100, 200, 30]], dtype=np.uint8), 2, axis=0)  # 2 high, 4 wide
    Image.fromarray(wide).save(tmp_path / "wide.png")
    stretched = read_image(tmp_path / "wide.png", (1, 4, 4), "stretch")[0]
    assert stretched.tolist() == [[10, 100, 200, 30]] * 4
    cut = read_image(tmp_path / "wide.png", (1, 2, 2), "crop")[0]
    assert cut.tolist() == [[100, 200], [100, 200]]
    padded = read_image(tmp_path / "wide.png", (1, 4, 4), "pad")[0]
    assert padded.tolist() == [[0] * 4, [10, 100, 200, 30], [10, 100, 200, 30], [0] * 4]
    Image.new("L", (1000, 1), 9).save(tmp_path / "line.png")
    assert read_image(tmp_path / "line.png", (1, 8, 8), "pad").sum() == 8 * 9


def _half(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def _moving(path: Path) -> None:
    first, second = (Image.new("L", (4, 4), shade) for shade in (0, 200))
    first.save(path, save_all=True, append_images=[second])


def _bomb(path: Path) -> None:
    """A PNG that says that it has 400 million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("none.png", lambda _: None, "no such file"),
        ("folder.png", Path.mkdir, "found no image, expected a PNG, JPEG, WEBP, BMP, GIF or TIFF file"),
        ("notes.png", lambda path: path.write_text("no image"), "found no image"),
        ("moving.gif", _moving, "found 2 pictures, expected one"),
        ("drawing.ppm", lambda path: Image.new("L", (4, 4)).save(path), "found no image"),
        ("half.jpg", _half, "cannot be read"),
        ("half.png", _half, "cannot be read"),
        ("deep.tif", lambda path: Image.new("I", (4, 4), 60_000).save(path), "expected 8 or 16 a channel"),
        ("light.tif", lambda path: Image.new("F", (4, 4), 0.5).save(path), "expected 8 or 16 a channel"),
        ("vast.png", lambda path: Image.new("1", (8000, 7000)).save(path), "8000 × 7000 pixels"),
        ("bomb.png", _bomb, "found more than 178,956,970 pixels, expected at most 50,000,000. Shrink it"),
    ],
)
def test_a_file_that_cannot_be_scored_is_one_message_that_names_it(
    tmp_path: Path, name: str, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        read_image(tmp_path / name, SHAPE)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_predict_resizes_as_the_bundle_says(tmp_path: Path, resize: Resize) -> None:
    preprocessing = json.dumps({"resize": resize})
    folder = write_image_bundle(tmp_path / "bundle", WEIGHTS, ("left", "right"), preprocessing)
    picture = np.random.default_rng(2).integers(0, 256, (40, 9), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "tall.png")
    (found,) = open_model(folder).read([tmp_path / "tall.png"]).inputs["images"]
    np.testing.assert_array_equal(found, read_image(tmp_path / "tall.png", SHAPE, resize))
    others = {"stretch", "crop", "pad"} - {resize}
    for other in others:
        assert not np.array_equal(found, read_image(tmp_path / "tall.png", SHAPE, other))


def test_a_bundle_that_resizes_in_no_known_way_is_refused(tmp_path: Path) -> None:
    folder = write_image_bundle(tmp_path / "bundle", WEIGHTS, ("left", "right"), '{"resize": "fold"}')
    Image.new("L", (3, 2), 1).save(tmp_path / "one.png")
    with pytest.raises(BundleError, match="resize: found 'fold', expected one of stretch, crop, pad"):
        open_model(folder).read([str(tmp_path / "one.png")])
