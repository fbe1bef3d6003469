"""`gauntlet predict` on a bundle whose scores can be computed by hand, and the help of the command."""

from __future__ import annotations

import io
import json
from importlib import metadata
from pathlib import Path

import pytest

from gauntlet.backends.factory import open_registry
from gauntlet.pipelines.cli import main
from gauntlet.serving.bundle import write_bundle
from tests.text_bundles import word_score_info, write_parts


def gauntlet(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which a bundle is the champion; it scores good 0, 2 and bad 3, 0 as bad and good."""
    folder = tmp_path_factory.mktemp("home")
    write_bundle(folder / "bundle", word_score_info(), write_parts(folder / "parts"))
    store = open_registry(f"sqlite:///{folder / 'gauntlet.db'}")
    store.promote("moods", store.register("moods", folder / "bundle", {}).version)
    return folder


@pytest.fixture(autouse=True)
def of_this_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(home))


def test_json_has_the_probability_of_every_class_and_nothing_else_on_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gauntlet("predict", "--json", "good", "bad bad") == 0
    said = capsys.readouterr()
    first, second = (json.loads(line) for line in said.out.splitlines())
    assert (first["text"], first["label"]) == ("good", "good")
    assert first["probabilities"] == pytest.approx({"bad": 0.1192, "good": 0.8808}, abs=1e-4)
    assert second["label"] == "bad"
    assert "moods version 1" in said.err


def test_with_json_a_line_of_stdin_is_a_text_that_may_have_several_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('"good\\nbad"\n"fine"\n'))
    assert gauntlet("predict", "--json", "-") == 0
    texts = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    assert texts == ["good\nbad", "fine"]


@pytest.mark.parametrize("line", ["good", '{"text": "good"}', "3", '"good'])
def test_a_line_that_is_no_json_string_is_one_message(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f'"good"\n{line}\n'))
    assert gauntlet("predict", "--json", "-") == 2
    assert "line 2: found" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_text_is_refused_as_training_refuses_it(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("predict", "good", text) == 2
    assert "text 2: it is empty" in capsys.readouterr().err


def test_the_command_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert gauntlet("--version") == 0
    assert capsys.readouterr().out == f"gauntlet {metadata.version('gauntlet')}\n"


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_groups_the_commands_and_names_the_environment(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert gauntlet(option) == 0
    said = capsys.readouterr().out
    for words in ("On this machine", "Models", "On Google Cloud", "GAUNTLET_HOME", "3 rejected by a gate"):
        assert words in said
