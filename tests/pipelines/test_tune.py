"""`gauntlet tune` on a tiny encoder: whole studies, with processes that are really stopped and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.tuning import run as workers
from gauntlet.pipelines.tuning.run import alone, duration
from gauntlet.trainer.tuning.study import best_trial, finished_trials, open_study
from tests.conftest import LABELS, class_rows
from tests.pipelines.test_cli import gauntlet

pytestmark = pytest.mark.usefixtures("warm_processes")
SEARCH = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "epochs": {"low": 2, "high": 3},
    "schedule": {"choices": ["linear", "cosine"]},
}


@pytest.fixture
def manifest(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "200")
    class_rows(80).to_csv(tmp_path / "moods.csv", index=False)
    content = {
        "name": "moods",
        "description": "Three moods",
        "task": "text_classification",
        "seed": 3,
        "dataset": {
            "name": "moods",
            "version": "1",
            "uri": "moods.csv",
            "labels": list(LABELS),
            "checks": {"unknown_tokens": {"severity": "warn"}},
        },
        "training": {
            "encoder": str(tiny_encoder),
            "max_length": 16,
            "learning_rate": 1e-3,
            "epochs": 2,
            "search": SEARCH,
        },
        "gates": {"min_macro_f1": 0.5},
    }
    path = tmp_path / "moods.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def trials_of(home: Path) -> list[str]:
    """The states of all trials of the one study."""
    from optuna.storages import RDBStorage

    [study] = RDBStorage(f"sqlite:///{home}/tuning/moods/study.db").get_all_studies()
    return [
        trial.state.name
        for trial in open_study(home / "tuning" / "moods" / "study.db", study.study_name).get_trials()
    ]


def with_values(manifest: Manifest, values: dict[str, Any]) -> Manifest:
    training = manifest.training.model_copy(update=values | {"search": None})
    return manifest.model_copy(update={"training": training})


def test_a_study_of_parallel_processes_ends_with_a_picture_and_a_tuned_manifest(
    manifest: Path, own_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = tmp_path / "tuned" / "best.yaml"
    arguments = ("tune", str(manifest), "--set", "training.dropout=0.2", "--output", str(best))
    assert gauntlet(*arguments, "--trials", "4", "--jobs", "2") == 0
    said = capsys.readouterr().out
    assert trials_of(own_home) == ["COMPLETE"] * 4
    assert [line.split()[0] for line in said.splitlines() if "/4 " in line] == ["1/4", "2/4", "3/4", "4/4"]
    assert "4 trials × 4 h × 0.2185 USD/h = 3.50 USD" in said  # n1-standard-4 for the default four hours
    assert f"gauntlet run {best}" in said

    folder = own_home / "tuning" / "moods"
    [study] = {name for line in said.splitlines() if line.startswith("study ") for name in line.split()[1:]}
    winner = best_trial(finished_trials(open_study(folder / "study.db", study)))
    assert winner is not None
    assert f"macro_f1 {winner.score:.4f}." in best.read_text().splitlines()[1]
    tuned = load_manifest(best)
    given = load_manifest(manifest, ["training.dropout=0.2"])
    assert set(winner.values) == set(SEARCH)
    assert tuned == with_values(given, winner.values)
    assert f"Study {study}, trial {winner.number}" in best.read_text().splitlines()[1]
    assert (folder / "study.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (folder / "splits").iterdir()} == {
        "train.parquet",
        "validation.parquet",
        "statistics.json",
        "training_rows.npz",  # hashes of rows
        "test_rows.npz",
    }

    assert gauntlet(*arguments, "--trials", "4") == 0  # nothing is left to do
    assert "4 of 4 trials are finished already" in capsys.readouterr().out
    assert trials_of(own_home) == ["COMPLETE"] * 4


def until_a_trial_has_ended(manifest: Path, number: signal.Signals) -> tuple[int, str, str]:
    """Tune, and send the command a signal when its first trial has ended: its exit code and what it said."""
    command = [sys.executable, "-m", "gauntlet.pipelines.cli", "tune", str(manifest), "--trials", "30"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "/30  trial" in line:
                break
        os.kill(process.pid, number)
        return process.wait(), "".join(said), process.stderr.read()


def test_a_study_that_was_killed_goes_on_and_one_that_was_stopped_says_what_is_kept(
    manifest: Path, own_home: Path
) -> None:
    code, *_ = until_a_trial_has_ended(manifest, signal.SIGKILL)
    assert code == -signal.SIGKILL
    with alone(own_home / "tuning" / "moods"):  # the killed command's process has ended by itself
        states = trials_of(own_home)
    lost = states.count("RUNNING")  # none, had it been killed in the instant between two trials
    kept = len(states) - lost
    code, said, errors = until_a_trial_has_ended(manifest, signal.SIGINT)
    assert code == 130
    again = ", 1 interrupted and tried again" * lost
    assert f"{kept} of 30 trials are finished already{again}\n" in said
    assert f"{kept + 1}/30  trial" in said
    assert "of 30 trials are finished and kept; the same command continues." in errors
    assert len(errors.splitlines()) == 1
    states = trials_of(own_home)
    assert states.count("FAIL") == lost
    assert states.count("COMPLETE") + states.count("PRUNED") > kept


def test_two_commands_do_not_tune_the_same_system_at_once(
    manifest: Path,
    own_home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "SECONDS_FOR_OTHERS_TO_END", 0.0)
    with alone(own_home / "tuning" / "moods"):
        assert gauntlet("tune", str(manifest), "--trials", "1") == 2
    assert "another `gauntlet tune` is at work" in capsys.readouterr().err


def test_what_no_trial_could_be_run_with_is_one_message(
    manifest: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(manifest.read_text())
    content["training"]["encoder"] = "/no/such/encoder"
    manifest.write_text(yaml.safe_dump(content))
    assert gauntlet("tune", str(manifest), "--trials", "2") == 2
    message = capsys.readouterr().err
    assert "training.encoder" in message
    assert "Traceback" not in message
    assert not (own_home / "tuning" / "moods" / "best.yaml").exists()


def test_data_that_fails_a_check_is_not_tuned_on(
    manifest: Path, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("tune", str(manifest), "--set", "dataset.checks.rows_per_class.min_rows=1000") == 4
    assert "rows_per_class" in capsys.readouterr().err
    assert not (own_home / "tuning" / "moods" / "study.db").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--timeout", "90"), "such as 90s, 30m or 2h"),
        (("--set", "training.search=null"), "training.search"),
        (("--compile", "job.yaml"), "gs://BUCKET/FOLDER"),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(
    manifest: Path, own_home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert gauntlet("tune", str(manifest), *arguments) == 2
    assert words in capsys.readouterr().err
    assert not own_home.exists()


def test_the_study_compiles_to_a_vertex_job_beside_the_splits_that_it_reads(
    manifest: Path, own_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "job.yaml"
    packaged = "training.encoder=sentence-transformers/all-MiniLM-L6-v2"
    options = ("--compile", str(spec), "--staging", "gs://bucket/moods", "--trials", "8", "--jobs", "2")
    assert gauntlet("tune", str(manifest), "--set", packaged, *options) == 0
    said = capsys.readouterr().out
    splits = own_home / "tuning" / "moods" / "splits"
    assert f"gcloud storage cp {splits}/* gs://bucket/moods/splits/" in said
    assert f"--config={spec}" in said
    assert (splits / "train.parquet").is_file()
    assert not (splits / "test.parquet").exists()
    job = yaml.safe_load(spec.read_text())
    assert (job["maxTrialCount"], job["parallelTrialCount"]) == (8, 2)
    assert not (own_home / "tuning" / "moods" / "study.db").exists()


def test_a_timeout_has_its_unit() -> None:
    assert [duration(text) for text in ("90s", "30m", "1.5h")] == [90, 1800, 5400]


def test_a_study_whose_time_is_up_before_a_trial_says_so(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("tune", str(manifest), "--timeout", "0.000001s") == 1
    assert "Give it more time" in capsys.readouterr().err
