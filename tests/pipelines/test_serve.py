"""`gauntlet serve` finds the bundle in the registry; tests/serving tests the server itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gauntlet.backends.factory import open_registry
from gauntlet.pipelines.cli import main
from tests.image_bundles import picture, write_shapes
from tests.serving.running import SECONDS, Running, running, start
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


@pytest.fixture(scope="module")
def server(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The champion, and a model of images."""
    shapes = f"shapes={write_shapes(tmp_path_factory.mktemp('images') / 'shapes')}"
    options = ("--model", "moods", "--model", shapes)
    with running(*options, module=CLI, GAUNTLET_HOME=str(home)) as found:
        yield found


def predict(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """What `gauntlet predict` ends with and prints."""
    monkeypatch.setenv("GAUNTLET_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main(["predict", *arguments])
    return int(ended.value.code or 0), *capsys.readouterr()


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_running_server_is_asked_and_its_answers_are_printed_as_those_of_a_bundle(
    home: Path,
    server: Running,
    as_json: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = ["good", "bad bad", "fine fine fine fine bad bad", *["good"] * 40]  # the third one is cut
    here = predict(home, monkeypatch, capsys, *as_json, *texts)
    there = predict(
        home, monkeypatch, capsys, *as_json, "--url", f"{server.url}/", "--model", "moods", *texts
    )
    assert there == here
    assert "text 3: cut at 4 tokens" in here[1] + here[2]
    assert "moods version 1" in here[1] + here[2]


def test_a_running_server_is_sent_the_image_files_that_are_named(
    home: Path,
    server: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "shape.png").write_bytes(picture(diagonal=True))
    (tmp_path / "no.png").write_bytes(b"no image")
    ask = ("--json", "--url", server.url, "--model", "shapes")
    code, out, _ = predict(home, monkeypatch, capsys, *ask, str(tmp_path / "shape.png"))
    answer = json.loads(out)
    assert (code, answer["image"], answer["label"]) == (0, str(tmp_path / "shape.png"), "diagonal")
    for name, message in (("no.png", "no.png: found no image"), ("none.png", "none.png: no such file")):
        code, _, errors = predict(home, monkeypatch, capsys, *ask, str(tmp_path / name))
        assert (code, message in errors) == (2, True), errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--url", "SERVER", "good"), 2, "model: found nothing, expected one of moods, shapes"),
        (
            ("--url", "SERVER", "--model", "tempers", "good"),
            2,
            "model: found 'tempers', expected one of moods",
        ),
        (("--url", "SERVER", "--model", "moods", "--alias", "staging", "good"), 2, "--alias: the server at"),
        (("--url", "SERVER", "--model", "moods", " "), 2, "text 1: it is empty"),
        (("--url", "SERVER/v2", "good"), 2, "/v2: found another server"),
        (("--url", "http://127.0.0.1:9", "good"), 2, "--url: http://127.0.0.1:9: cannot be reached"),
        (
            ("--url", "nowhere", "good"),
            2,
            "--url: nowhere: expected an address such as http://127.0.0.1:8080",
        ),
    ],
)
def test_a_server_that_cannot_be_asked_is_one_message(
    home: Path,
    server: Running,
    arguments: tuple[str, ...],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [one.replace("SERVER", server.url) for one in arguments]
    found, out, errors = predict(home, monkeypatch, capsys, *asked)
    assert found == code
    assert message in out + errors
    assert "Traceback" not in errors


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
