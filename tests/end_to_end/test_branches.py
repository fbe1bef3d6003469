"""The branches of the DAG, each by the command that a user types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from gauntlet.backends.factory import open_registry
from tests.conftest import class_rows
from tests.end_to_end.conftest import System

# One step at a tiny rate leaves the encoder as good as untrained.
pytestmark = pytest.mark.usefixtures("warm_processes")
WEAK = ("training.epochs=1", "training.learning_rate=1.0e-6")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def champion(system: System):
    return open_registry(system.home.store_uri).champion("tiny")


def test_a_first_run_promotes_a_better_model_replaces_it_and_a_worse_one_does_not(
    make_system: Callable[..., System],
) -> None:
    system = make_system()

    first = system.run(*WEAK, "training.resources.notify_at=1.0e-9")
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count("train-model: warning: the training's budget is running out") == 1
    first_champion = champion(system)
    assert (first_champion.version, first_champion.aliases) == ("1", ("champion",))
    scores = read(system.steps() / "evaluate-model" / "scores")
    assert "champion" not in scores

    second = system.run()
    assert second.returncode == 0, second.stdout + second.stderr
    scores = read(system.steps() / "evaluate-model" / "scores")
    assert scores["champion"]["version"] == "1"
    assert scores["challenger"]["macro_f1"] > scores["champion"]["macro_f1"] + 0.2
    assert champion(system).version == "2"
    assert open_registry(system.home.store_uri).by_alias("tiny", "previous").version == "1"

    third = system.run(*WEAK, "seed=2")
    assert third.returncode == 3, third.stdout + third.stderr
    verdict = read(system.steps() / "gate-model" / "verdict")
    failed = {rule["rule"] for rule in verdict["rules"] if rule["verdict"] == "fail"}
    assert verdict["decision"] == "reject"
    assert "non_inferiority" in failed
    assert "Rejected by" in third.stdout
    assert not (system.steps() / "register-model").exists()
    assert champion(system).version == "2"
    assert len(open_registry(system.home.store_uri).versions("tiny")) == 2

    assert_commands_show_it(system)

    judged = system.gauntlet("gate", "latest", "--set", "gates.non_inferiority_margin=1")
    assert "train-model: reused from" in judged.stdout, judged.stderr
    verdict = read(system.steps() / "gate-model" / "verdict")
    [margin] = [rule for rule in verdict["rules"] if rule["rule"] == "non_inferiority"]
    assert (margin["bound"], margin["verdict"]) == (-1, "pass")
    refused = system.gauntlet("gate", "latest", "--set", "training.epochs=2")
    assert refused.returncode == 2
    assert "--set training: the run's model was made with another value" in refused.stderr


def assert_commands_show_it(system: System) -> None:
    """`runs`, `compare`, `report`, `registry`, `predict`, `rollback`, `promote` on what the runs left."""
    weak, strong = sorted(record.run_id for record in system.home.runs())[:2]
    compared = system.gauntlet("compare", weak, strong).stdout
    assert "B is better: macro-F1 +" in compared
    assert "training.learning_rate" in compared
    runs = system.gauntlet("runs").stdout
    assert runs.count("Promoted") == 2
    assert runs.count("Rejected") == 1
    report = system.gauntlet("report", "latest").stdout.strip()
    page = Path(report).read_text(encoding="utf-8")
    assert "Rejected" in page
    assert "nothing was bought" in page
    assert "<script" not in page
    assert "champion" in system.gauntlet("registry").stdout
    predicted = system.gauntlet("predict", "sunny cheer dance gift")
    assert "glad" in predicted.stdout, predicted.stderr
    assert "1 is champion" in system.gauntlet("rollback", "tiny").stdout
    assert "2 is champion" in system.gauntlet("promote", "--version", "2").stdout
    assert champion(system).version == "2"


def test_data_with_rows_shared_by_two_splits_stops_before_training(
    make_system: Callable[..., System],
) -> None:
    frame = class_rows(60)
    system = make_system(pd.concat([frame, frame.head(9)]))
    refused = system.run()
    assert refused.returncode == 4
    assert "exact_duplicates" in refused.stdout
    assert "quiet lake" in refused.stdout, "an example of the rows affected"
    assert not (system.steps() / "train-model").exists()
    assert not (system.steps() / "validate-data" / "splits").exists()
    report = Path(system.gauntlet("report", "latest").stdout.strip()).read_text(encoding="utf-8")
    assert "Data refused" in report


def test_a_manual_promotion_leaves_the_champion_alone(make_system: Callable[..., System]) -> None:
    system = make_system()
    passed = system.gauntlet("run", str(system.manifest), "--quiet", "--set", "registration.promotion=manual")
    assert passed.returncode == 0, passed.stdout
    assert "train-model" not in passed.stdout
    assert "report: " in passed.stdout
    assert champion(system) is None
    assert "challenger" in system.gauntlet("registry").stdout
    assert system.gauntlet("predict", "sunny").returncode == 2
    assert "version 1" in system.gauntlet("predict", "--alias", "challenger", "sunny").stdout
    assert system.gauntlet("promote").returncode == 0
    assert champion(system).version == "1"


def test_a_step_that_dies_fails_the_run_and_says_where(
    make_system: Callable[..., System], tiny_encoder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_encoder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    system = make_system()
    died = system.run(f"training.encoder={broken}")
    assert died.returncode == 1
    assert "Failed in train-model" in died.stdout
    assert not (system.steps() / "convert-to-onnx").exists()
    log = system.home.run_folder(system.home.find_run("latest").run_id) / "logs" / "train-model.log"
    assert "Traceback" in log.read_text()
    assert "Traceback" not in died.stdout + died.stderr


def test_a_disk_that_fills_up_while_training_fails_the_run_with_one_message(
    make_system: Callable[..., System],
) -> None:
    system = make_system()
    full = system.run(
        file_size_limit=100_000
    )  # bytes: less than the weights, more than everything before them
    assert full.returncode == 1, full.stdout + full.stderr
    assert "Failed in train-model" in full.stdout
    assert "the weights could not be written" in full.stdout
    assert "Traceback" not in full.stdout + full.stderr
    assert not list(system.steps().glob("train-model/checkpoint*"))


@pytest.mark.parametrize("mistake", ["training.epochs=0", "training.resources.max_cost_usd=0.01"])
def test_a_run_that_cannot_work_is_refused_before_anything_is_written(
    make_system: Callable[..., System], mistake: str
) -> None:
    system = make_system()
    refused = system.run(mistake)
    assert refused.returncode == 2
    assert "training." in refused.stderr
    assert not system.home.folder.exists()
