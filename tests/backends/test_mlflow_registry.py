"""What only the SQLite registry does; `test_registry.py` has what all registries do."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from gauntlet.backends.content_store import store_bundle
from gauntlet.backends.factory import open_registry
from gauntlet.backends.local.mlflow_database import open_client
from gauntlet.backends.local.mlflow_server import all_pages
from gauntlet.backends.local.registry import MlflowRegistry
from gauntlet.backends.registry import ModelVersion
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.serving.bundle import file_sha256, read_info
from tests.backends.registries import MODEL, make_bundle


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("empty") / "gauntlet.db"
    open_client(database)
    return database


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return Path(shutil.copyfile(empty_database, folder / "gauntlet.db"))


@pytest.fixture
def registry(database: Path) -> MlflowRegistry:
    return MlflowRegistry(f"sqlite:///{database}")


def register(registry: MlflowRegistry, tmp_path: Path, run_id: str) -> ModelVersion:
    return registry.register(MODEL, make_bundle(tmp_path / run_id, run_id), {"run_id": run_id})


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def aliases(registry: MlflowRegistry) -> dict[str, str]:
    """alias → version, of all versions."""
    return {alias: v.version for v in registry.versions(MODEL) for alias in v.aliases}


# --- an empty registry ---


def test_reading_before_anything_is_registered_makes_no_database(tmp_path: Path) -> None:
    registry = open_registry(f"sqlite:///{tmp_path / 'new' / 'gauntlet.db'}")

    assert registry.champion(MODEL) is None
    assert registry.names() == []
    with pytest.raises(UsageError, match=r"model 'emotion': not in .*gauntlet\.db, which has none yet"):
        registry.versions(MODEL)
    assert list(tmp_path.iterdir()) == []


# --- registering ---


def test_a_bundle_lies_next_to_the_database_under_its_sha256(
    registry: MlflowRegistry, database: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    sha256 = file_sha256(bundle / "bundle.json")

    version = registry.register(MODEL, bundle, {"run_id": "run-1", "macro_f1": "0.9"})

    assert version.tags == {"run_id": "run-1", "macro_f1": "0.9", "bundle_sha256": sha256}
    assert version.bundle_uri == str(database.parent / "models" / MODEL / sha256)


def test_registering_the_same_bundle_for_the_same_run_creates_nothing(
    registry: MlflowRegistry, database: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    first = registry.register(MODEL, bundle, {"run_id": "run-1"})

    assert registry.register(MODEL, bundle, {"run_id": "run-1"}) == first
    assert registry.versions(MODEL) == [first]
    assert len(list((database.parent / "models" / MODEL).iterdir())) == 1


def test_an_incomplete_bundle_is_refused_and_leaves_nothing(
    registry: MlflowRegistry, database: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "model.onnx").write_text("other weights")

    with pytest.raises(GauntletError, match=rf"{bundle}/model\.onnx: sha256 is .*Convert the model again"):
        registry.register(MODEL, bundle, {"run_id": "run-1"})

    assert registry.names() == []
    assert files_below(database.parent / "models") == []


def test_a_copy_that_fails_leaves_nothing(registry: MlflowRegistry, database: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "weights" * 10_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))  # bytes: less than the weights have
    try:
        with pytest.raises(GauntletError, match=r"File too large\. Make room"):
            sha256 = file_sha256(bundle / "bundle.json")
            store_bundle(bundle, str(database.parent / "models" / MODEL / sha256))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert registry.names() == []
    assert files_below(database.parent / "models") == []


def test_a_copy_that_was_altered_in_the_registry_is_replaced_when_registered_again(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    version = register(registry, tmp_path, "run-1")
    (Path(version.bundle_uri) / "model.onnx").write_text("tampered")

    register(registry, tmp_path, "run-1")

    assert (Path(version.bundle_uri) / "model.onnx").read_text() == "run-1"


def test_bundles_are_found_after_the_registry_folder_was_moved(
    registry: MlflowRegistry, database: Path, tmp_path: Path
) -> None:
    register(registry, tmp_path, "run-1")
    registry.promote(MODEL)
    moved = shutil.copytree(database.parent, tmp_path / "elsewhere")
    shutil.rmtree(database.parent)

    champion = MlflowRegistry(f"sqlite:///{moved}/gauntlet.db").champion(MODEL)

    assert champion is not None
    assert read_info(Path(champion.bundle_uri)).name == MODEL


def test_a_copy_whose_bundle_json_was_altered_in_the_registry_is_replaced(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    kept = Path(register(registry, tmp_path, "run-1").bundle_uri) / "bundle.json"
    original = kept.read_text()
    kept.write_text(original.replace("sadness", "madness"))
    registry.register(MODEL, tmp_path / "run-1", {"run_id": "run-1"})
    assert kept.read_text() == original


# --- dying half-way ---


class Killed(BaseException):
    """What a killed process sees: nothing after this."""


class DyingClient:
    """MLflow's client in a process that is killed at its n-th write, from 0."""

    def __init__(self, client: Any, writes: int) -> None:
        self.client = client
        self.writes_left = writes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if not name.startswith(("set_", "create_", "delete_")):
            return method

        def write(*arguments: Any, **named: Any) -> Any:
            if self.writes_left == 0:
                raise Killed
            self.writes_left -= 1
            return method(*arguments, **named)

        return write


