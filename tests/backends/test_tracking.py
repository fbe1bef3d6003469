from __future__ import annotations

import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gauntlet.backends.factory import open_tracking, require_tracking
from gauntlet.backends.local.mlflow_database import open_client
from gauntlet.manifests.errors import Preempted, UsageError


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("empty") / "gauntlet.db"
    open_client(database)
    return database


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(empty_database, tmp_path / "gauntlet.db"))


def uri(database: Path) -> str:
    return f"sqlite:///{database}"


def only_run(database: Path, experiment: str) -> Any:
    client = open_client(database)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len(found) == 1
    return found[0]


def test_a_run_is_recorded_with_its_parameters_metrics_files_and_status(database: Path) -> None:
    with open_tracking(uri(database), "emotion", "emotion-1", {"task": "text_classification"}) as run:
        run.log_params({"learning_rate": "0.0001", "early_stopping.metric": "macro_f1"})
        run.log_metrics({"macro_f1": 0.5, "loss": math.nan}, step=1)
        run.log_metrics({"macro_f1": 0.75}, step=2)
        run.log_text("curve.svg", "<svg/>")

    record = only_run(database, "emotion")
    assert (record.info.run_name, record.info.status) == ("emotion-1", "FINISHED")
    assert record.data.tags["task"] == "text_classification"
    assert record.data.params == {"learning_rate": "0.0001", "early_stopping.metric": "macro_f1"}
    history = open_client(database).get_metric_history(record.info.run_id, "macro_f1")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.75)]
    assert math.isnan(record.data.metrics["loss"])
    kept = list((database.parent / "artifacts" / "emotion").rglob("curve.svg"))
    assert [path.read_text() for path in kept] == ["<svg/>"]


def test_more_parameters_than_mlflow_takes_at_once_are_all_recorded(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = {f"key_{number}": str(number) for number in range(250)}

    with open_tracking(uri(database), "emotion", "run", {}) as run:
        run.log_params(params)

    assert only_run(database, "emotion").data.params == params
    assert capsys.readouterr().err == ""


def test_a_training_that_is_resumed_from_its_states_finishes_the_run_that_was_interrupted(
    database: Path,
) -> None:
    with (
        pytest.raises(Preempted),
        open_tracking(uri(database), "emotion", "first", {}, states="/runs/it's/states") as run,
    ):
        run.log_params({"learning_rate": "0.1", "max_hours": "1"})
        run.log_metrics({"loss": 2.0}, step=1)
        raise Preempted("SIGTERM")
    assert only_run(database, "emotion").info.status == "KILLED"

    with open_tracking(uri(database), "emotion", "second", {}, states="/runs/it's/states") as run:
        run.log_params({"learning_rate": "0.1", "max_hours": "2", "seed": "1"})
        run.log_metrics({"loss": 1.0}, step=2)

    record = only_run(database, "emotion")
    assert (record.info.run_name, record.info.status) == ("first", "FINISHED")
    assert record.data.params == {"learning_rate": "0.1", "max_hours": "1", "seed": "1"}
    history = open_client(database).get_metric_history(record.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 2.0), (2, 1.0)]


def test_trainings_without_states_and_finished_ones_are_tracked_as_runs_of_their_own(database: Path) -> None:
    for states in ("", "", "/states", "/states"):
        with open_tracking(uri(database), "emotion", "run", {}, states=states):
            pass

    client = open_client(database)
    assert len(client.search_runs([client.get_experiment_by_name("emotion").experiment_id])) == 4


def test_two_runs_share_an_experiment(database: Path) -> None:
    for name in ("first", "second"):
        with open_tracking(uri(database), "emotion", name, {}):
            pass

    client = open_client(database)
    runs = client.search_runs([client.get_experiment_by_name("emotion").experiment_id])
    assert {run.info.run_name for run in runs} == {"first", "second"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError, "FAILED"),
        (Preempted, "KILLED"),
        (KeyboardInterrupt, "KILLED"),
        (SystemExit, "KILLED"),
    ],
)
def test_a_run_that_raises_is_ended_with_its_status_and_the_exception_goes_on(
    database: Path, error: type[BaseException], status: str
) -> None:
    with pytest.raises(error), open_tracking(uri(database), "emotion", "run", {}):
        raise error

    assert only_run(database, "emotion").info.status == status


