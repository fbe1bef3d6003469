"""What an evaluation says of grades, and what it shows of where a grader looks."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

from gauntlet.serving.bundle import Bundle, BundleInfo, TensorSpec, file_sha256, write_bundle
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.metrics import worst_mistakes
from gauntlet.tasks.classification.report import evaluation_page
from gauntlet.tasks.classification.scorecard import ChampionPredictions, assess
from gauntlet.tasks.ordinal_grading.evaluation import (
    PLACES,
    RAISES,
    GradeScoring,
    occlusion_map,
    occlusion_picture,
)
from gauntlet.tasks.ordinal_grading.manifest import GRADES

SIDE = (1, 32, 24)
SETTINGS = Evaluation(bootstrap_resamples=300, confidence=0.9, worst_mistakes=2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A grader that takes a point off for each 255 in the upper left eighth of the back, and sees no more."""
    weights = np.zeros((1, *SIDE), dtype=np.float32)
    weights[0, 0, :4, :4] = 1 / (255 * 16)
    nodes = [
        helper.make_node("Cast", ["back"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["values", "weights"], ["weighed"]),
        helper.make_node("ReduceSum", ["weighed", "axes"], ["lost"], keepdims=0),
        helper.make_node("Sub", ["best", "lost"], ["expected_grade"]),
    ]
    inputs = [
        helper.make_tensor_value_info(s, TensorProto.UINT8, ["batch", *SIDE]) for s in ("front", "back")
    ]
    output = helper.make_tensor_value_info("expected_grade", TensorProto.FLOAT, ["batch"])
    constants = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([1, 2, 3], dtype=np.int64), "axes"),
        numpy_helper.from_array(np.array(10, dtype=np.float32), "best"),
    ]
    graph = helper.make_graph(nodes, "corner", inputs, [output], constants)
    folder = tmp_path_factory.mktemp("grader")
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        folder / "model.onnx",
    )
    (folder / "parity.json").write_text(json.dumps({"model_sha256": file_sha256(folder / "model.onnx")}))
    info = BundleInfo(
        name="corner",
        task="ordinal_grading",
        labels=GRADES,
        inputs=tuple(TensorSpec(side, "uint8", ("batch", *SIDE)) for side in ("front", "back")),
        outputs=(TensorSpec("expected_grade", "float32", ("batch",)),),
        opset=17,
        candidate="plain",
        precision="fp32",
        quality={},
        latency_ms={},
        speedup={},
        lineage={},
    )
    write_bundle(folder / "bundle", info, {name: folder / name for name in ("model.onnx", "parity.json")})
    return Bundle(folder / "bundle")


def worn_card() -> np.ndarray:
    """Black but for a white corner of the back."""
    card = np.zeros((2, *SIDE), dtype=np.uint8)
    card[1, 0, :4, :4] = 255
    return card


def test_covering_what_cost_a_point_gives_it_back_there_and_nowhere_else(bundle: Bundle) -> None:
    moves = occlusion_map(bundle, worn_card())
    assert moves.shape == (2, *PLACES)
    # the corner is two places of the height and two of the width; the cover has the side's mean, 255 / 48
    assert moves[1, 0, 0] == pytest.approx(1 - 5 / 255, abs=1e-4)
    assert np.abs(moves[0]).max() == 0
    assert np.abs(moves[1, 4:]).max() == pytest.approx(0, abs=1e-6)


def test_the_picture_shows_both_sides_and_tints_what_cost_the_point(bundle: Bundle) -> None:
    uri = occlusion_picture(bundle, worn_card())
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    assert picture.size == (360, 240)
    pixels = np.asarray(picture).astype(int)
    corner = pixels[4, 184]
    assert np.abs(corner - (0.35 * 255 + 0.65 * np.array(RAISES))).max() < 12
    assert pixels[:, :180].max() == 0
    assert pixels[200, 300].max() < 10


def graded() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(4)
    labels = generator.integers(0, 10, 120)
    predicted = np.clip(labels + generator.integers(-1, 2, 120), 0, 9)
    predicted[:2] = (labels[:2] + 5) % 10
    return labels, predicted, np.where(np.eye(10, dtype=bool)[predicted], 0.7, 0.3 / 9).astype(np.float32)


def test_the_scorecard_of_a_grader_has_scikit_learns_figures_and_compares_by_kappa() -> None:
    labels, predicted, probabilities = graded()
    scoring = GradeScoring(GRADES, lambda card: {"text": card}, centering_error=1.5)
    names = [f"card {row}" for row in range(120)]
    champion = ChampionPredictions("2", np.full(120, 5))
    mistakes = scoring.mistakes(names, labels, probabilities, SETTINGS.worst_mistakes)
    scorecard = assess(labels, predicted, champion, SETTINGS, 0, scoring, mistakes=mistakes)
    content = scorecard.as_json()
    grades, theirs = content["challenger"]["grades"], content["champion"]["grades"]
    kappa = cohen_kappa_score(labels, predicted, weights="quadratic")
    assert grades["qwk"] == pytest.approx(kappa)
    assert grades["mae"] == pytest.approx(mean_absolute_error(labels, predicted))
    assert grades["qwk_lower_bound"] < grades["qwk"]
    assert grades["mae_upper_bound"] > grades["mae"]
    assert grades["centering_error"] == pytest.approx(1.5)
    assert theirs["qwk"] == 0
    assert content["paired"]["qwk_difference"] == pytest.approx(kappa)
    assert [mistake.text for mistake in scorecard.mistakes] == ["card 0", "card 1"]
    assert "centering_error" not in theirs
    page = evaluation_page(scorecard, "cards")
    assert f"{kappa:.4f}" in page
    assert "orange where covering" in page


def test_the_worst_mistakes_of_grades_are_those_furthest_off() -> None:
    probabilities = np.full((3, 10), 0.01, dtype=np.float32)
    probabilities[0, 1], probabilities[1, 9], probabilities[2, 2] = 0.91, 0.5, 0.95
    labels = np.array([0, 5, 2])
    by_distance = worst_mistakes(["a", "b", "c"], labels, probabilities, GRADES, 5, by_distance=True)
    assert [mistake.text for mistake in by_distance] == ["b", "a"]
    surest = worst_mistakes(["a", "b", "c"], labels, probabilities, GRADES, 5)
    assert [mistake.text for mistake in surest] == ["a", "b"]