class DyingRegistry(MlflowRegistry):
    def __init__(self, database: Path, writes: int) -> None:
        super().__init__(f"sqlite:///{database}")
        self._writes = writes

    @cached_property
    def _client(self) -> Any:
        return DyingClient(open_client(self._database), self._writes)


def moments_of_death(
    database: Path, tmp_path: Path, action: Callable[[MlflowRegistry], object]
) -> list[MlflowRegistry]:
    """One copy of the registry per write of `action`, as it is when the process dies at that write."""
    survivors: list[MlflowRegistry] = []
    while True:
        folder = tmp_path / f"death-{len(survivors)}"
        shutil.copytree(database.parent, folder)
        try:
            action(DyingRegistry(folder / "gauntlet.db", writes=len(survivors)))
        except Killed:
            survivors.append(MlflowRegistry(f"sqlite:///{folder}/gauntlet.db"))
        else:
            return survivors


@pytest.fixture
def with_two_champions(registry: MlflowRegistry, tmp_path: Path) -> MlflowRegistry:
    for run in ("run-1", "run-2"):
        register(registry, tmp_path, run)
        registry.promote(MODEL)
    return registry


def test_a_promotion_killed_at_any_write_keeps_a_champion_and_is_finished_by_the_next(
    with_two_champions: MlflowRegistry, database: Path, tmp_path: Path
) -> None:
    register(with_two_champions, tmp_path, "run-3")
    deaths = moments_of_death(database, tmp_path, lambda registry: registry.promote(MODEL))

    assert len(deaths) == 7
    for survivor in deaths:
        half_way = aliases(survivor)
        assert half_way["champion"] in {"2", "3"}
        assert half_way.get("previous") != half_way["champion"]
        assert survivor.promote(MODEL).moved
        assert aliases(survivor) == {"champion": "3", "previous": "2"}


def test_a_rollback_killed_at_any_write_keeps_a_champion_and_is_finished_by_the_next(
    with_two_champions: MlflowRegistry, database: Path, tmp_path: Path
) -> None:
    deaths = moments_of_death(database, tmp_path, lambda registry: registry.rollback(MODEL))

    assert len(deaths) == 5
    for survivor in deaths:
        assert aliases(survivor)["champion"] in {"1", "2"}
        assert survivor.rollback(MODEL).moved
        assert aliases(survivor) == {"champion": "1", "previous": "2"}


def test_a_registration_killed_at_any_write_is_completed_by_running_it_again(
    database: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    deaths = moments_of_death(
        database, tmp_path, lambda registry: registry.register(MODEL, bundle, {"run_id": "run-1"})
    )

    assert len(deaths) == 3  # the model, the version, the alias
    for survivor in deaths:
        assert survivor.champion(MODEL) is None
        version = survivor.register(MODEL, bundle, {"run_id": "run-1"})
        assert (version.version, version.aliases) == ("1", ("challenger",))
        assert len(survivor.versions(MODEL)) == 1


def test_a_copy_that_was_cut_short_is_no_bundle_of_the_registry(
    registry: MlflowRegistry, database: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    sha256 = file_sha256(bundle / "bundle.json")
    half = database.parent / "models" / MODEL / sha256
    half.mkdir(parents=True)
    (half / "model.onnx").write_text("wei")
    (half / "of-another-time").write_text("")

    version = registry.register(MODEL, bundle, {"run_id": "run-1"})

    assert [path.name for path in half.parent.iterdir()] == [sha256]
    kept = Path(version.bundle_uri)
    assert {path.name for path in kept.iterdir()} == {"bundle.json", *read_info(kept).files}


def test_everything_a_paged_search_finds_is_returned_in_order() -> None:
    class Page(list[int]):
        def __init__(self, found: list[int], token: str | None) -> None:
            super().__init__(found)
            self.token = token

    pages = {None: Page([1, 2], "a"), "a": Page([3], "b"), "b": Page([], None)}

    assert all_pages(lambda token: pages[token]) == [1, 2, 3]