def train_tracked(tracking_uri: str) -> str:
    """What a training run does with its tracker, and something after it."""
    with open_tracking(tracking_uri, "emotion", "run", {}) as run:
        run.log_params({"epochs": "1"})
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_text("curve.svg", "<svg/>")
    return "trained"


def test_a_damaged_database_costs_one_warning_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gauntlet.db").write_text("not a database " * 200)

    assert train_tracked(uri(tmp_path / "gauntlet.db")) == "trained"

    err = capsys.readouterr().err
    assert err.startswith("warning: tracking with MLflow stopped: ")
    assert "gauntlet.db: file is not a database" in err
    assert err.count("\n") == 1


def test_a_folder_that_cannot_be_written_costs_one_warning_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    assert train_tracked(uri(tmp_path / "file" / "gauntlet.db")) == "trained"

    err = capsys.readouterr().err
    assert "file/gauntlet.db.lock: cannot be written" in err
    assert err.count("\n") == 1


def test_a_database_that_breaks_half_way_costs_one_warning_and_keeps_what_was_tracked(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_tracking(uri(database), "emotion", "run", {}) as run:
        run.log_params({"epochs": "2"})
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("ALTER TABLE metrics RENAME TO gone")
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_metrics({"loss": 0.5}, step=2)

    err = capsys.readouterr().err
    assert "gauntlet.db: no such table: metrics." in err
    assert err.count("\n") == 1
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("ALTER TABLE gone RENAME TO metrics")
    assert only_run(database, "emotion").data.params == {"epochs": "2"}


def test_a_file_that_cannot_be_kept_costs_a_warning_and_not_the_run(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (database.parent / "artifacts").write_text("a file where the folder should be")

    assert train_tracked(uri(database)) == "trained"

    err = capsys.readouterr().err
    assert err.startswith("warning: tracking with MLflow stopped: ")
    assert err.count("\n") == 1


def test_an_epochs_metrics_can_be_seen_at_once_and_so_can_the_steps_before_it(database: Path) -> None:
    client = open_client(database)
    with open_tracking(uri(database), "emotion", "run", {}) as run:
        run.log_metrics({"step/loss": 1.0}, 1)
        assert only_run(database, "emotion").data.metrics == {}
        run.log_metrics({"macro_f1": 0.5}, 1)
        assert only_run(database, "emotion").data.metrics == {"step/loss": 1.0, "macro_f1": 0.5}
        assert client.get_run(only_run(database, "emotion").info.run_id).info.status == "RUNNING"


def test_metrics_of_every_step_are_written_in_few_batches_and_none_is_lost(database: Path) -> None:
    client = open_client(database)
    with open_tracking(uri(database), "emotion", "run", {}) as run:
        for step in range(1, 1201):
            run.log_metrics({"step/loss": 1 / step, "step/learning_rate": 1e-4}, step)

    record = only_run(database, "emotion")
    history = client.get_metric_history(record.info.run_id, "step/loss")
    assert sorted((metric.step, metric.value) for metric in history) == [
        (step, 1 / step) for step in range(1, 1201)
    ]
    assert len(client.get_metric_history(record.info.run_id, "step/learning_rate")) == 1200


def test_without_a_uri_nothing_is_tracked_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert train_tracked("") == "trained"

    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_a_tracker_of_an_unknown_kind_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match=r"tracking URI: found 'https://mlflow\.example'.*sqlite:///"):
        open_tracking("https://mlflow.example", "emotion", "run", {})
    with pytest.raises(UsageError, match=r"tracking URI: found 'https://mlflow\.example'.*mlflow\+https"):
        require_tracking("https://mlflow.example")


@pytest.mark.parametrize(
    "uri", ["", "sqlite:////tmp/gauntlet.db", "mlflow+https://mlflow.example", "vertex://demo/europe-west4"]
)
def test_every_kind_of_tracking_uri_that_can_be_opened_is_accepted(uri: str) -> None:
    require_tracking(uri)
