"""`gauntlet serve` finds the bundle in the registry; tests/serving tests the server itself."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from gauntlet.backends.factory import open_registry
from tests.serving.running import SECONDS, running, start
from tests.text_bundles import certified

CLI = "gauntlet.pipelines.cli"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which version 1 of `moods` is the champion and version 2 the challenger."""
    folder = tmp_path_factory.mktemp("home")
    store = open_registry(f"sqlite:///{folder / 'gauntlet.db'}")
    store.promote("moods", store.register("moods", certified(folder / "first"), {}).version)
    store.register("moods", certified(folder / "second", rows=10), {})
    return folder


def test_the_champion_is_served_under_its_name_and_version_beside_another_bundle(
    home: Path, tmp_path: Path
) -> None:
    options = ("--model", "moods", "--model", f"other={certified(tmp_path)}")
    with running(*options, module=CLI, GAUNTLET_HOME=str(home)) as server:
        url = server.url + "/v2/models/"
        assert httpx.get(url + "moods", timeout=SECONDS).json()["versions"] == ["1"]
        assert httpx.get(url + "other", timeout=SECONDS).json()["name"] == "other"
        answer = httpx.post(server.url + "/predict", json={"instances": ["good"]}, timeout=SECONDS).json()
        assert answer["predictions"][0]["label"] == "good"
        assert (answer["metadata"]["model"], answer["metadata"]["version"]) == ("moods", "1")
        assert server.end()[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--alias", "staging"), "moods: no version has the alias staging"),
        (("--model", "tempers"), "model: found 'tempers', expected one of moods"),
        (("/nowhere",), "/nowhere/bundle.json: no such file"),
        (("--timeout", "0"), "--timeout: found 0.0, expected a number over 0"),
    ],
)
def test_what_cannot_be_served_is_one_message(home: Path, arguments: tuple[str, ...], message: str) -> None:
    process = start(arguments, CLI, {"GAUNTLET_HOME": str(home), "COLUMNS": "200"})
    out, errors = process.communicate(timeout=SECONDS)
    assert process.returncode in (1, 2)
    assert message in out + errors
    assert "Traceback" not in errors


def test_a_bundle_that_was_altered_since_it_was_registered_is_not_served(home: Path, tmp_path: Path) -> None:
    store = open_registry(f"sqlite:///{tmp_path / 'gauntlet.db'}")
    version = store.register("moods", certified(tmp_path / "made"), {})
    store.promote("moods", version.version)
    path = Path(version.bundle_uri) / "bundle.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"macro_f1": 0.75', '"macro_f1": 0.99'))
    process = start((), CLI, {"GAUNTLET_HOME": str(tmp_path), "COLUMNS": "300"})
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "the registry says" in errors
