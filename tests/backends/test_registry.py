"""What every registry does alike. A new backend is one more parameter of the fixture `tested`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gauntlet.backends.factory import bundle_folder, open_registry
from gauntlet.backends.local.mlflow_database import open_client
from gauntlet.backends.registry import Approval, turns
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.serving.bundle import file_sha256, read_info
from tests.backends import registries
from tests.backends.registries import RegistryCase, make_bundle
from tests.fakes.mlflow_server import LoopbackMlflow


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("empty") / "gauntlet.db"
    open_client(database)
    return database


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackMlflow]:
    with LoopbackMlflow(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


ON_A_SERVER = pytest.param("mlflow-server", marks=pytest.mark.acceptance)
"""A minute of requests. `make test` tests what a server does otherwise than SQLite: test_mlflow_server."""


@pytest.fixture(params=["sqlite", ON_A_SERVER, "vertex"])
def tested(request: pytest.FixtureRequest, tmp_path: Path) -> RegistryCase:
    if request.param == "vertex":
        return registries.vertex(request.getfixturevalue("cloud"))
    if request.param == "mlflow-server":
        name = request.node.originalname.removeprefix("test_")
        return registries.mlflow_server(request.getfixturevalue("server"), name)
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copyfile(request.getfixturevalue("empty_database"), folder / "gauntlet.db")
    return registries.on_disk(f"sqlite:///{folder}/gauntlet.db")


# --- registering ---


def test_a_registered_bundle_is_a_challenger_with_its_own_verified_copy(
    tested: RegistryCase, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    files = {path.name for path in bundle.iterdir()}
    sha256 = file_sha256(bundle / "bundle.json")

    version = tested.registry.register(tested.model, bundle, {"run_id": "run-1", "macro_f1": "0.9"})
    shutil.rmtree(bundle)

    assert (version.name, version.version) == (tested.model, "1")
    assert tested.aliases == {"challenger": "1"}
    assert version.tags.items() >= {"run_id": "run-1", "macro_f1": "0.9", "bundle_sha256": sha256}.items()
    assert timedelta() <= datetime.now(UTC) - version.created < timedelta(minutes=1)
    with bundle_folder(version) as folder:
        assert read_info(folder, sha256).labels == ("sadness", "joy")
        assert {path.name for path in folder.iterdir()} == files
    assert tested.registry.champion(tested.model) is None
    assert tested.model in tested.registry.names()


def test_a_bundle_of_the_same_run_is_registered_once_and_of_another_run_shares_the_copy(
    tested: RegistryCase, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    first = tested.registry.register(tested.model, bundle, {"run_id": "run-1"})

    assert tested.registry.register(tested.model, bundle, {"run_id": "run-1"}) == first
    assert tested.registry.versions(tested.model) == [first]
    second = tested.registry.register(tested.model, bundle, {"run_id": "run-2"})

    assert [version.version for version in tested.registry.versions(tested.model)] == ["2", "1"]
    assert second.bundle_uri == first.bundle_uri
    assert tested.aliases == {"challenger": "2"}


def test_versions_are_listed_newest_first_by_number_and_the_newest_is_the_challenger(
    tested: RegistryCase, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    for number in range(11):
        tested.registry.register(tested.model, bundle, {"run_id": f"run-{number}"})

    listed = [version.version for version in tested.registry.versions(tested.model)]
    assert listed == [str(number) for number in range(11, 0, -1)]
    assert tested.aliases == {"challenger": "11"}


def test_a_bundle_that_is_or_was_champion_is_not_registered_again(
    tested: RegistryCase, tmp_path: Path
) -> None:
    tested.promote(tmp_path, "january", "june")
    before = tested.registry.versions(tested.model)

    again = tested.registry.register(tested.model, tmp_path / "june", {"run_id": "a-sunday-in-june"})

    assert (again.version, again.tags["run_id"]) == ("2", "june")
    assert "champion" in again.aliases
    assert tested.registry.versions(tested.model) == before
    assert tested.registry.rollback(tested.model).champion.tags["run_id"] == "january"
    for run_id in ("a-sunday-in-june", "june"):
        again = tested.registry.register(tested.model, tmp_path / "june", {"run_id": run_id})
        assert (again.version, again.aliases) == ("2", ("previous",))
    assert tested.aliases == {"champion": "1", "previous": "2"}


def test_an_incomplete_bundle_is_refused_and_leaves_nothing(tested: RegistryCase, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "model.onnx").write_text("other weights")

    with pytest.raises(GauntletError, match=rf"{bundle}/model\.onnx: sha256 is .*Convert the model again"):
        tested.registry.register(tested.model, bundle, {"run_id": "run-1"})

    assert tested.model not in tested.registry.names()


def test_evidence_is_returned_as_it_was_registered(tested: RegistryCase, tmp_path: Path) -> None:
    evidence = {"figures": {"macro_f1": 0.9}, "champion": None}
    bundle = make_bundle(tmp_path / "bundle")
    version = tested.registry.register(tested.model, bundle, {"run_id": "run-1"}, evidence)
    assert tested.registry.evidence(version) == evidence

    without = tested.registry.register(tested.model, bundle, {"run_id": "run-2"})
    assert tested.registry.evidence(without) is None


# --- promoting ---


def test_promotion_moves_champion_and_previous(tested: RegistryCase, tmp_path: Path) -> None:
    tested.register(tmp_path, "run-1")
    first = tested.registry.promote(tested.model)
    tested.register(tmp_path, "run-2")
    assert tested.aliases == {"champion": "1", "challenger": "2"}

    second = tested.registry.promote(tested.model)

    assert tested.aliases == {"champion": "2", "previous": "1"}
    assert (first.moved, str(first)) == (True, f"{tested.model} 1 is champion")
    assert (second.moved, str(second)) == (True, f"{tested.model} 2 is champion, 1 is previous")
    champion = tested.registry.champion(tested.model)
    assert champion == second.champion == tested.registry.by_alias(tested.model, "champion")

    again = tested.registry.promote(tested.model, "2")
    assert (again.moved, str(again)) == (False, f"{tested.model} 2 is already champion: nothing to move")
    assert tested.aliases == {"champion": "2", "previous": "1"}


def test_a_version_can_be_promoted_past_the_challenger(tested: RegistryCase, tmp_path: Path) -> None:
    for run_id in ("run-1", "run-2", "run-3"):
        tested.register(tmp_path, run_id)

    tested.registry.promote(tested.model, "2")

    assert tested.aliases == {"champion": "2", "challenger": "3"}


def test_another_version_of_the_champions_bundle_is_not_promoted_over_it(
    tested: RegistryCase, tmp_path: Path
) -> None:
    tested.promote(tmp_path, "january")
    bundle = make_bundle(tmp_path / "june", "june")
    for run_id in ("june", "a-sunday-in-june"):
        tested.registry.register(tested.model, bundle, {"run_id": run_id})
    tested.registry.promote(tested.model, "2")

    move = tested.registry.promote(tested.model, "3")

    assert (move.moved, move.champion.version) == (False, "2")
    assert tested.registry.rollback(tested.model).champion.version == "1"


def test_a_model_that_was_compared_with_another_champion_is_not_promoted(
    tested: RegistryCase, tmp_path: Path
) -> None:
    tested.promote(tmp_path, "run-1", "run-2")
    tested.register(tmp_path, "run-3")

    with pytest.raises(GauntletError, match="compared with champion 1, but the champion is 2 by now"):
        tested.registry.promote(tested.model, "3", compared_with="1")

    assert tested.aliases["champion"] == "2"


def test_a_version_whose_bundle_is_missing_or_altered_gets_no_alias(
    tested: RegistryCase, tmp_path: Path
) -> None:
    tested.promote(tmp_path, "run-1", "run-2")
    bundle = tested.registry.versions(tested.model)[-1].bundle_uri
    before = tested.aliases

    tested.alter(bundle, "model.onnx", b"tampered")
    with pytest.raises(GauntletError, match=r"version 1 cannot become champion.*model\.onnx: sha256 is"):
        tested.registry.rollback(tested.model)
    altered = (tmp_path / "run-1" / "bundle.json").read_bytes().replace(b"sadness", b"madness")
    tested.alter(bundle, "bundle.json", altered)
    with pytest.raises(GauntletError, match=r"version 1 cannot become champion.*the registry says"):
        tested.registry.rollback(tested.model)
    tested.remove(bundle)
    with pytest.raises(GauntletError, match=r"version 1 cannot become champion.*no such"):
        tested.registry.promote(tested.model, "1")
    with pytest.raises(GauntletError, match=r"version 1 cannot become staging.*no such"):
        tested.registry.stage(tested.model, "1")

    assert tested.aliases == before


def test_a_staged_version_becomes_champion_in_the_name_of_its_approver(
    tested: RegistryCase, tmp_path: Path
) -> None:
    tested.register(tmp_path, "run-1")

    assert set(tested.registry.stage(tested.model, "1").aliases) >= {"challenger", "staging"}
    approval = Approval("Ada", "tried by hand")
    tags = tested.registry.promote(tested.model, "1", compared_with=None, approval=approval).champion.tags

    assert (tags["approved_by"], tags["promotion_reason"]) == ("Ada", "tried by hand")
    assert datetime.fromisoformat(tags["approved_at"]).tzinfo is not None
    assert tested.aliases == {"champion": "1", "staging": "1"}


def test_what_does_not_exist_is_refused_with_what_does(tested: RegistryCase, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"model '{tested.model}': not in .*, which has"):
        tested.registry.versions(tested.model)
    tested.register(tmp_path, "run-1")
    with pytest.raises(UsageError, match="no version has been champion yet"):
        tested.registry.rollback(tested.model)
    tested.registry.promote(tested.model)

    with pytest.raises(UsageError, match=r"has no version '7', only 1\."):
        tested.registry.promote(tested.model, "7")
    with pytest.raises(UsageError, match=r"has no challenger to promote.*its versions: 1\."):
        tested.registry.promote(tested.model)
    with pytest.raises(UsageError, match="no version has been champion before version 1"):
        tested.registry.rollback(tested.model)
    for wrong in ("emotoin", "../x", "it's", ""):
        with pytest.raises(
            UsageError, match=rf"not in .*, which has .*{tested.model}.*Run its pipeline first"
        ):
            tested.registry.promote(wrong)
        with pytest.raises(UsageError, match="not in"):
            tested.registry.rollback(wrong)
        assert tested.registry.champion(wrong) is None


# --- rolling back ---


def test_rollback_swaps_champion_and_previous_and_a_second_one_needs_the_version(
    tested: RegistryCase, tmp_path: Path
) -> None:
    name = tested.model
    tested.promote(tmp_path, "run-1", "run-2", "run-3")

    assert str(tested.registry.rollback(name)) == f"{name} 2 is champion, 3 is previous"
    with pytest.raises(UsageError, match=f"gauntlet rollback {name} --version 3"):
        tested.registry.rollback(name)
    assert tested.aliases == {"champion": "2", "previous": "3"}

    assert str(tested.registry.rollback(name, "1")) == f"{name} 1 is champion, 2 is previous"
    assert tested.registry.rollback(name, "1").moved is False
    tested.registry.promote(name, "3")
    assert tested.registry.rollback(name).champion.version == "1"
    made = [(turn.version, turn.kind) for turn in turns(tested.registry.versions(name))]
    moves = ["promote", "promote", "promote", "rollback", "rollback", "promote", "rollback"]
    assert made == list(zip("1232131", moves, strict=True))


def test_a_version_that_has_never_been_champion_is_not_rolled_back_to(
    tested: RegistryCase, tmp_path: Path
) -> None:
    tested.promote(tmp_path, "run-1")
    tested.register(tmp_path, "run-2")
    with pytest.raises(UsageError, match="version 2 has never been champion"):
        tested.registry.rollback(tested.model, "2")
    with pytest.raises(UsageError, match="no version '7'"):
        tested.registry.rollback(tested.model, "7")


# --- which registry ---


def test_a_registry_of_an_unknown_kind_is_refused_with_what_is_supported() -> None:
    with pytest.raises(UsageError, match=r"registry URI: found 'redis://p'.*sqlite:///.*or vertex://"):
        open_registry("redis://p")
