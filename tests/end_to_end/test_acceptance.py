"""The shipped manifests on real weights and real data, as a user runs them: `make acceptance [DATA=…]`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gauntlet.pipelines.home import Home
from tests.end_to_end.conftest import System

MANIFESTS = Path(__file__).parents[2] / "manifests"

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]


def test_the_sample_is_promoted_and_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    system = System(MANIFESTS / "emotion_sample.yaml", Home(tmp_path / "home"))
    weights, scores = [], []
    for _ in range(2):
        done = system.gauntlet("run", str(system.manifest), "--no-cache")
        assert done.returncode in {0, 3}, (
            done.stdout + done.stderr
        )  # the same model cannot beat itself for sure
        checkpoint = system.steps() / "train-model" / "checkpoint" / "model.safetensors"
        weights.append(hashlib.sha256(checkpoint.read_bytes()).hexdigest())
        scores.append(json.loads((system.steps() / "evaluate-model" / "scores").read_text())["challenger"])
    assert weights[0] == weights[1]
    assert scores[0] == scores[1]
    predicted = system.gauntlet("predict", "we won the cup and danced all night")
    assert "joy" in predicted.stdout, predicted.stderr


def test_emotion_reaches_its_scores_on_the_published_validation_file(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = request.config.getoption("--data")
    if data is None:
        pytest.skip(
            "needs dair-ai/emotion: make acceptance DATA=folder with emotion/train.txt and validation.txt"
        )
    system = System(MANIFESTS / "emotion.yaml", Home(tmp_path / "home"))
    done = system.run(
        f"dataset.uri={Path(data).resolve() / 'emotion'}",
        "dataset.files={train: train.txt, test: validation.txt}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    challenger = json.loads((system.steps() / "evaluate-model" / "scores").read_text())["challenger"]
    verdict = json.loads((system.steps() / "gate-model" / "verdict").read_text())
    assert challenger["macro_f1"] >= 0.89
    assert challenger["weighted_f1"] >= 0.925
    assert verdict["decision"] == "promote"


@pytest.mark.timeout(7200)
def test_goemotions_is_promoted_with_its_scores_on_the_published_validation_file(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    data = request.config.getoption("--data")
    if data is None:
        pytest.skip(
            "needs GoEmotions in Ekman's grouping: make acceptance DATA=folder with "
            "goemotions-ekman/train.tsv and validation.tsv"
        )
    system = System(MANIFESTS.parent / "examples" / "goemotions.yaml", Home(tmp_path / "home"))
    done = system.run(f"dataset.uri={Path(data).resolve() / 'goemotions-ekman'}")
    assert done.returncode == 0, done.stdout + done.stderr
    challenger = json.loads((system.steps() / "evaluate-model" / "scores").read_text())["challenger"]
    assert challenger["macro_f1"] >= 0.61
    assert challenger["micro_f1"] >= 0.68
    assert min(one["f1"] for one in challenger["per_class"]) >= 0.38  # of disgust, which 97 rows have
    assert json.loads((system.steps() / "gate-model" / "verdict").read_text())["decision"] == "promote"
