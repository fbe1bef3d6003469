"""A person promotes a model that the gate rejected; the registry and the page say who did and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gauntlet.backends.factory import open_registry
from gauntlet.backends.local.mlflow_database import open_client
from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.cli import app
from gauntlet.pipelines.home import Home
from tests.components.register_model.test_register_run import MODEL, Step


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("empty") / "gauntlet.db"
    open_client(database)
    return database


@pytest.fixture
def home(own_home: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("COLUMNS", "200")
    own_home.mkdir()
    shutil.copyfile(empty_database, own_home / "gauntlet.db")
    return Home(own_home)


def judged_run(home: Home, decision: str) -> str:
    """A finished run whose gate has decided."""
    record = home.create_run(MODEL)
    folder = home.run_folder(record.run_id)
    job = folder / "steps" / f"{MODEL}-2026-11-21-09-00-00-000000"
    step = Step(job / "convert-to-onnx", record.run_id, decision)
    rules = [
        {"rule": "speedup", "verdict": "fail", "value": 0.9, "bound": 1.5, "operator": ">=", "note": "Times"}
    ]
    step.verdict.write_text(json.dumps({"decision": decision, "reasons": ["too slow"], "rules": rules}))
    for file, where in ((step.scores, "evaluate-model"), (step.verdict, "gate-model")):
        (job / where).mkdir()
        file.rename(job / where / file.name)
    for name in ("convert-to-onnx", "evaluate-model", "gate-model"):
        (job / name / "executor_output.json").write_text("{}")
    (folder / "arguments.json").write_text(
        json.dumps({"task": "text_classification", "manifest_sha256": "a" * 64})
    )
    home.finish(record, "finished", 3, "Rejected by speed-up")
    return record.run_id


def test_a_rejected_model_is_promoted_in_the_name_of_a_person_who_says_why(home: Home) -> None:
    run = judged_run(home, "reject")
    approval = ["--by", "Ada L.", "--reason", "the machine was [busy]"]

    for _ in range(2):  # done again, it finds what is done
        done = CliRunner().invoke(app, ["promote", MODEL, "--run", run, *approval])
        assert done.exit_code == 0, done.exception

    [version] = open_registry(home.store_uri).versions(MODEL)
    assert version.aliases == ("champion",)
    found = [version.tags[tag] for tag in ("approved_by", "promotion_reason", "overruled", "run_id")]
    assert found == ["Ada L.", "the machine was [busy]", "speedup", run]
    listed = CliRunner().invoke(app, ["registry", MODEL]).output
    assert "the machine was [busy] (the gate had rejected it for speedup)" in listed
    record = home.find_run(run)
    assert (record.exit_code, record.outcome) == (0, "Rejected by speed-up, then promoted by Ada L.")
    page = (home.run_folder(run) / "report.html").read_text()
    assert "Rejected by speed-up, then promoted by Ada L." in page
    assert "the machine was [busy]" in page


@pytest.mark.parametrize(
    ("decision", "options", "words"),
    [
        ("reject", ["--by", "Ada"], "with --by NAME and --reason TEXT"),
        ("reject", ["--reason", "it is fine"], "Add --by NAME"),
        ("reject", ["--by", "Ada", "--reason", "fine", "--version", "1"], "without --version"),
        ("reject", ["--by", "Ada", "--reason", "two\nlines"], "without control characters"),
        ("promote", ["--by", "Ada", "--reason", "fine"], "its model passed the gate"),
    ],
)
def test_without_a_name_and_a_reason_or_without_a_rejection_nothing_is_registered(
    home: Home, decision: str, options: list[str], words: str
) -> None:
    refused = CliRunner().invoke(app, ["promote", MODEL, "--run", judged_run(home, decision), *options])
    assert isinstance(refused.exception, UsageError)
    assert words in str(refused.exception)
    assert open_registry(home.store_uri).names() == []


def test_the_champions_own_bundle_is_champion_already_and_its_page_stays(home: Home) -> None:
    run = judged_run(home, "reject")
    bundle = next(home.run_folder(run).glob("steps/*/convert-to-onnx/bundle"))
    store = open_registry(home.store_uri)
    store.register(MODEL, bundle, {"run_id": "an earlier run"})
    store.promote(MODEL)
    done = CliRunner().invoke(app, ["promote", MODEL, "--run", run, "--by", "Ada", "--reason", "fine"])
    assert "1 is already champion: nothing to move" in done.output
    assert home.find_run(run).outcome == "Rejected by speed-up"


def test_a_run_that_never_reached_its_gate_has_no_model_to_promote(home: Home) -> None:
    run = home.create_run(MODEL).run_id
    options = ["--run", run, "--by", "Ada", "--reason", "fine"]
    refused = CliRunner().invoke(app, ["promote", MODEL, *options])
    assert "found no verdict of its gate" in str(refused.exception)


def test_rollback_takes_the_name_as_promote_does(home: Home) -> None:
    for _ in range(2):
        options = ["--run", judged_run(home, "reject"), "--by", "Ada", "--reason", "fine"]
        assert CliRunner().invoke(app, ["promote", MODEL, *options]).exit_code == 0
    assert "1 is champion" in CliRunner().invoke(app, ["rollback", MODEL]).output
    assert "2 is champion" in CliRunner().invoke(app, ["rollback", "--model", MODEL, "--version", "2"]).output
    lines = CliRunner().invoke(app, ["registry", MODEL]).output.splitlines()
    turns = [line.split()[2:4] for line in lines[lines.index("") + 2 :]]
    assert turns == [["2", "rollback"], ["1", "rollback"], ["2", "promote"], ["1", "promote"]]
