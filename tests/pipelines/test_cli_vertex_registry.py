"""The commands, and the step that registers, on a registry in Google Cloud."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from google.cloud import aiplatform

from gauntlet.backends.factory import open_registry
from gauntlet.components.register_model.run import run as register_model
from gauntlet.manifests.errors import GauntletError
from gauntlet.pipelines.cli import main
from gauntlet.tasks.classification.evaluation import ChampionFailure, ChampionPredictions, score_champion
from tests.components.evaluate_model.test_evaluation_run import HAPPY, LABELS, ROWS, TEXTS, make_bundle
from tests.fakes.cloud import FakeCloud
from tests.parrots import write_parrot

MODEL = "moods"
URI = (
    f"vertex://demo/{FakeCloud.LOCATION}?staging=gs://bucket/gauntlet"
    f"&serving_image=europe-docker.pkg.dev/demo/gauntlet/server@sha256:{'a' * 64}"
)


@pytest.fixture
def on_vertex(cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch) -> FakeCloud:
    monkeypatch.setenv("GAUNTLET_REGISTRY", URI)
    return cloud


CLASSIFIED = {"accuracy": 0.75, "macro_f1": 0.733333, "confusion": [[1, 1], [0, 2]]}


def register(
    folder: Path,
    run_id: str,
    champion: str | None = None,
    challenger: Mapping[str, object] = CLASSIFIED,
    bundle: Path | None = None,
) -> None:
    """What register-model does at the end of a run that promotes."""
    bundle = bundle or make_bundle(folder / run_id, HAPPY, weight=2.0 + int(run_id[-1]))
    scores, verdict = folder / "scores", folder / "verdict"
    compared = {"champion": {"version": champion}} if champion else {}
    scores.write_text(json.dumps({"labels": LABELS, "challenger": challenger, **compared}))
    verdict.write_text(json.dumps({"decision": "promote"}))
    register_model(
        section={"promotion": "automatic"},
        name=MODEL,
        registry_uri=URI,
        manifest_sha256="b" * 64,
        run_id=run_id,
        bundle_path=str(bundle),
        scores_path=str(scores),
        verdict_path=str(verdict),
        version_path=str(folder / "version"),
    )


def test_what_a_run_registers_can_be_listed_rolled_back_promoted_and_asked(
    on_vertex: FakeCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(tmp_path, "run-1")
    register(tmp_path, "run-2", champion="1")
    aiplatform.init(project="demo", location=FakeCloud.LOCATION)
    assert len(aiplatform.Model(f"{MODEL}@champion").list_model_evaluations()) == 1
    capsys.readouterr()

    said = []
    for command in (["registry"], ["rollback"], ["promote", "--version", "2"], ["predict", "so happy"]):
        main_quietly(command)
        said.append(" ".join(capsys.readouterr().out.split()))

    since = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.search(rf"moods 2 champion, default {since} macro_f1 0.733333 run-2", said[0])
    assert re.search(rf"moods 1 previous {since} macro_f1 0.733333 run-1", said[0])
    assert said[1:3] == ["moods 1 is champion, 2 is previous", "moods 2 is champion, 1 is previous"]
    assert "so happy joy 0.982 moods version 2" in said[3]  # 1 / (1 + exp(-4))


def test_the_bleu_of_answers_is_shown_with_the_version(on_vertex: FakeCloud, tmp_path: Path) -> None:
    answers = {
        name: {"value": value} for name, value in (("perplexity", 9.0), ("rouge_l", 0.3), ("bleu", 0.25))
    }
    register(tmp_path, "run-1", challenger=answers, bundle=write_parrot(tmp_path / "parrot", "I am here"))
    aiplatform.init(project="demo", location=FakeCloud.LOCATION)
    [evaluation] = aiplatform.Model(f"{MODEL}@champion").list_model_evaluations()
    assert evaluation.metrics == {"bleu": 25.0}


def test_an_unknown_model_is_one_message_that_names_the_known_ones(
    on_vertex: FakeCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(tmp_path, "run-1")

    with pytest.raises(SystemExit) as ended:
        main(["promote", "mood"])

    assert ended.value.code == 2
    assert "model: found 'mood', expected one of moods." in capsys.readouterr().err


def test_a_run_is_refused_before_it_begins_for_a_registry_that_no_uri_names(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAUNTLET_REGISTRY", "vertex://demo")

    with pytest.raises(SystemExit) as ended:
        main(["run", "manifests/emotion_sample.yaml"])

    assert ended.value.code == 2
    assert "registry URI: found 'vertex://demo'" in capsys.readouterr().err
    assert not (own_home / "runs").exists()


def test_a_champion_in_a_bucket_is_scored_from_a_copy(on_vertex: FakeCloud, tmp_path: Path) -> None:
    register(tmp_path, "run-1")
    champion = open_registry(URI).champion(MODEL)
    assert champion is not None

    outcome = score_champion(champion, LABELS, TEXTS)

    assert isinstance(outcome, ChampionPredictions)
    assert outcome.predicted.argmax(axis=1).tolist() == [label for _, label in ROWS]


def test_a_champion_that_is_gone_is_a_failure_of_it_and_a_bucket_out_of_reach_is_none(
    on_vertex: FakeCloud, tmp_path: Path
) -> None:
    register(tmp_path, "run-1")
    champion = open_registry(URI).champion(MODEL)
    assert champion is not None

    on_vertex.bucket.objects.clear()
    outcome = score_champion(champion, LABELS, TEXTS)
    assert isinstance(outcome, ChampionFailure)
    assert "cannot be read: gs://bucket/gauntlet/models/moods/" in outcome.reason

    with pytest.raises(GauntletError, match="cannot be reached"):
        score_champion(replace(champion, bundle_uri="http://127.0.0.1:1/bundle"), LABELS, TEXTS)


def main_quietly(arguments: list[str]) -> None:
    """Run a command that must succeed."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
