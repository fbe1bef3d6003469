"""`gauntlet deploy` and `gauntlet rollback` of a deployed model move alias and traffic together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gauntlet.backends import factory
from gauntlet.backends.factory import open_registry
from gauntlet.backends.local.mlflow_database import open_client
from gauntlet.backends.rollouts import open_records
from gauntlet.components.deploy_model.golden import Golden
from gauntlet.components.deploy_model.rollout import Engine
from gauntlet.components.deploy_model.run import release_of
from gauntlet.manifests.deployment import DeploymentSection
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.pipelines.cli import main
from gauntlet.pipelines.training import steps_of, training_pipeline
from tests.fakes.deployment import Behaviour, MemoryDeployment
from tests.pipelines.test_promotion import MODEL, write

TARGET = MemoryDeployment(MODEL)

MANIFEST = Path(__file__).parents[2] / "manifests" / "emotion_sample.yaml"
SETTINGS = DeploymentSection(target="local", min_requests=50, min_seconds=4, keep_previous_seconds=10)


def test_a_dag_has_deploy_model_only_if_its_manifest_has_a_target() -> None:
    without, deployed = load_manifest(MANIFEST), load_manifest(MANIFEST, ["deployment.target=local"])
    assert "deploy-model" not in steps_of(without)
    assert steps_of(deployed)[-3:] == ("register-model", "deploy-model", "write-report")
    assert without.sha256 == deployed.sha256
    spec = training_pipeline(deployed, "image", "vertex").pipeline_spec
    assert "comp-deploy-model" in spec.components
    assert "deployment" in spec.root.input_definitions.parameters
    spec = training_pipeline(without, "image", "vertex").pipeline_spec
    assert "comp-deploy-model" not in spec.components
    assert "deployment" not in spec.root.input_definitions.parameters


def test_sections_that_cannot_finish_are_refused() -> None:
    for wrong, said in (
        ({"steps": [50, 10, 100]}, "ascending steps that end with 100"),
        ({"steps": [10, 50]}, "ascending steps that end with 100"),
        ({"min_seconds": 10, "max_seconds": 5}, "change one of them"),
        ({"cloud_run": {"min_instances": 11}}, "min_instances 11 up to max_instances 10"),
    ):
        with pytest.raises(ValueError, match=said):
            DeploymentSection.model_validate({"target": "local", **wrong})


def test_an_unknown_target_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="found 'heroku', expected one of local, cloud_run"):
        factory.open_deployment("heroku", "emotion", "sqlite:////tmp/x.db", {})


def opened(name: str, registry_uri: str, settings: Mapping[str, Any]) -> MemoryDeployment:
    """What the factory opens in place of the gateway."""
    assert (name, settings["target"]) == (MODEL, "local")
    return TARGET


def gauntlet(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_rollback_moves_alias_and_traffic_and_ends_the_rollout_that_is_going_on(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setitem(factory.DEPLOYMENTS, "local", f"{__name__}:opened")
    own_home.mkdir()
    open_client(own_home / "gauntlet.db")
    uri = f"sqlite:///{own_home / 'gauntlet.db'}"
    registry, records = open_registry(uri), open_records(MODEL, uri)
    assert records.place == str(own_home / "deployments" / f"{MODEL}.json")
    for number in ("1", "2"):
        version = registry.register(MODEL, write(tmp_path / number), {"run_id": number})
        registry.promote(MODEL, version.version)
        golden = Golden((), (), 0.01, ("joy", "anger"))
        engine = Engine(TARGET, records, SETTINGS, lambda golden=golden: golden, clock=TARGET.clock)
        if number == "2":
            TARGET.faults["evidence"] = [KeyboardInterrupt()]  # type: ignore[list-item]
            with pytest.raises(KeyboardInterrupt):
                engine.deploy(release_of(version))
        else:
            engine.deploy(release_of(version))
    assert {one.version: one.weight for one in TARGET.revisions.values()} == {"1": 90, "2": 10}
    assert gauntlet("rollback", MODEL, "--by", "ada", "--reason", "it answers nonsense") == 0
    said = capsys.readouterr().out
    assert f"{MODEL} 1 has all requests since" in said
    assert {one.version: one.weight for one in TARGET.revisions.values()} == {"1": 100, "2": 0}
    champion = registry.champion(MODEL)
    assert champion is not None
    assert champion.version == "1"
    record, _ = records.read()
    assert record is not None
    assert record.history[-1].endswith("rolled back to version 1 by ada: it answers nonsense")
    assert gauntlet("deploy", MODEL, "--version", "2") == 3
    assert "by ada: it answers nonsense. It is not tried again" in capsys.readouterr().err
    assert gauntlet("rollback", MODEL) == 2
    assert "version 1 has 100 %" in capsys.readouterr().err
    # A version that is deployed and not champion: the one that served before it gets the requests back.
    engine.deploy(release_of(version), again=True)
    assert {one.version: one.weight for one in TARGET.revisions.values()} == {"2": 100}
    TARGET.behaviours[champion.tags["bundle_sha256"]] = Behaviour(seconds_to_start=0)  # no clock runs here
    assert gauntlet("rollback", MODEL) == 0
    assert {one.version: one.weight for one in TARGET.revisions.values()} == {"1": 100, "2": 0}
    Path(records.place).write_text("{ broken")
    assert gauntlet("rollback", MODEL, "--to", "2") == 0
    assert {one.version: one.weight for one in TARGET.revisions.values()} == {"1": 0, "2": 100}


def test_who_and_why_are_refused_for_a_model_that_is_not_deployed(
    own_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_home.mkdir()
    registry = open_registry(f"sqlite:///{own_home / 'gauntlet.db'}")
    registry.register(MODEL, write(tmp_path / "1"), {"run_id": "1"})
    assert gauntlet("rollback", MODEL, "--by", "ada") == 2
    assert f"{MODEL} is not deployed" in capsys.readouterr().err
    assert gauntlet("deploy", MODEL) == 2
    assert "nothing says where to deploy it" in capsys.readouterr().err
