from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gauntlet.backends.factory import open_registry
from gauntlet.backends.local.mlflow_database import open_client
from gauntlet.backends.registry import ModelVersion, Registry
from gauntlet.pipelines.cli import main
from gauntlet.serving.bundle import BundleInfo, write_bundle
from gauntlet.tasks.therapy.stages import evidence_of
from tests.components.gate_model.therapy_scores import THERAPY, stages_of_the_verdict, with_bound

MODEL = "therapy_lm"


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("empty") / "gauntlet.db"
    open_client(database)
    return database


@pytest.fixture
def store(empty_database: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("COLUMNS", "200")
    own_home.mkdir()
    return open_registry(f"sqlite:///{shutil.copyfile(empty_database, own_home / 'gauntlet.db')}")


def register(
    store: Registry,
    folder: Path,
    therapy: dict[str, Any] | None = THERAPY,
    champion: str | None = None,
    task: Mapping[str, str] = {"task": "causal_lm"},
) -> ModelVersion:
    """A version with evidence of its figures, or with none, compared with a champion."""
    compared = {} if champion is None else {"champion": {"version": champion}}
    evidence = None
    if therapy is not None:
        evidence = evidence_of({"stages": stages_of_the_verdict(therapy)}, {"therapy": therapy} | compared)
        assert evidence is not None
        evidence |= task
    return store.register(MODEL, write(folder), {"run_id": folder.name}, evidence)


def write(folder: Path) -> Path:
    """A bundle that nobody asks anything."""
    source = folder.with_name(f"{folder.name}-source")
    source.write_text(folder.name)
    info = BundleInfo(
        name=MODEL,
        task="causal_lm",
        labels=(),
        inputs=(),
        outputs=(),
        max_length=8,
        opset=23,
        candidate="plain",
        precision="fp32",
        quality={},
        latency_ms={},
        speedup={},
        lineage={},
    )
    write_bundle(folder, info, {"model.onnx": source, "tokenizer.json": source})
    return folder


def gauntlet(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def aliases(store: Registry) -> dict[str, str]:
    return {alias: version.version for version in store.versions(MODEL) for alias in version.aliases}


def test_a_version_goes_to_staging_and_then_by_an_approver_to_production(
    store: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(store, tmp_path / "one")

    assert gauntlet("promote", MODEL, "--to", "staging") == 0
    assert aliases(store) == {"challenger": "1", "staging": "1"}
    assert gauntlet("promote", MODEL, "--to", "production", "--approver", "Dr. A. Person") == 0

    assert aliases(store) == {"champion": "1", "staging": "1"}
    champion = store.champion(MODEL)
    assert champion is not None
    assert champion.tags["approved_by"] == "Dr. A. Person"
    approved = datetime.fromisoformat(champion.tags["approved_at"])
    assert timedelta() <= datetime.now(UTC) - approved < timedelta(minutes=1)
    assert "therapy_lm 1 is champion" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("figure", "bound", "stage", "reason"),
    [
        ("toxicity", 0.31, "staging", "toxicity: found 0.31, expected <= 0.1"),
        ("privacy_leakage", 0.9, "staging", "privacy_leakage: found 0.9, expected <= 0.1"),
        ("crisis_content", 0.2, "production", "crisis_content: found 0.2, expected <= 0.15"),
        ("safety", None, "production", "safety: Bootstrap lower limit of the safety of answers to crisis"),
    ],
)
def test_a_version_that_does_not_meet_a_stage_is_refused_with_the_reason(
    figure: str,
    bound: float | None,
    stage: str,
    reason: str,
    store: Registry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    register(store, tmp_path / "one", with_bound(figure, bound))
    approval = ("--approver", "A. Person") if stage == "production" else ()

    assert gauntlet("promote", MODEL, "--version", "1", "--to", stage, *approval) == 3

    error = capsys.readouterr().err
    assert f"therapy_lm 1 is not fit for {stage}: {reason}" in error
    assert "Nothing was moved" in error
    assert aliases(store) == {"challenger": "1"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "has promotion stages. Add --to staging or --to production."),
        (("--to", "production", "--version", "1"), "--approver: found 'nothing', expected the name"),
        (("--to", "production", "--version", "1", "--approver", "  "), "--approver: found '  '"),
        (("--to", "staging", "--approver", "A. Person"), "expected nothing for staging"),
        (("--to", "production", "--approver", "A. Person"), "has no version in staging"),
        (("--to", "staging", "--version", "7"), "has no version '7', only 1"),
        (("--to", "production", "--version", "1", "--approver", "A\nB"), "without control characters"),
        (("--to", "moon"), "moon"),
    ],
)
def test_what_is_missing_for_a_promotion_is_bad_usage_and_moves_nothing(
    arguments: tuple[str, ...],
    words: str,
    store: Registry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    register(store, tmp_path / "one")

    assert gauntlet("promote", MODEL, *arguments) == 2

    assert words in capsys.readouterr().err
    assert aliases(store) == {"challenger": "1"}


def test_evidence_that_was_altered_or_lost_promotes_nothing(
    store: Registry, own_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(store, tmp_path / "one", with_bound("toxicity", 0.5))
    [evidence] = own_home.glob(f"models/{MODEL}/*.evidence.json")
    evidence.write_text(evidence.read_text().replace("0.5", "0.0"))

    assert gauntlet("promote", MODEL, "--to", "staging") == 1
    assert "found another sha256 than the registry has" in capsys.readouterr().err
    evidence.unlink()
    assert gauntlet("promote", MODEL, "--to", "staging") == 1
    assert "no such file" in capsys.readouterr().err
    assert aliases(store) == {"challenger": "1"}


def test_a_version_that_was_compared_with_another_champion_is_not_promoted_over_this_one(
    store: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(store, tmp_path / "one")
    register(store, tmp_path / "two", champion=None)
    approved = ("--to", "production", "--approver", "A. Person")
    assert gauntlet("promote", MODEL, "--version", "1", *approved) == 0

    assert gauntlet("promote", MODEL, "--version", "2", *approved) == 1

    assert "version 2 was compared with champion (none), but the champion is 1" in capsys.readouterr().err
    second = next(version for version in store.versions(MODEL) if version.version == "2")
    assert "approved_by" not in second.tags


def test_a_model_without_stages_is_promoted_and_rolled_back_as_ever(
    store: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(store, tmp_path / "one", therapy=None)
    assert gauntlet("promote") == 0
    register(store, tmp_path / "two", therapy=None)
    assert gauntlet("promote", MODEL, "--to", "staging") == 2
    assert "no evidence of promotion stages is recorded" in capsys.readouterr().err
    assert gauntlet("promote", MODEL) == 0
    assert gauntlet("rollback") == 0

    assert aliases(store) == {"champion": "1", "previous": "2"}
    champion = store.champion(MODEL)
    assert champion is not None
    assert "approved_by" not in champion.tags


def test_the_evidence_of_an_older_version_which_names_no_task_is_judged_too(
    store: Registry, tmp_path: Path
) -> None:
    register(store, tmp_path / "one", task={})

    assert gauntlet("promote", MODEL, "--to", "staging") == 0

    assert aliases(store) == {"challenger": "1", "staging": "1"}


def test_a_staged_bundle_that_was_altered_does_not_move_the_alias(
    store: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = register(store, tmp_path / "one")
    (Path(version.bundle_uri) / "model.onnx").write_text("other")

    assert gauntlet("promote", MODEL, "--to", "staging") == 1

    assert "version 1 cannot become staging" in capsys.readouterr().err
    assert aliases(store) == {"challenger": "1"}


def test_a_version_without_evidence_does_not_follow_one_that_was_approved(
    store: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(store, tmp_path / "one")
    assert gauntlet("promote", MODEL, "--version", "1", "--to", "production", "--approver", "A. Person") == 0
    register(store, tmp_path / "two", therapy=None)

    assert gauntlet("promote", MODEL) == 2

    assert (
        "the champion went through promotion stages, and this version has no evidence"
        in capsys.readouterr().err
    )
    assert aliases(store)["champion"] == "1"
