from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gauntlet.backends.factory import open_registry
from gauntlet.components.evaluate_model import EvaluationRun
from gauntlet.components.pictures import THUMBNAIL_SIDE, thumbnail
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.classification.evaluation import evaluate
from gauntlet.tasks.classification.manifest import Evaluation
from tests.image_bundles import write_image_bundle

LABELS = ("left", "right")
SETTINGS = Evaluation(bootstrap_resamples=200, worst_mistakes=3)
SHAPE = (1, 8, 8)
ROWS = 20


def halves(left: float, right: float) -> np.ndarray:
    """Weights (1, 8, 8, 2): the class "left" gets the mean of the left half, times `left`, and so on."""
    weights = np.zeros((*SHAPE, 2), dtype=np.float32)
    weights[:, :, :4, 0], weights[:, :, 4:, 1] = left / 32, right / 32
    return weights


SIGHTED, BLIND = halves(1, 1), halves(1, 0)


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """Ten images that are brighter on the left, ten on the right; the last ones are the brightest."""
    folder = tmp_path / "splits"
    folder.mkdir()
    images = np.zeros((ROWS, 8, 8), dtype=np.uint8)
    labels = np.arange(ROWS) % 2
    for row, label in enumerate(labels):
        images[row, :, 4 * label : 4 * label + 4] = 10 + row
    np.savez(folder / "test.npz", images=images, label=labels, row=np.arange(ROWS) + 500)
    return folder


@pytest.fixture
def outputs(tmp_path: Path) -> dict[str, Path]:
    return {name: tmp_path / "out" / name for name in ("scores", "predictions", "report")}


def run(tmp_path: Path, bundle: Path, splits: Path, outputs: dict[str, Path]) -> dict[str, Any]:
    uri = f"sqlite:///{tmp_path / 'registry' / 'mlflow.db'}"
    evaluate(EvaluationRun(SETTINGS, "shapes", 0, uri, bundle, splits, **outputs))
    scores: dict[str, Any] = json.loads(outputs["scores"].read_text())
    return scores


def test_the_champion_is_scored_on_the_same_images_and_mistakes_are_pictures(
    tmp_path: Path, splits: Path, outputs: dict[str, Path]
) -> None:
    champion = write_image_bundle(tmp_path / "champion", SIGHTED, LABELS)
    registry = open_registry(f"sqlite:///{tmp_path / 'registry' / 'mlflow.db'}")
    registry.register("shapes", champion, {"run_id": "one"})
    registry.promote("shapes")
    scores = run(tmp_path, write_image_bundle(tmp_path / "blind", BLIND, LABELS), splits, outputs)
    # Without the right half every score of "right" is 0, and the first class wins every tie.
    assert scores["challenger"]["confusion"] == [[10, 0], [10, 0]]
    assert (scores["champion"]["accuracy"], scores["challenger"]["accuracy"]) == (1.0, 0.5)
    assert scores["paired"]["upper_bound"] < 0
    assert len(scores["mistakes"]) == 3
    assert "text" not in scores["mistakes"][0]
    shown = scores["mistakes"][0]["picture"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))))
    assert pixels.shape == (8, 8)
    assert (pixels[:, :4].max(), pixels[:, 4:].min()) == (0, 11)
    page = outputs["report"].read_text()
    assert page.count(f'<img class="row" src="{shown}"') == 1
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_predictions_hold_the_row_in_the_file_and_no_pixels(
    tmp_path: Path, splits: Path, outputs: dict[str, Path]
) -> None:
    run(tmp_path, write_image_bundle(tmp_path / "bundle", SIGHTED, LABELS), splits, outputs)
    predictions = pd.read_parquet(outputs["predictions"])
    expected = ["row", "label", "predicted", "confidence", "probability_left", "probability_right"]
    assert list(predictions.columns) == expected
    assert predictions["row"].tolist() == list(range(500, 500 + ROWS))
    assert predictions["predicted"].tolist() == ["left", "right"] * 10
    # softmax of (10, 0), by hand
    assert predictions.loc[0, "confidence"] == pytest.approx(1 / (1 + np.exp(-10.0)))


def test_images_of_another_shape_than_the_bundles_stop_the_step(
    tmp_path: Path, splits: Path, outputs: dict[str, Path]
) -> None:
    small = write_image_bundle(tmp_path / "bundle", np.ones((1, 4, 4, 2), dtype=np.float32), LABELS)
    with pytest.raises(DataError, match=r"test rows: found uint8 \(1, 8, 8\), expected an image of uint8"):
        run(tmp_path, small, splits, outputs)


@pytest.mark.parametrize(("shape", "size"), [((1, 28, 20), (20, 28)), ((3, 500, 1000), (THUMBNAIL_SIDE, 48))])
def test_a_thumbnail_is_of_the_images_own_size_unless_that_is_large(
    shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    image = np.full(shape, 9, dtype=np.uint8)
    picture = Image.open(io.BytesIO(base64.b64decode(thumbnail(image).partition(",")[2])))
    assert picture.size == size
    assert np.asarray(picture).max() == np.asarray(picture).min() == 9
