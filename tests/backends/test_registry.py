from __future__ import annotations

import resource
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from gauntlet.backends.content_store import keep_bundle
from gauntlet.backends.factory import open_registry
from gauntlet.backends.local.mlflow_database import open_client
from gauntlet.backends.local.registry import MlflowRegistry, all_pages
from gauntlet.backends.registry import Approval, ModelVersion, turns
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.serving.bundle import BundleInfo, file_sha256, read_info, write_bundle

MODEL = "emotion"


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


def make_bundle(folder: Path, content: str = "weights") -> Path:
    source = folder.with_name(folder.name + "-source")
    source.write_text(content)
    info = BundleInfo(
        name=MODEL,
        task="text_classification",
        labels=("sadness", "joy"),
        inputs=(),
        outputs=(),
        max_length=128,
        opset=17,
        candidate="fused",
        precision="fp32",
        quality={"macro_f1": 0.9},
        latency_ms={"1": 2.0},
        speedup={"1": 3.0},
        lineage={"git_commit": "abc"},
    )
    write_bundle(folder, info, {"model.onnx": source, "tokenizer.json": source})
    return folder


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


def test_a_registry_of_an_unknown_kind_is_refused_with_what_is_supported() -> None:
    with pytest.raises(UsageError, match=r"registry URI: found 'redis://p'.*sqlite:///.*or vertex://"):
        open_registry("redis://p")


# --- registering ---


