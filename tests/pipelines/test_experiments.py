"""`gauntlet ab` starts a test, reads outcomes, and promotes its winner by the gate and the rollout of all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gauntlet.backends import factory
from gauntlet.backends.deployment import Release
from gauntlet.backends.factory import open_registry
from gauntlet.backends.local.mlflow_database import open_client
from gauntlet.backends.registry import OVERRULED_TAG, Registry
from gauntlet.backends.rollouts import Records, open_records
from gauntlet.contracts.experiment import Experiment
from gauntlet.contracts.rollout import DeploymentRecord
from gauntlet.manifests.deployment import DeploymentSection
from gauntlet.pipelines.cli import main
from gauntlet.pipelines.home import gauntlet_home
from tests.fakes.deployment import Behaviour, MemoryDeployment
from tests.text_bundles import certified

MODEL = "moods"
TARGET = MemoryDeployment(MODEL)
PLAN = ("--metric", "clicked", "--minimal-effect", "0.05", "--maximum-n", "5000")
SETTINGS = DeploymentSection(target="local", steps=(10, 100), keep_previous_seconds=0).model_dump(
    mode="json", exclude_none=True
)
START = ("ab", "start", "--variant", "A=champion", "--variant", "B=2", *PLAN)


def opened(name: str, registry_uri: str, settings: Mapping[str, Any]) -> MemoryDeployment:
    """What the factory opens in place of the gateway."""
    assert (name, settings["target"]) == (MODEL, "local")
    return TARGET


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two versions; the first is champion, the gate had rejected the third."""
    home = tmp_path_factory.mktemp("registered")
    open_client(home / "gauntlet.db")
    registry = open_registry(f"sqlite:///{home / 'gauntlet.db'}")
    for number, more in (("1", {}), ("2", {}), ("3", {OVERRULED_TAG: "macro_f1"})):
        bundle = certified(home / f"source{number}", rows=int(number))
        registry.register(MODEL, bundle, {"run_id": number, **more})
    registry.promote(MODEL, "1")
    return home


