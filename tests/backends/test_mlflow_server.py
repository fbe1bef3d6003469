"""Registry and tracking on a real `mlflow server` on loopback."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gauntlet.backends.factory import bundle_folder, open_registry, open_tracking
from gauntlet.backends.local.mlflow_server import (
    BUNDLE_FOLDER,
    EXPERIMENT,
    MlflowServer,
    MlflowServerRegistry,
)
from gauntlet.components.check_services.run import run as check_services
from gauntlet.components.register_model.run import run as register_model
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.pipelines.cli import main
from gauntlet.serving.bundle import BUNDLE_FILE, file_sha256, read_info
from gauntlet.tasks.classification.evaluation import ChampionFailure, ChampionPredictions, score_champion
from tests.components.evaluate_model.test_evaluation_run import HAPPY, LABELS, ROWS, TEXTS, make_bundle
from tests.fakes.mlflow_server import LoopbackMlflow

SCORED = {"accuracy": 0.75, "macro_f1": 0.733333, "confusion": [[1, 1], [0, 2]]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackMlflow]:
    with LoopbackMlflow(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A name of the test's own: all share one server."""
    return request.node.name.removeprefix("test_")[:40].rstrip("_")


def client(server: LoopbackMlflow) -> Any:
    return MlflowServer(server.uri, "server").client


def bundle(folder: Path, number: int = 1) -> Path:
    return make_bundle(folder / f"bundle-{number}", HAPPY, weight=2.0 + number)


def run_id_of(bundle_uri: str) -> str:
    return bundle_uri.rpartition("?run=")[2]


# --- what a registry does ---


def test_a_bundle_is_registered_once_and_comes_back_as_it_was(
    server: LoopbackMlflow, model: str, tmp_path: Path
) -> None:
    registry = open_registry(server.uri + "/")
    assert registry.champion(model) is None
    made = bundle(tmp_path)

    first = registry.register(model, made, {"run_id": "r1", "macro_f1": "0.9"}, {"champion": None})
    again = open_registry(server.uri).register(model, made, {"run_id": "r1"}, {"champion": None})

    assert again == first
    assert (first.version, first.aliases) == ("1", ("challenger",))
    sha256 = file_sha256(made / BUNDLE_FILE)
    assert first.tags["bundle_sha256"] == sha256
    assert first.tags["macro_f1"] == "0.9"
    assert registry.evidence(first) == {"champion": None}
    assert model in registry.names()
    assert registry.champion(model) is None
    with bundle_folder(first) as folder:
        assert read_info(folder, sha256) == read_info(made)
        assert {path.name for path in folder.iterdir()} == {path.name for path in made.iterdir()}


def test_promoting_and_rolling_back_move_the_aliases(
    server: LoopbackMlflow, model: str, tmp_path: Path
) -> None:
    registry = open_registry(server.uri)
    for number in (1, 2):
        registry.register(model, bundle(tmp_path, number), {"run_id": f"r{number}"})
        assert registry.promote(model).moved
    assert not registry.promote(model, "2").moved
    assert {v.version: v.aliases for v in registry.versions(model)} == {
        "2": ("champion",),
        "1": ("previous",),
    }

    assert str(registry.rollback(model)) == f"{model} 1 is champion, 2 is previous"
    assert str(registry.rollback(model, "2")) == f"{model} 2 is champion, 1 is previous"
    assert "gauntlet.move" not in client(server).get_registered_model(model).tags


def test_a_challenger_compared_with_another_champion_is_not_promoted(
    server: LoopbackMlflow, model: str, tmp_path: Path
) -> None:
    registry = open_registry(server.uri)
    for number in (1, 2, 3):
        registry.register(model, bundle(tmp_path, number), {"run_id": f"r{number}"})
    registry.promote(model, "2")
    with pytest.raises(GauntletError, match=r"compared with champion 1, but the champion is 2 by now"):
        registry.promote(model, "3", compared_with="1")


