"""What steps of local runs leave, reused by content."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gauntlet.components.sections import keep, reference
from gauntlet.pipelines.live import RunView
from gauntlet.pipelines.local.step_cache import StepCache, StepCall, copy_of

COMPONENT = """
from kfp import dsl
from kfp.dsl import *

def double(number: int, source: dsl.Input[dsl.Artifact], result: dsl.Output[dsl.Artifact]) -> str:
    text = open(source.path).read()
    if text == "bad":
        raise ValueError(text)
    open(result.path, "w").write(text * number)
    print("executed")
    return "done"
"""


def call(folder: Path, run: str, text: str = "ab", **parameters: Any) -> StepCall:
    """A step of `run` with an input that an earlier step of the same run has left."""
    steps = folder / run / "steps" / "job"
    (steps / "before").mkdir(parents=True, exist_ok=True)
    (steps / "before" / "source").write_text(text)
    component = folder / run / "component.py"
    component.write_text(COMPONENT)
    kind = {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}
    source = {"name": "source", "type": kind, "uri": str(steps / "before" / "source")}
    result = {"name": "result", "type": kind, "uri": str(steps / "double" / "result")}
    return StepCall(
        component,
        "double",
        {
            "inputs": {
                "parameterValues": {"number": 2, **parameters},
                "artifacts": {"source": {"artifacts": [source]}},
            },
            "outputs": {
                "parameters": {"Output": {"outputFile": str(steps / "double" / "Output")}},
                "artifacts": {"result": {"artifacts": [result]}},
                "outputFile": str(steps / "double" / "executor_output.json"),
            },
        },
    )


def execute(step: StepCall) -> None:
    """Leave what the step would."""
    (step.folder / "model").mkdir(parents=True)
    (step.folder / "result").write_bytes(b"\x00abab")
    (step.folder / "model" / "weights").write_bytes(b"weights")
    uri = str(step.folder / "result")
    output = {"artifacts": {"result": {"artifacts": [{"uri": uri, "metadata": {"size": 4}}]}}}
    (step.folder / "executor_output.json").write_text(json.dumps(output))


def left(step: StepCall) -> dict[str, bytes]:
    files = (file for file in step.folder.rglob("*") if file.is_file())
    return {file.relative_to(step.folder).as_posix(): file.read_bytes() for file in files}


def stored(tmp_path: Path, **parameters: Any) -> StepCache:
    cache = StepCache(tmp_path / "cache")
    first = call(tmp_path, "first", **parameters)
    execute(first)
    cache.store(first, "first")
    return cache


def test_a_step_with_the_same_inputs_gets_the_bytes_of_the_earlier_run_in_its_own_folder(
    tmp_path: Path,
) -> None:
    cache = stored(tmp_path)
    second = call(tmp_path, "second")
    assert cache.restore(second) == "first"
    fresh = call(tmp_path, "fresh")
    execute(fresh)
    found, expected = left(second), left(fresh)
    assert json.loads(found.pop("reused.json")) == {"run": "first"}
    output = json.loads(found.pop("executor_output.json"))
    [artifact] = output["artifacts"]["result"]["artifacts"]
    assert artifact == {"uri": str(second.folder / "result"), "metadata": {"size": 4}}
    del expected["executor_output.json"]
    assert found == expected


@pytest.mark.parametrize(
    "changed", ["nothing", "input", "parameter", "training", "encoder", "component", "environment"]
)
def test_a_step_is_run_again_when_something_changes_that_it_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    (encoder / "weights").write_text("some")
    training = {"epochs": 2, "encoder": str(encoder)}
    cache = stored(tmp_path, training=training)
    if changed == "training":
        training["epochs"] = 3
    text = "others" if changed == "input" else "ab"
    second = call(tmp_path, "second", text, number=3 if changed == "parameter" else 2, training=training)
    match changed:
        case "encoder":
            (encoder / "weights").write_text("others")
        case "component":
            second.component.write_text(COMPONENT + "# another version")
        case "environment":
            monkeypatch.setenv("OMP_NUM_THREADS", "17")
    assert (cache.restore(second) is not None) == (changed == "nothing")
    assert second.folder.exists() == (changed == "nothing")


def test_neither_where_inputs_lie_nor_which_manifest_asks_changes_the_key(tmp_path: Path) -> None:
    section = {"labels": ["a", "b"]}
    inline = call(tmp_path, "first", dataset=section, manifest_sha256="1")
    keep([section], str(tmp_path))
    travelling = reference(section, str(tmp_path))
    from_file = call(tmp_path, "second", dataset=travelling, manifest_sha256="2")
    assert inline.key == from_file.key


def test_an_artifact_whose_content_a_parameter_names_is_not_read_for_the_key(tmp_path: Path) -> None:
    named = call(tmp_path, "first", "ab", source_sha256="1")
    assert call(tmp_path, "second", "other bytes", source_sha256="1").key == named.key
    assert call(tmp_path, "third", "ab", source_sha256="2").key != named.key
    assert call(tmp_path, "fourth", "ab").key != call(tmp_path, "fifth", "other bytes").key


@pytest.mark.parametrize("damage", ["entry cut short", "object gone", "object altered"])
def test_what_is_damaged_is_no_hit_and_is_replaced_by_the_next_execution(tmp_path: Path, damage: str) -> None:
    cache = stored(tmp_path)
    [entry] = (tmp_path / "cache" / "steps").iterdir()
    kept = min((tmp_path / "cache" / "objects").iterdir())
    match damage:
        case "entry cut short":
            entry.write_text(entry.read_text()[:-20])
        case "object gone":
            kept.unlink()
        case _:
            kept.write_bytes(b"altered")
    second = call(tmp_path, "second")
    assert cache.restore(second) is None
    assert not second.folder.exists()
    execute(second)
    cache.store(second, "second")
    assert cache.restore(call(tmp_path, "third")) == "second"


@pytest.mark.parametrize("action", ["store", "restore"])
def test_a_process_killed_at_any_line_leaves_no_half_of_an_entry_and_no_half_of_a_step(
    tmp_path: Path, action: str
) -> None:
    whole = {"result": b"\x00abab", "model/weights": b"weights"}
    hits = set()
    for lines in range(1, 400, 3):
        here = tmp_path / str(lines)
        here.mkdir()
        first, second = call(here, "first"), call(here, "second")
        for step in (first, second):
            step.__dict__["key"] = "key"  # which takes thousands of lines, and writes nothing
        execute(first)
        cache = StepCache(here / "cache")
        if action == "restore":
            cache.store(first, "first")
        actions = {"store": partial(cache.store, first, "first"), "restore": partial(cache.restore, second)}
        ended = killed_after(lines, actions[action])
        if action == "store":
            hit = cache.restore(second) is not None
        else:
            hit = (second.folder / "executor_output.json").exists()
        hits.add(hit)
        if hit:
            found = left(second)
            assert {name: found[name] for name in whole} == whole
            assert {"reused.json", "executor_output.json"} <= found.keys()
        if ended:
            break
    assert ended
    assert hits == {False, True}


def killed_after(lines: int, action: Callable[[], object]) -> bool:
    """Do it in a process that ends after so many lines of the cache; returns whether it came to its end."""
    process = os.fork()
    if process == 0:
        left_to_do = lines

        def trace(frame: Any, event: str, _: object) -> Any:
            nonlocal left_to_do
            if not frame.f_code.co_filename.endswith("step_cache.py"):
                return None
            left_to_do -= event == "line"
            if left_to_do < 0:
                os._exit(9)
            return trace

        sys.settrace(trace)
        action()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def start(step: StepCall, cached: str, **environment: Path) -> subprocess.CompletedProcess[str]:
    module = [sys.executable, "-m", "gauntlet.pipelines.local.step_cache", cached, "kfp.dsl.executor_main"]
    options = [
        "--component_module_path",
        str(step.component),
        "--executor_input",
        json.dumps(step.executor_input),
    ]
    return subprocess.run(
        [*module, *options, "--function_to_execute", step.function],
        env={
            **os.environ,
            "GAUNTLET_RUN": "first",
            **{name: str(path) for name, path in environment.items()},
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_step_of_a_run_executes_once_and_a_failed_one_every_time(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = start(call(tmp_path, "first"), "cached", GAUNTLET_STEP_CACHE=cache)
    assert "executed" in first.stdout, first.stdout + first.stderr
    second = call(tmp_path, "second")
    again = start(second, "cached", GAUNTLET_STEP_CACHE=cache)
    assert (again.returncode, again.stdout) == (0, "reused: first\n"), again.stderr
    assert (second.folder / "result").read_text() == "abab"
    output = json.loads((second.folder / "executor_output.json").read_text())
    assert output["parameterValues"] == {"Output": "done"}
    failed = start(call(tmp_path, "bad", text="bad"), "cached", GAUNTLET_STEP_CACHE=cache)
    assert failed.returncode == 1
    assert len(list((cache / "steps").iterdir())) == 1

    view = RunView(["double"], tmp_path / "logs")
    for line in ("10:00:00.0 - INFO - Executing task 'double'", f"    {again.stdout.strip()}"):
        view.feed(line)
    changed = view.feed("10:00:01.0 - INFO - Task 'double' finished with status SUCCESS")
    assert changed is not None
    assert (changed.state, changed.reused_from) == ("reused", "first")


def test_the_outputs_of_a_run_that_is_judged_again_are_taken_whatever_the_inputs_are(tmp_path: Path) -> None:
    first = call(tmp_path, "first")
    execute(first)
    judging = call(tmp_path, "second", number=100, text="others")
    copy_of(judging, first.folder, "first")
    assert left(judging)["result"] == b"\x00abab"
    assert str(judging.folder) in (judging.folder / "executor_output.json").read_text()


@pytest.mark.parametrize("key", ["network", "loss"])
def test_a_step_runs_again_when_the_users_own_code_has_changed(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAUNTLET_MODULES", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    package = tmp_path / f"own_{key}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text("one = 1")
    training = {key: f"own_{key}.models:Net"}
    before = call(tmp_path, "one", training=training).key
    assert call(tmp_path, "two", training=training).key == before
    (package / "notes.txt").write_text("no code")
    assert call(tmp_path, "three", training=training).key == before
    (package / "models.py").write_text("one = 2")
    assert call(tmp_path, "four", training=training).key != before