@pytest.fixture
def registry(database: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setitem(factory.DEPLOYMENTS, "local", f"{__name__}:opened")
    monkeypatch.chdir(own_home.parent)
    shutil.copytree(database, own_home)
    registry = open_registry(f"sqlite:///{own_home / 'gauntlet.db'}")
    TARGET.__init__(MODEL)  # type: ignore[misc]
    for version in registry.versions(MODEL):
        TARGET.behaviours[version.tags["bundle_sha256"]] = Behaviour(seconds_to_start=0)  # no clock runs here
    champion = registry.champion(MODEL)
    assert champion is not None
    TARGET.start(Release(MODEL, "1", champion.bundle_uri, champion.tags["bundle_sha256"]))
    return registry


def gauntlet(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def records() -> Records:
    return open_records(MODEL, gauntlet_home().registry_uri)


def recorded() -> DeploymentRecord:
    record, _ = records().read()
    assert record is not None
    return record


def running() -> Experiment:
    found = recorded().experiment
    assert found is not None
    return found


def served() -> dict[str, int]:
    return {one.version: one.weight for one in TARGET.revisions.values() if one.weight}


def ask_and_answer(test: Experiment, home: Path, units: int, rates: tuple[float, float]) -> Path:
    """Requests as the gateway notes them, and what came of them."""
    random = np.random.default_rng(2)
    is_second = random.random(units) < 0.5
    lines, outcomes = ["request_id,time,revision,unit"], ["request_id,value"]
    for number, second in enumerate(is_second):
        revision = test.variants[int(second)].revision
        lines.append(f"r{number},2026-12-01T12:00:00.{number:06}+00:00,{revision},u{number}")
        outcomes.append(f"r{number},{int(random.random() < rates[int(second)])}")
    folder = home / "gateway" / "assignments"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{test.id}.csv").write_text("\n".join(lines) + "\n")
    (home / "outcomes.csv").write_text("\n".join(outcomes) + "\n")
    return home / "outcomes.csv"


def test_the_winner_of_a_test_becomes_champion_and_gets_all_requests(
    registry: Registry, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet(*START) == 0
    test = running()
    assert "A version 1 50 %, B version 2 50 %" in capsys.readouterr().out
    assert (test.state, test.alpha, test.metric, test.maximum_n) == ("running", 0.05, "clicked", 5000)
    assert served() == {"1": 50, "2": 50}
    assert TARGET.assignment is not None
    assert (TARGET.assignment.test, TARGET.assignment.salt) == (test.id, test.salt)
    assert (TARGET.assignment.header, TARGET.assignment.control) == ("X-Gauntlet-Key", "")
    record, generation = records().read()
    assert record is not None
    records().write(record.model_copy(update={"settings": SETTINGS}), generation)
    # Nobody has looked yet, so no winner is declared.
    assert gauntlet("ab", "stop", "--winner", "B") == 3
    assert "has not declared B the winner (nobody has looked at outcomes)" in capsys.readouterr().err
    assert gauntlet("ab", "stop", "--winner", "C") == 2
    assert "--winner: found C, expected one of A, B" in capsys.readouterr().err
    outcomes = ask_and_answer(test, own_home, 2000, (0.3, 0.5))
    assert gauntlet("ab", "status", "--outcomes", str(outcomes), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["analysis"]["decision"], found["analysis"]["winner"]) == ("winner", "B")
    assert "salt" not in found
    assert json.loads(Path("ab/ab.json").read_text()) == found
    page = Path("ab/ab.html").read_text()
    assert "B is better" in page
    assert "<svg" in page
    assert gauntlet("status", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [said] = [row["rollout"] for row in rows if row["version"] == "1"]
    assert said.startswith(f"A/B test {test.id}, variant A: winner: B is better: B - A is +0.")
    assert gauntlet("ab", "stop", "--winner", "A") == 3
    assert served() == {"1": 50, "2": 50}
    assert gauntlet("ab", "stop", "--winner", "B") == 0
    champion = registry.champion(MODEL)
    assert champion is not None
    assert champion.version == "2"
    assert served() == {"2": 100}
    assert TARGET.assignment is None
    record = recorded()
    assert record.rollout is not None
    assert (record.rollout.phase, record.rollout.previous_version) == ("done", "1")
    assert record.settings["steps"] == [10, 100]
    assert running().winner == "B"
    assert f"A/B test {test.id} ended by" in record.history[-2]
    capsys.readouterr()
    assert gauntlet("ab", "status") == 0
    assert "winner: B is better" in capsys.readouterr().out
    assert gauntlet("ab", "stop") == 2
    assert "no A/B test is going on; the last one ended at" in capsys.readouterr().err


def test_neither_a_second_test_nor_a_rollout_begins_beside_a_test(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    records().write(DeploymentRecord(model=MODEL, settings=SETTINGS), "")
    assert gauntlet(*START) == 0
    for second in (START, ("deploy", MODEL, "--version", "2")):
        assert gauntlet(*second) == 2
        said = f"the A/B test {running().id} is going on. End it first: `gauntlet ab stop {MODEL}`"
        assert said in capsys.readouterr().err
    assert gauntlet("ab", "stop") == 0
    TARGET.faults["evidence"] = [KeyboardInterrupt()]  # type: ignore[list-item]
    assert gauntlet(*("deploy", MODEL, "--version", "2")) == 130
    assert gauntlet(*START) == 2
    assert "the rollout of version 2 is not finished, it is in phase 'judge'" in capsys.readouterr().err


def test_without_a_winner_the_control_gets_all_requests(registry: Registry) -> None:
    assert gauntlet(*START, "--share", "20") == 0
    assert served() == {"1": 80, "2": 20}
    assert gauntlet("ab", "stop") == 0
    assert served() == {"1": 100}
    assert TARGET.assignment is None
    champion = registry.champion(MODEL)
    assert champion is not None
    assert champion.version == "1"
    assert running().state == "stopped"
    assert gauntlet(*START) == 0  # another one may begin
    assert gauntlet("rollback", MODEL, "--to", "1", "--reason", "complaints") == 0
    assert served() == {"1": 100}
    assert running().why == "rolled back: complaints"


def test_a_winner_that_its_gate_rejected_is_refused_and_nothing_changes(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("ab", "start", "--variant", "A=1", "--variant", "B=3", *PLAN) == 0
    assert gauntlet("ab", "stop", "--winner", "B", "--by", "ada", "--reason", "I like it") == 3
    assert "3: its gate rejected it for macro_f1" in capsys.readouterr().err
    assert served() == {"1": 50, "3": 50}
    assert running().state == "running"


def test_a_start_that_was_killed_is_replaced_by_the_next_one(registry: Registry) -> None:
    TARGET.faults["shift"] = [KeyboardInterrupt()]  # type: ignore[list-item]
    assert gauntlet(*START) == 130
    first = running()
    assert (first.state, served()) == ("starting", {"1": 100})
    assert gauntlet(*START) == 0
    assert running().id != first.id
    assert TARGET.assignment is not None
    assert TARGET.assignment.test == running().id


def test_a_stop_that_was_killed_before_the_traffic_was_moved_is_finished_by_the_next_one(
    registry: Registry,
) -> None:
    assert gauntlet(*START) == 0
    TARGET.faults["shift"] = [KeyboardInterrupt()]  # type: ignore[list-item]
    assert gauntlet(*("ab", "stop")) == 130
    assert (running().state, served()) == ("stopped", {"1": 50, "2": 50})
    assert gauntlet("ab", "stop") == 0
    assert served() == {"1": 100}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--variant", "A=1", "--variant", "B=1"), "found version 1, which is one bundle, expected two"),
        (("--variant", "A=1", "--variant", "B=staging"), "no version of moods has the alias staging"),
        (("--variant", "A=1", "--variant", "B=9"), "has no version '9', only 3, 2, 1"),
        (("--variant", "A=1"), "found A=1, expected two with different names"),
        (("--variant", "A", "--variant", "B=2"), "--variant: found 'A', expected NAME=ALIAS or NAME=VERSION"),
        (("--variant", "A=1", "--variant", "B=2", "--type", "bounded"), "found none with --type bounded"),
        (("--variant", "A=1", "--variant", "B=2", "--bounds", "0", "1"), "found 0 1 with --type binary"),
        (
            ("--variant", "A=1", "--variant", "B=2", "--type", "bounded", "--bounds", "3", "1"),
            "--bounds: found 3 1, expected two numbers, the lower one first",
        ),
        (("--variant", "A=1", "--variant", "B=2", "--minimal-effect", "1"), "a number over 0 and under 1"),
        (("--variant", "A=1", "--variant", "B=2", "--key-header", "a b"), "--key-header: found 'a b'"),
    ],
)  # fmt: skip
def test_a_start_that_cannot_be_is_refused_in_one_message(
    arguments: tuple[str, ...], said: str, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("ab", "start", *PLAN, *arguments) == 2
    assert said in capsys.readouterr().err
    assert served() == {"1": 100}
    assert records().read()[0] is None


def test_a_test_that_there_never_was_is_refused(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("status", "stop"):
        assert gauntlet("ab", command) == 2
        assert "moods: has had no A/B test. `gauntlet ab start` starts one" in capsys.readouterr().err
