from __future__ import annotations

import hashlib
import io
import resource
import subprocess
import sys
from dataclasses import astuple

import numpy as np
import pytest
from PIL import Image

from gauntlet.tasks.images.data import IMAGES_AT_ONCE, array_on_disk, describe_pixels, gathered, in_pieces
from gauntlet.tasks.images.decoding import FEW, Decoder, ImageFile


def files(count: int) -> list[ImageFile]:
    """Pictures of random pixels, one that is none, and one that was not found."""
    found = []
    for number in range(count):
        drawn = np.random.default_rng(number).integers(0, 256, (9 + number, 12, 3), dtype=np.uint8)
        Image.fromarray(drawn).save(stream := io.BytesIO(), "png")
        found.append(ImageFile(stream.getvalue(), f"{number}.png"))
    return [*found, ImageFile(b"GIF87", "broken.gif"), ImageFile(fault="no such file")]


def test_processes_decode_as_threads_do_and_keep_the_order() -> None:
    decoder, pieces = Decoder((8, 8), 3, "stretch"), [files(3), files(5), files(1)]
    by_threads = list(decoder.in_order(pieces, images=1))
    by_processes = list(decoder.in_order(pieces, images=FEW))
    for one, other in zip(by_threads, by_processes, strict=True):
        for ours, theirs in zip(astuple(one), astuple(other), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    found = by_threads[0]
    assert found.sizes.tolist() == [[12, 9], [12, 10], [12, 11], [0, 0], [0, 0]]
    assert found.faults[:3] == [""] * 3 and found.faults[4] == "no such file"
    assert found.faults[3].startswith("broken.gif: ")
    assert found.keys[4] == hashlib.sha256(bytes(8 * 8 * 3)).hexdigest()


def test_images_in_pieces_are_described_as_all_at_once() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2 * IMAGES_AT_ONCE + 3, 4, 5, 3), dtype=np.uint8)
    order = np.random.default_rng(1).permutation(len(images))
    described = describe_pixels(in_pieces(images, order), 3)
    assert described.mean == pytest.approx(images.mean(axis=(0, 1, 2)))
    assert described.std == pytest.approx(images.std(axis=(0, 1, 2)))
    of_images = images.reshape(len(images), -1).mean(axis=1)
    assert described.brightness == tuple(np.histogram(of_images, bins=range(0, 257, 16))[0])
    assert np.array_equal(gathered(images, order), images[order])
    assert describe_pixels(in_pieces(images, order[:0]), 3).mean == (0.0, 0.0, 0.0)
    assert gathered(images, order[:0]).shape == (0, 4, 5, 3)


def test_images_that_do_not_fit_on_the_disk_are_an_error_before_any_is_written() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000));"
        "from gauntlet.tasks.images.data import array_on_disk; array_on_disk((100, 10, 11))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "of images cannot be written (File too large). Make room" in ended.stderr


def test_an_array_on_disk_takes_no_memory_of_its_own() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    array = array_on_disk((50, 1_000, 1_000))
    assert array.shape == (50, 1_000, 1_000) and not array[49].any()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # KiB, of 50 MB
