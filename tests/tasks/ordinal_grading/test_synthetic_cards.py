from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gauntlet.tasks.ordinal_grading.synthetic_cards import (
    BORDER,
    CARD,
    SCAN,
    SIDES,
    Defects,
    draw_design,
    draw_side,
    grade_of,
    main,
    points_lost,
)

NEW = Defects((50.0, 50.0), (0, 0, 0, 0), 0.0, 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cards")
    assert main(["--out", str(folder), "--cards", "40", "--seed", "5"]) == 0
    return folder


@pytest.fixture(scope="module")
def splits(folder: Path) -> dict[str, list[dict[str, Any]]]:
    content: dict[str, list[dict[str, Any]]] = json.loads((folder / "splits.json").read_text())
    return content


@pytest.mark.parametrize(
    ("front", "back", "points", "grade"),
    [
        (NEW, NEW, 0.0, 10),
        (Defects((52.0, 50.0), (0, 0, 0, 0), 0.0, 0.0), NEW, 0.0, 10),  # 2 points off are free
        (NEW, Defects((50.0, 40.0), (0, 0, 0, 0), 0.0, 0.0), 2.0, 8),  # (10 - 2) / 4
        (Defects((50.0, 50.0), (22, 0, 11, 0), 0.0, 0.0), NEW, 1.5, 9),  # 33 / 22; 8.5 rounds up
        (NEW, Defects((50.0, 50.0), (0, 0, 0, 0), 0.24, 1.1), 3.0, 7),  # 0.12 / 0.12 and 1.1 / 0.55
        (Defects((30.0, 50.0), (40, 40, 40, 40), 0.5, 2.0), NEW, 4.5 + 160 / 22 + 0.25 / 0.12 + 2 / 0.55, 1),
    ],
)
def test_the_grade_follows_from_the_defects_by_the_rule(
    front: Defects, back: Defects, points: float, grade: int
) -> None:
    assert points_lost(front, back) == pytest.approx(points)
    assert grade_of(front, back) == grade


def test_the_same_seed_draws_the_same_files_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    main(["--out", str(tmp_path / "again"), "--cards", "40", "--seed", "5"])
    main(["--out", str(tmp_path / "other"), "--cards", "40", "--seed", "6"])
    for name in ("splits.json", "images/000000-0-front.jpg", "images/000039-0-back.jpg"):
        content = (folder / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == content
        assert (tmp_path / "other" / name).read_bytes() != content


def test_a_card_that_is_scanned_twice_stays_in_one_split(splits: dict[str, list[dict[str, Any]]]) -> None:
    certificates = {name: [card["certificate"] for card in cards] for name, cards in splits.items()}
    everywhere = [certificate for listed in certificates.values() for certificate in listed]
    assert len(set(everywhere)) == 40 < len(everywhere)
    assert sum(len(set(listed)) for listed in certificates.values()) == 40
    assert [len(set(certificates[name])) for name in ("train", "val", "test")] == [28, 6, 6]


def test_a_scan_is_a_colour_jpeg_of_the_stated_size(
    folder: Path, splits: dict[str, list[dict[str, Any]]]
) -> None:
    for side in SIDES:
        with Image.open(folder / splits["train"][0][side]) as picture:
            assert (picture.size, picture.mode, picture.format) == (SCAN, "RGB", "JPEG")


def test_the_centering_in_the_list_is_that_of_the_pixels() -> None:
    random = np.random.default_rng(1)
    design = draw_design(random)
    shares = (100 * 34 / (2 * BORDER), 100 * 21 / (2 * BORDER))
    drawn = draw_side(design, "back", Defects(shares, (0, 0, 0, 0), 0.0, 0.0), random).convert("RGB")
    row = np.asarray(drawn)[CARD[1] // 2]
    column = np.asarray(drawn)[:, CARD[0] // 2]
    for line, before in ((row, 34), (column, 21)):
        inside = np.flatnonzero((line != line[0]).any(axis=1))
        assert (inside[0], len(line) - 1 - inside[-1]) == (before, 2 * BORDER - before)


def test_edges_are_white_in_the_stated_share() -> None:
    random = np.random.default_rng(2)
    design = draw_design(random)
    worn = draw_side(design, "back", Defects((50.0, 50.0), (0, 0, 0, 0), 0.25, 0.0), random)
    pixels = np.asarray(worn.convert("RGB")).astype(int)
    rim = np.concatenate([pixels[1, 30:-30], pixels[-2, 30:-30], pixels[30:-30, 1], pixels[30:-30, -2]])
    assert (rim.min(axis=1) > 200).mean() == pytest.approx(0.25, abs=0.06)