def test_a_registered_bundle_is_a_challenger_with_its_own_verified_copy(
    registry: MlflowRegistry, database: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    sha256 = file_sha256(bundle / "bundle.json")

    version = registry.register(MODEL, bundle, {"run_id": "run-1", "macro_f1": "0.9"})
    shutil.rmtree(bundle)

    assert (version.name, version.version, version.aliases) == (MODEL, "1", ("challenger",))
    assert version.tags == {"run_id": "run-1", "macro_f1": "0.9", "bundle_sha256": sha256}
    assert version.bundle_uri == str(database.parent / "models" / MODEL / sha256)
    assert read_info(Path(version.bundle_uri)).labels == ("sadness", "joy")
    assert timedelta() <= datetime.now(UTC) - version.created < timedelta(minutes=1)
    assert registry.champion(MODEL) is None


def test_registering_the_same_bundle_for_the_same_run_creates_nothing(
    registry: MlflowRegistry, database: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    first = registry.register(MODEL, bundle, {"run_id": "run-1"})

    assert registry.register(MODEL, bundle, {"run_id": "run-1"}) == first
    assert registry.versions(MODEL) == [first]
    assert len(list((database.parent / "models" / MODEL).iterdir())) == 1


def test_the_same_bundle_from_another_run_is_another_version_of_the_same_copy(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    first = registry.register(MODEL, bundle, {"run_id": "run-1"})

    second = registry.register(MODEL, bundle, {"run_id": "run-2"})

    assert (first.version, second.version) == ("1", "2")
    assert second.bundle_uri == first.bundle_uri


def test_a_bundle_that_is_champion_is_not_registered_again_and_rollback_leads_to_the_one_before(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    for run in ("january", "june"):
        register(registry, tmp_path, run)
        registry.promote(MODEL)
    before = registry.versions(MODEL)

    again = registry.register(MODEL, tmp_path / "june", {"run_id": "a-sunday-in-june"})

    assert (again.version, again.aliases, again.tags["run_id"]) == ("2", ("champion",), "june")
    assert registry.versions(MODEL) == before
    assert registry.rollback(MODEL).champion.tags["run_id"] == "january"


def test_a_bundle_that_was_rolled_back_is_left_alone_when_another_run_registers_it(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    for run in ("january", "june"):
        register(registry, tmp_path, run)
        registry.promote(MODEL)
    registry.rollback(MODEL)

    again = registry.register(MODEL, tmp_path / "june", {"run_id": "a-sunday-in-june"})

    assert (again.version, again.aliases) == ("2", ("previous",))
    assert aliases(registry) == {"champion": "1", "previous": "2"}


def test_another_version_of_the_champions_bundle_is_not_promoted_over_it(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    register(registry, tmp_path, "january")
    registry.promote(MODEL)
    bundle = make_bundle(tmp_path / "june", "june")
    for run in ("june", "a-sunday-in-june"):
        registry.register(MODEL, bundle, {"run_id": run})
    registry.promote(MODEL, "2")

    move = registry.promote(MODEL, "3")

    assert (move.moved, move.champion.version) == (False, "2")
    assert registry.rollback(MODEL).champion.version == "1"


def test_versions_are_listed_newest_first_and_the_newest_is_the_challenger(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    for number in range(11):
        register(registry, tmp_path, f"run-{number}")

    assert [version.version for version in registry.versions(MODEL)] == [str(n) for n in range(11, 0, -1)]
    assert aliases(registry) == {"challenger": "11"}
    assert registry.names() == [MODEL]


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
            keep_bundle(bundle, database.parent / "models" / MODEL / file_sha256(bundle / "bundle.json"))
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


# --- promoting ---


def test_promotion_moves_the_aliases(registry: MlflowRegistry, tmp_path: Path) -> None:
    register(registry, tmp_path, "run-1")
    first = registry.promote(MODEL)
    register(registry, tmp_path, "run-2")
    assert aliases(registry) == {"champion": "1", "challenger": "2"}

    second = registry.promote(MODEL)

    assert aliases(registry) == {"champion": "2", "previous": "1"}
    assert (first.moved, str(first)) == (True, "emotion 1 is champion")
    assert (second.moved, str(second)) == (True, "emotion 2 is champion, 1 is previous")
    champion = registry.champion(MODEL)
    assert champion == second.champion
    assert champion == registry.by_alias(MODEL, "champion")


def test_a_version_can_be_promoted_past_the_challenger(registry: MlflowRegistry, tmp_path: Path) -> None:
    for run in ("run-1", "run-2", "run-3"):
        register(registry, tmp_path, run)

    registry.promote(MODEL, "2")

    assert aliases(registry) == {"champion": "2", "challenger": "3"}


def test_promoting_the_champion_changes_nothing_and_says_so(registry: MlflowRegistry, tmp_path: Path) -> None:
    for run in ("run-1", "run-2"):
        register(registry, tmp_path, run)
        registry.promote(MODEL)

    again = registry.promote(MODEL, "2")

    assert (again.moved, str(again)) == (False, "emotion 2 is already champion: nothing to move")
    assert aliases(registry) == {"champion": "2", "previous": "1"}


def test_a_version_whose_bundle_is_gone_or_altered_never_becomes_champion(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    for run_id in ("run-1", "run-2"):
        register(registry, tmp_path, run_id)
        registry.promote(MODEL)
    second, first = registry.versions(MODEL)
    manifest = Path(first.bundle_uri) / "bundle.json"
    manifest.write_text(manifest.read_text().replace("sadness", "madness"))

    with pytest.raises(GauntletError, match=r"version 1 cannot become champion.*the registry says"):
        registry.rollback(MODEL)
    shutil.rmtree(first.bundle_uri)
    with pytest.raises(GauntletError, match=r"version 1 cannot become champion.*no such file"):
        registry.promote(MODEL, "1")
    assert aliases(registry) == {"champion": second.version, "previous": "1"}


def test_a_copy_whose_bundle_json_was_altered_in_the_registry_is_replaced(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    kept = Path(register(registry, tmp_path, "run-1").bundle_uri) / "bundle.json"
    original = kept.read_text()
    kept.write_text(original.replace("sadness", "madness"))
    registry.register(MODEL, tmp_path / "run-1", {"run_id": "run-1"})
    assert kept.read_text() == original


def test_promoting_without_a_challenger_names_the_versions_there_are(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    register(registry, tmp_path, "run-1")
    registry.promote(MODEL)

    with pytest.raises(UsageError, match=r"'emotion': has no challenger to promote.*its versions: 1\."):
        registry.promote(MODEL)


def test_an_unknown_version_or_model_is_refused_with_the_known_ones(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    register(registry, tmp_path, "run-1")

    with pytest.raises(UsageError, match=r"has no version '7', only 1\."):
        registry.promote(MODEL, "7")
    for wrong in ("emotoin", "../x", "it's", ""):
        with pytest.raises(UsageError, match=r"not in .*, which has emotion\. Run its pipeline first"):
            registry.promote(wrong)
        with pytest.raises(UsageError, match="not in"):
            registry.rollback(wrong)
        assert registry.champion(wrong) is None


# --- rolling back ---


def test_rolling_back_swaps_champion_and_previous_and_a_second_time_needs_the_version(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    for run in ("run-1", "run-2", "run-3"):
        register(registry, tmp_path, run)
        registry.promote(MODEL)

    back = registry.rollback(MODEL)
    assert str(back) == "emotion 2 is champion, 3 is previous"

    with pytest.raises(UsageError, match="gauntlet rollback emotion --version 3"):
        registry.rollback(MODEL)
    assert aliases(registry) == {"champion": "2", "previous": "3"}

    assert str(registry.rollback(MODEL, "1")) == "emotion 1 is champion, 2 is previous"
    assert registry.rollback(MODEL, "1").moved is False
    registry.promote(MODEL, "3")
    assert registry.rollback(MODEL).champion.version == "1"
    made = [(turn.version, turn.kind) for turn in turns(registry.versions(MODEL))]
    moves = ["promote", "promote", "promote", "rollback", "rollback", "promote", "rollback"]
    assert made == list(zip("1232131", moves, strict=True))


def test_a_version_that_has_never_been_champion_is_promoted_and_not_rolled_back_to(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    register(registry, tmp_path, "run-1")
    registry.promote(MODEL)
    register(registry, tmp_path, "run-2")
    with pytest.raises(UsageError, match="version 2 has never been champion"):
        registry.rollback(MODEL, "2")
    with pytest.raises(UsageError, match="no version '7'"):
        registry.rollback(MODEL, "7")


def test_who_approves_a_promotion_and_why_is_recorded_on_the_version(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    register(registry, tmp_path, "run-1")
    tags = registry.promote(MODEL, approval=Approval("Ada", "the timing was disturbed")).champion.tags
    assert (tags["approved_by"], tags["promotion_reason"]) == ("Ada", "the timing was disturbed")
    assert datetime.fromisoformat(tags["approved_at"]).tzinfo is not None


def test_the_first_champion_cannot_be_rolled_back(registry: MlflowRegistry, tmp_path: Path) -> None:
    register(registry, tmp_path, "run-1")
    with pytest.raises(UsageError, match="has had no champion before now"):
        registry.rollback(MODEL)
    registry.promote(MODEL)

    with pytest.raises(UsageError, match="has had no champion before 1"):
        registry.rollback(MODEL)


def test_a_version_that_was_rolled_back_does_not_become_challenger_by_registering_it_again(
    registry: MlflowRegistry, tmp_path: Path
) -> None:
    for run in ("run-1", "run-2"):
        register(registry, tmp_path, run)
        registry.promote(MODEL)
    registry.rollback(MODEL)

    assert register(registry, tmp_path, "run-2").aliases == ("previous",)


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