def test_a_champion_that_another_process_set_during_a_promotion_is_an_error(
    server: LoopbackMlflow, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = open_registry(server.uri)
    for number in (1, 2):
        registry.register(model, bundle(tmp_path, number), {"run_id": f"r{number}"})
    finish = MlflowServerRegistry._finish_move

    def overtaken(self: MlflowServerRegistry, name: str) -> str | None:
        kind = finish(self, name)
        if kind is not None:
            client(server).set_registered_model_alias(name, "champion", "2")
        return kind

    monkeypatch.setattr(MlflowServerRegistry, "_finish_move", overtaken)
    with pytest.raises(GauntletError, match=r"another process made version 2 champion while version 1 was"):
        registry.promote(model, "1")


def test_an_upload_that_was_cut_short_is_finished_in_the_same_run(
    server: LoopbackMlflow, model: str, tmp_path: Path
) -> None:
    made, registry = bundle(tmp_path, 11), open_registry(server.uri)
    sha256 = file_sha256(made / BUNDLE_FILE)
    mlflow = client(server)
    experiment = MlflowServer(server.uri, "server").experiment_id(EXPERIMENT)
    run = mlflow.create_run(experiment, tags={"gauntlet.bundle_sha256": sha256})
    mlflow.log_artifact(run.info.run_id, str(made / "model.onnx"), BUNDLE_FOLDER)

    version = registry.register(model, made, {"run_id": "r1"})

    assert run_id_of(version.bundle_uri) == run.info.run_id
    with bundle_folder(version) as folder:
        assert read_info(folder, sha256) == read_info(made)


def test_an_altered_or_incomplete_bundle_is_refused(
    server: LoopbackMlflow, model: str, tmp_path: Path
) -> None:
    registry, made = open_registry(server.uri), bundle(tmp_path, 21)
    version = registry.register(model, made, {"run_id": "r1"})
    altered = tmp_path / "model.onnx"
    altered.write_bytes(b"something else")
    client(server).log_artifact(run_id_of(version.bundle_uri), str(altered), BUNDLE_FOLDER)
    with pytest.raises(GauntletError, match=r"version 1 cannot become champion: .*model\.onnx"):
        registry.promote(model)

    (made / "model.onnx").write_bytes(b"something else")
    with pytest.raises(GauntletError, match=r"Convert the model again"):
        registry.register(model, made, {"run_id": "r2"})


def test_a_champion_whose_bundle_is_gone_is_a_failure_of_the_champion(
    server: LoopbackMlflow, model: str, tmp_path: Path
) -> None:
    registry = open_registry(server.uri)
    registry.register(model, bundle(tmp_path, 31), {"run_id": "r1"})
    champion = registry.promote(model).champion
    scored = score_champion(champion, LABELS, TEXTS)
    assert isinstance(scored, ChampionPredictions)
    assert scored.predicted.argmax(axis=1).tolist() == [label for _, label in ROWS]

    for file in server.artifacts.rglob(f"{run_id_of(champion.bundle_uri)}/artifacts/{BUNDLE_FOLDER}/*"):
        file.unlink()
    gone = score_champion(champion, LABELS, TEXTS)
    assert isinstance(gone, ChampionFailure)
    assert "the server has no such bundle" in gone.reason


# --- the commands ---


def test_what_a_run_registers_can_be_listed_rolled_back_promoted_and_asked(
    server: LoopbackMlflow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GAUNTLET_REGISTRY", server.uri)
    for number, champion in ((1, None), (2, "1")):
        scores, verdict = tmp_path / "scores", tmp_path / "verdict"
        compared = {"champion": {"version": champion}} if champion else {}
        scores.write_text(json.dumps({"labels": LABELS, "challenger": SCORED, **compared}))
        verdict.write_text(json.dumps({"decision": "promote"}))
        register_model(
            section={"promotion": "automatic"},
            name="moods",
            registry_uri=server.uri,
            manifest_sha256="b" * 64,
            run_id=f"run-{number}",
            bundle_path=str(bundle(tmp_path, number)),
            scores_path=str(scores),
            verdict_path=str(verdict),
            version_path=str(tmp_path / "version"),
        )
    capsys.readouterr()

    said = []
    for command in (
        ["registry", "--model", "moods"],
        ["rollback", "--model", "moods"],
        ["promote", "moods", "--version", "2"],
        ["predict", "so happy", "--model", "moods"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert not ended.value.code
        said.append(" ".join(capsys.readouterr().out.split()))

    since = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.search(rf"moods 2 champion {since} macro_f1 0.733333 run-2", said[0])
    assert re.search(rf"moods 1 previous {since} macro_f1 0.733333 run-1", said[0])
    assert re.search(rf"{since} 2 promote {since} 1 promote", said[0])
    assert said[1:3] == ["moods 1 is champion, 2 is previous", "moods 2 is champion, 1 is previous"]
    assert "so happy joy 0.982 moods version 2" in said[3]  # 1 / (1 + exp(-4))


# --- tracking ---


def test_a_training_is_tracked_with_the_run_of_the_pipeline_that_it_is_a_part_of(
    server: LoopbackMlflow,
) -> None:
    tags = {"task": "text_classification"}
    with open_tracking(server.uri, "tracked", "tracked-1", tags, pipeline_run="0cf1-77") as run:
        run.log_params({"learning_rate": "0.0001"})
        run.log_metrics({"macro_f1": 0.5}, step=1)
        run.log_metrics({"macro_f1": 0.75}, step=2)
        run.log_text("curve.svg", "<svg/>")

    mlflow = client(server)
    [record] = mlflow.search_runs([mlflow.get_experiment_by_name("tracked").experiment_id])
    assert (record.info.run_name, record.info.status) == ("tracked-1", "FINISHED")
    assert record.data.params == {"learning_rate": "0.0001"}
    assert record.data.tags.items() >= {"task": "text_classification", "pipeline_run": "0cf1-77"}.items()
    history = mlflow.get_metric_history(record.info.run_id, "macro_f1")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.75)]
    assert [file.path for file in mlflow.list_artifacts(record.info.run_id)] == ["curve.svg"]


# --- before training is paid for ---


def test_the_step_before_training_says_which_champion_the_server_has(
    server: LoopbackMlflow, model: str, tmp_path: Path
) -> None:
    registry = open_registry(server.uri)
    registry.register(model, bundle(tmp_path, 41), {"run_id": "r1"})
    for found in ("no champion yet", "champion 1"):
        check_services(model, server.uri, server.uri, tmp_path / "checked")
        assert (tmp_path / "checked").read_text() == f"{server.uri}: {model} has {found}\n"
        registry.promote(model, "1")


def test_a_server_that_is_not_there_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = "mlflow+http://127.0.0.1:9"
    with pytest.raises(GauntletError, match=rf"^{nowhere.replace('+', '.')}: .*Check that the server"):
        check_services("emotion", nowhere, "", tmp_path / "checked")
    assert list(tmp_path.iterdir()) == []

    with open_tracking(nowhere, "emotion", "emotion-1", {}) as run:
        run.log_metrics({"macro_f1": 0.5}, step=1)
    assert "warning: tracking with MLflow stopped" in capsys.readouterr().err


class Refusing(BaseHTTPRequestHandler):
    """A proxy that lets nobody in, and remembers who asked."""

    asked: list[str | None]

    def do_GET(self) -> None:
        self.asked.append(self.headers["Authorization"])
        self.send_error(401)

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_refuses_says_which_variables_to_set_and_gets_their_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
    Refusing.asked = []
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        with pytest.raises(UsageError, match=r"refuses this account.*MLFLOW_TRACKING_TOKEN"):
            open_registry(f"mlflow+http://127.0.0.1:{proxy.server_port}/behind/it").champion("emotion")
    finally:
        proxy.shutdown()
        proxy.server_close()
    assert Refusing.asked == ["Bearer a-token"]


@pytest.mark.parametrize(
    "uri",
    [
        "mlflow+https://",
        "mlflow+https://host?x=1",
        "mlflow+https://host#x",
        "mlflow+https://host:port",
        "mlflow+https://host:0",
        "mlflow+https://[::1",
    ],
)
def test_a_uri_that_names_no_server_is_refused_before_anything_runs(uri: str) -> None:
    for opened in (lambda: open_registry(uri), lambda: open_tracking(uri, "emotion", "run", {})):
        with pytest.raises(UsageError, match=r"expected mlflow\+https://HOST\[:PORT\]\[/PATH\]"):
            opened()


def test_a_password_does_not_belong_in_the_uri_and_is_not_repeated() -> None:
    with pytest.raises(UsageError, match="MLFLOW_TRACKING_USERNAME") as refused:
        open_registry("mlflow+https://ann:secret@host")
    assert "secret" not in str(refused.value)


# --- in a pod ---


def test_in_a_pod_of_kubeflow_a_database_on_its_own_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "sqlite:////tmp/gauntlet.db"
    open_registry(uri)
    open_tracking(uri, "emotion", "run", {})
    monkeypatch.setenv("GAUNTLET_PLATFORM", "kubeflow")
    with pytest.raises(UsageError, match=r"registry URI: .*deleted with this pod.*mlflow\+https://HOST"):
        open_registry(uri)
    with pytest.raises(UsageError, match=r"tracking URI: .*deleted with this pod.*mlflow\+https://HOST"):
        open_tracking(uri, "emotion", "run", {})
    open_registry("mlflow+https://mlflow.example.com")
    open_tracking("", "emotion", "run", {})
