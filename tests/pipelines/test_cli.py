from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from gauntlet.backends.factory import open_registry
from gauntlet.pipelines.cli import app, main
from gauntlet.pipelines.home import Home
from gauntlet.serving.bundle import BundleInfo, write_bundle

ROOT = Path(__file__).parents[2]
SAMPLE = str(ROOT / "manifests" / "emotion_sample.yaml")


def gauntlet(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def test_check_passes_every_shipped_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    assert gauntlet("check") == 0
    assert "emotion_sample" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("gates.non_inferiority_margin=0.05", "a test split of about 155 rows can show the margin of 0.05"),
        ("gates.non_inferiority_margin=0.01", "155 rows cannot show gates.non_inferiority_margin 0.01"),
        ("gates.non_inferiority_margin=null", "so gates.non_inferiority_margin will be about 0.042"),
    ],
)
def test_check_says_which_margin_the_test_split_can_show(
    override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """1.645 √(0.1 / 155) = 0.0418."""
    assert gauntlet("check", SAMPLE, "--set", override) == 0
    assert words in " ".join(capsys.readouterr().out.split())


def test_check_reports_the_faults_of_all_manifests_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.yaml").write_text("name: One\n")
    (tmp_path / "two.yaml").write_text("nonsense: 1\n")
    assert gauntlet("check", str(tmp_path / "one.yaml"), SAMPLE, str(tmp_path / "two.yaml")) == 2
    output = capsys.readouterr()
    assert "one.yaml" in output.err
    assert "two.yaml" in output.err
    assert "emotion_sample" in output.out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.resources.max_hours=100", "at least"),
        ("training.resources.machine_type=cray-1", "cray-1"),
    ],
)
def test_check_refuses_what_may_cost_more_than_its_budget_or_has_no_price(
    override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("check", SAMPLE, "--set", override) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("dataset.uri=/no/such/file.csv", "dataset.uri"),
        (
            "dataset={uri: /, files: {train: no/such.csv}, name: a, version: '1', labels: [a, b]}",
            "dataset.files",
        ),
    ],
)
def test_a_missing_data_file_on_this_machine_is_refused_before_a_run_starts(
    override: str,
    key: str,
    own_home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in ("check", "run"):
        assert gauntlet(command, SAMPLE, "--set", override) == 2
        message = capsys.readouterr().err
        assert key in message
        assert "/no/such" in message
    assert not own_home.exists()


def test_cost_shows_how_the_most_is_reckoned_and_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = "training.resources={machine_type: g2-standard-8, accelerator_type: NVIDIA_L4, "
    overrides += "accelerator_count: 1, max_hours: 10, max_cost_usd: 10}"
    assert gauntlet("cost", SAMPLE, "--set", overrides) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    # Compute Engine 0.853621 USD an hour × 1.15 × 10 h
    assert ["USD", "an", "hour", "0.9817"] in lines
    assert ["=", "USD", "at", "most", "9.82"] in lines
    assert ["left", "over,", "USD", "0.18"] in lines
    assert ["verdict", "fits"] in lines
    assert ["accelerators", "1", "×", "NVIDIA_L4"] in lines


def test_cost_of_all_packaged_manifests_says_where_prices_come_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert gauntlet("cost") == 0
    output = capsys.readouterr().out
    assert "emotion_sample" in output
    assert "2026-10-07" in output and "cloud.google.com" in output
    own = tmp_path / "own.yaml"
    own.write_text("machines: {n1-standard-4: {usd_per_hour: 2}}")
    monkeypatch.setenv("GAUNTLET_PRICES", str(own))
    assert gauntlet("cost", SAMPLE) == 0  # 2 USD/h × 0.5 h = 1 USD, which is the budget
    output = capsys.readouterr().out
    assert "2.0000" in output and str(own) in output


def test_cost_over_budget_is_shown_and_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert gauntlet("cost", SAMPLE, "--set", "training.resources.max_hours=100") == 2
    output = capsys.readouterr()
    # 0.21849885 USD × 100 h, of 1 USD
    assert "21.85" in output.out and "-20.85" in output.out and "over budget" in output.out
    assert "max_cost_usd" in output.err and "at least 21.85" in output.err


def test_cost_of_a_machine_without_a_price_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert gauntlet("cost", SAMPLE, "--set", "training.resources.machine_type=cray-1") == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("no price is known") == 1


def test_compile_writes_the_committed_file(tmp_path: Path) -> None:
    target = tmp_path / "sample.yaml"
    assert gauntlet("compile", SAMPLE, "--output", str(target)) == 0
    assert target.read_text() == (ROOT / "compiled" / "emotion_sample.yaml").read_text()


def test_several_manifests_and_platforms_are_compiled_to_the_files_of_one_folder(tmp_path: Path) -> None:
    manifests = [str(ROOT / "manifests" / f"{name}.yaml") for name in ("emotion_sample", "emotion")]
    assert gauntlet("compile", *manifests, "--platform", "both", "--output", str(tmp_path)) == 0
    written = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.yaml")}
    assert sorted(map(str, written)) == sorted(
        folder + f"{name}.yaml" for folder in ("", "kubeflow/") for name in ("emotion", "emotion_sample")
    )
    assert all(text == (ROOT / "compiled" / name).read_text() for name, text in written.items())


def test_no_manifest_is_compiled_when_one_has_a_fault(tmp_path: Path) -> None:
    (tmp_path / "faulty.yaml").write_text("nonsense: 1")
    assert gauntlet("compile", SAMPLE, str(tmp_path / "faulty.yaml"), "--output", str(tmp_path / "out")) == 2
    assert not (tmp_path / "out").exists()


def test_a_compiled_pipeline_holds_the_overrides(tmp_path: Path) -> None:
    target = tmp_path / "sample.yaml"
    assert gauntlet("compile", SAMPLE, "--output", str(target), "--set", "training.epochs=17") == 0
    assert "epochs: 17" in target.read_text()


@pytest.mark.parametrize("command", ["runs", "registry"])
def test_lists_say_what_to_do_while_they_are_empty(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gauntlet(command) == 0
    assert "gauntlet run" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ("report",),
        ("report", "no-such-run"),
        ("predict", "hello"),
        ("promote",),
        ("rollback",),
        ("run", "absent.yaml"),
        ("run",),
        ("run", SAMPLE, "--resume", "latest"),
        ("run", "--resume", "latest"),
        ("run", "--resume", "latest", "--set", "seed=1"),
        ("gate", "latest"),
        ("rm", "no-such-run"),
    ],
)
def test_what_is_not_there_is_bad_usage_with_one_message(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    assert gauntlet(*arguments) == 2
    message = capsys.readouterr().err
    assert message
    assert "Traceback" not in message
    assert not own_home.exists()


@pytest.mark.parametrize("home", ["{file}", "/proc/gauntlet", "{file}/what?", "{file}/100%20sure"])
def test_a_home_that_cannot_be_written_is_refused(
    home: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GAUNTLET_HOME", home.format(file=tmp_path / "file"))
    assert gauntlet("run", SAMPLE) == 2
    assert "GAUNTLET_HOME" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert gauntlet("compile", SAMPLE, "--output", "/proc/sample.yaml") == 1
    assert capsys.readouterr().err.startswith("error: /proc/")


@pytest.fixture
def champion(own_home: Path) -> None:
    """A champion that would answer, were its model a graph."""
    source = own_home.parent / "source"
    source.write_text("no graph")
    info = BundleInfo(
        name="moods",
        task="text_classification",
        labels=("bad", "good"),
        inputs=(),
        outputs=(),
        max_length=8,
        opset=17,
        candidate="plain",
        precision="fp32",
        quality={},
        latency_ms={},
        speedup={},
        lineage={},
    )
    write_bundle(own_home.parent / "bundle", info, {"model.onnx": source, "tokenizer.json": source})
    registry = open_registry(f"sqlite:///{own_home / 'gauntlet.db'}")
    registry.register("moods", own_home.parent / "bundle", {})
    registry.promote("moods")


@pytest.mark.usefixtures("champion")
@pytest.mark.parametrize(
    ("given", "found"), [(b"", "found nothing"), (b"fine\nb\xe9te\n", "text 2: found bytes")]
)
def test_stdin_without_texts_or_not_in_utf8_is_bad_usage(
    given: bytes, found: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8", "surrogateescape"))
    assert gauntlet("predict", "-") == 2
    assert found in capsys.readouterr().err


@pytest.mark.usefixtures("champion")
def test_a_champion_whose_bundle_json_was_altered_answers_nothing(
    own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [manifest] = own_home.glob("models/moods/*/bundle.json")
    manifest.write_text(manifest.read_text().replace("good", "well"))
    assert gauntlet("predict", "hello") == 1
    assert "the registry says" in capsys.readouterr().err


def test_a_terminal_never_obeys_what_a_message_quotes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("check", SAMPLE, "--set", "\x1b[31m[/bold]=1") == 2
    message = capsys.readouterr().err
    assert "\x1b" not in message
    assert "[31m[/bold]" in message


def test_an_unreadable_run_record_hides_no_other_run(
    own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {
        "run_id": "a-1",
        "name": "a",
        "started": "2026-11-21T10:00:00+00:00",
        "pid": 1,
        "state": "finished",
    }
    for run_id, text in (("a-1", json.dumps(record)), ("b-2", "{half")):
        (own_home / "runs" / run_id).mkdir(parents=True)
        (own_home / "runs" / run_id / "run.json").write_text(text)
    assert gauntlet("runs") == 0
    assert "a-1" in capsys.readouterr().out


def test_compile_warns_of_data_that_only_this_machine_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "spec.yaml")
    assert gauntlet("compile", SAMPLE, "--output", output) == 0
    assert "a path on this machine" not in capsys.readouterr().out
    data = tmp_path / "tickets.csv"
    assert gauntlet("compile", SAMPLE, "--output", output, "--set", f"dataset.uri={data}") == 0
    assert f"{data} is a path on this machine" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("key", "path", "words"),
    [
        ("network", "no_such_module_of_mine:Net", "there is no module 'no_such_module_of_mine'"),
        ("network", "beside_the_manifest:Missing", "has no 'Missing'. It has: Net"),
        ("loss", "beside_the_manifest:Missing", "has no 'Missing'. It has: Net"),
    ],
)
def test_check_looks_for_the_users_own_code_beside_the_manifest(
    key: str, path: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "sample.yaml"
    manifest.write_text(Path(SAMPLE).read_text().replace("data/", f"{ROOT / 'manifests' / 'data'}/"))
    (tmp_path / "beside_the_manifest.py").write_text("class Net:\n    pass\n")
    good = ("--set", "training.network=beside_the_manifest:Net")
    assert gauntlet("check", str(manifest), *good) == 0
    assert gauntlet("check", str(manifest), "--set", f"training.{key}={path}") == 2
    output = " ".join(capsys.readouterr().err.split())
    assert f"training.{key}" in output
    assert words in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (SAMPLE, "--from-checkpoint", "a", "--from-onnx", "b"),
            "found both --from-checkpoint and --from-onnx",
        ),
        (
            (SAMPLE, "--from-checkpoint", "a", "--labels", "x,y"),
            "--labels: these are the classes of an ONNX graph",
        ),
        ((SAMPLE, "--from-checkpoint", "/no/such/folder"), "--from-checkpoint: "),
        ((SAMPLE, "--from-onnx", "/no/such/model.onnx"), "--from-onnx: "),
        (("--resume", "latest", "--from-onnx", "b"), "--resume: a run is resumed with its own settings"),
        (
            (str(ROOT / "manifests" / "gemini_lm.yaml"), "--from-checkpoint", "a"),
            "a service trains and serves models of managed_causal_lm",
        ),
    ],
)
def test_a_model_from_elsewhere_that_cannot_be_judged_is_bad_usage(
    arguments: tuple[str, ...], words: str, own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gauntlet("run", *arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (own_home / "runs").exists()


def test_logs_prints_the_steps_of_a_run_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAUNTLET_HOME", str(tmp_path))
    home = Home(tmp_path)
    run = home.create_run("demo").run_id
    logs = home.run_folder(run) / "logs"
    logs.mkdir()
    (logs / "train-model.log").write_text("epoch 1\nepoch 2\n")
    (logs / "validate-data.log").write_text("read 5 rows [b]\n")

    def printed(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["logs", *arguments])
        assert not ended.value.code
        return capsys.readouterr().out

    assert printed(run) == "validate-data: read 5 rows [b]\ntrain-model: epoch 1\ntrain-model: epoch 2\n"
    assert printed("latest", "--step", "train-model") == "train-model: epoch 1\ntrain-model: epoch 2\n"
    assert "gate-model did not start" in printed("--step", "gate-model")


def every_command() -> list[tuple[str, Any]]:
    found = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found += [(name, command)] if inner is None else [(f"{name} {one}", inner[one]) for one in inner]
    return found


@pytest.mark.parametrize(("name", "command"), every_command())
def test_the_help_of_each_command_has_an_example_that_can_be_parsed(name: str, command: Any) -> None:
    [example] = re.findall(r"Example: `gauntlet ([^`]*)`", " ".join((command.help or "").split()))
    assert example == name or example.startswith(name + " ")
    words = shlex.split(example.removeprefix(name))
    environment = [one.name for one in command.params if one.envvar and one.required]
    for needed in environment:  # project, region and root, which the environment has
        words += [f"--{str(needed).replace('_', '-').removesuffix('-uri')}", "x"]
    command.make_context(name, words)
