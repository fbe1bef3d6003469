"""The measurements on a GPU: how they are judged, bounded in time, and tried on a CPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, gpu_carry, gpu_inputs, race
from gauntlet.manifests.loading import load_manifest

INSTALLATION_SECONDS = 25


def document(**changes: dict[str, Any] | None) -> dict[str, Any]:
    """What a machine on which every aim is met writes, with some parts' figures changed or absent."""
    throughput = {"unit": "examples/s", "results": {}, "failures": {}}
    figures: dict[str, dict[str, Any] | None] = {
        "emotion": throughput | {"ratios": {"gauntlet, bf16 over Trainer, length groups + bf16": 1.6}},
        "lora": throughput
        | {
            "ratios": {
                "gauntlet, bf16 over Trainer + peft, bf16": 1.1,
                "gauntlet, bf16 over TRL, packed": 2.0,
            }
        },
        "fashion_plain": {
            "gauntlet": [{"accuracies": [0.9, 0.941], "parameters": 1_500_000, "seconds": 31.0}]
        },
        "fashion_small": {
            "gauntlet": [{"accuracies": [0.93, 0.951], "parameters": 700_000, "seconds": None}]
        },
        "resume_emotion": {"identical": True, "killed_after_step": 7, "steps": 10},
        "resume_lora": {"identical": True, "killed_after_step": 7, "steps": 10},
    }
    parts = {
        name: {"status": "ok", "seconds": 1.0} | ({} if found is None else {"figures": found})
        for name, found in (figures | changes).items()
    }
    whole: dict[str, Any] = {"quick": False, "name": "NVIDIA H200", "seconds": 300.0, "parts": parts}
    whole["aims"] = gpu.judged(whole)
    return whole


def test_a_machine_that_meets_every_aim_ends_with_0_and_says_so_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = document()
    gpu.print_table(whole, Path("gpu.json"))
    assert gpu.exit_code(whole) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "8 of 8 aims met on NVIDIA H200 in 300 s: gpu.json"


def small(accuracies: list[float], parameters: int) -> dict[str, Any]:
    return {"gauntlet": [{"accuracies": accuracies, "parameters": parameters, "seconds": None}]}


@pytest.mark.parametrize(
    ("part", "figures", "missed"),
    [
        ("emotion", {"ratios": {"gauntlet, bf16 over Trainer, length groups + bf16": 1.49}}, 1),
        ("lora", {"ratios": {"gauntlet, bf16 over Trainer + peft, bf16": 1.1}}, 1),
        ("lora", {"ratios": {}}, 2),
        ("fashion_plain", small([0.93, 0.939], 1_500_000), 1),
        ("fashion_plain", small([], 1_500_000), 1),
        ("fashion_small", small([0.951, 0.949], 700_000), 1),
        ("fashion_small", small([0.951], 1_000_000), 1),
        ("resume_emotion", {"identical": False}, 1),
        ("resume_lora", None, 1),
    ],
)
def test_an_aim_that_is_missed_or_not_measured_ends_with_1(
    part: str, figures: dict[str, Any] | None, missed: int
) -> None:
    whole = document(**{part: figures})
    found = [aim["part"] for aim in whole["aims"] if not aim["met"]]
    assert (found, gpu.exit_code(whole)) == ([part] * missed, 1)


def test_quick_sizes_judge_no_aim_and_end_with_1_when_a_part_failed() -> None:
    whole = document(emotion=None) | {"quick": True, "device": "cpu"}
    assert (gpu.judged(whole), gpu.exit_code(whole)) == ([], 0)
    whole["parts"]["onnx"] = {"status": "skipped", "seconds": 0.0}
    assert gpu.exit_code(whole) == 0
    whole["parts"]["lora"] = {"status": "timed out", "seconds": 9.0}
    assert gpu.exit_code(whole) == 1
    assert gpu.headline(whole).startswith("5 of 7 parts ran, 1 skipped on cpu")


def test_all_parts_and_the_installation_fit_into_the_limit_and_the_limit_into_eight_minutes() -> None:
    script = (gpu.HERE / "gpu.sh").read_text(encoding="utf-8")
    limit = int(re.search(r"^LIMIT=(\d+)", script, re.MULTILINE)[1])  # type: ignore[index]
    budgets = gpu.INPUTS_SECONDS + sum(part.seconds for part in gpu.PARTS)
    assert INSTALLATION_SECONDS + budgets <= limit < 8 * 60


def test_a_part_over_its_budget_is_recorded_and_its_processes_are_ended(tmp_path: Path) -> None:
    fifo = tmp_path / "open-while-any-process-lives"
    os.mkfifo(fifo)
    script = tmp_path / "hangs.py"
    child = "import time; time.sleep(3600)"
    script.write_text(
        f"import subprocess, sys, time\nheld = open({str(fifo)!r}, 'w')\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], pass_fds=[held.fileno()])\n"
        "print('waiting', flush=True)\ntime.sleep(3600)\n"
    )
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    result = gpu.run_benchmark([str(script)], seconds=5)
    assert result["status"] == "timed out"
    assert result["reason"] == "over its 5 s"
    os.set_blocking(reader, True)
    with os.fdopen(reader) as ended:
        ended.read()  # returns when every process that holds the other end has ended


def test_a_part_that_fails_gives_its_last_line_as_the_reason(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit('error: no such thing')")
    result = gpu.run_benchmark([str(script)], seconds=120)
    assert (result["status"], result["reason"]) == ("failed", "error: no such thing")


def test_onnx_says_how_large_the_runtime_is_that_was_not_carried(tmp_path: Path) -> None:
    (tmp_path / "run/train-model/checkpoint").mkdir(parents=True)
    (tmp_path / "left_out.json").write_text(json.dumps({"onnxruntime-gpu 1.31.1": 255_569_273}))
    machine = {"device": "cuda", "onnxruntime_providers": ["CPUExecutionProvider"]}
    (tmp_path / "machine.json").write_text(json.dumps(machine))
    with pytest.raises(gpu.Skipped, match=r"Not carried: onnxruntime-gpu 1\.31\.1, 256 MB\."):
        gpu.onnx(gpu.Plan(tmp_path, tmp_path, quick=False))


@pytest.mark.parametrize("quick", [True, False])
def test_every_part_sets_what_its_manifest_allows(tmp_path: Path, quick: bool) -> None:
    gpu_inputs.write(tmp_path / "machine.json", {"device": "cpu", "packages": {"trl": None}})
    (tmp_path / "run/train-model/checkpoint").mkdir(parents=True)
    named = ("emotion", gpu_inputs.emotion_settings), ("conversations", gpu_inputs.conversation_settings)
    for name, settings in named:
        gpu_inputs.write(tmp_path / f"{name}.json", asdict(settings(tmp_path)))
    images = gpu_inputs.image_inputs(tmp_path, None if quick else tmp_path)
    gpu_inputs.write(tmp_path / "images.json", asdict(images))
    plan = gpu.Plan(tmp_path, tmp_path, quick)
    loaded = []
    for part in gpu.PARTS:
        script, first, *more = part.command(plan)
        assert (gpu.HERE / script).is_file()
        if first.endswith(".yaml"):
            overrides = [value for flag, value in pairwise(more) if flag == "--set"]
            loaded.append(load_manifest(gpu.REPOSITORY / first, overrides).name)
    assert Counter(loaded) == {"emotion": 3, "lora_lm": 2, "fashion_mnist": 2}


def test_without_images_the_full_sizes_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(gpu.HERE / "gpu.py"), "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "found no folder fashion-mnist" in done.stderr


def test_what_is_carried_has_the_pins_of_the_lock() -> None:
    def pins(path: Path) -> Iterator[tuple[str, str]]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "==" in line and not line.startswith(("#", " ")):
                name, _, version = line.partition("==")
                yield name.lower().replace("_", "-"), version.split()[0]  # a marker or hashes may follow

    locked = dict(pins(gpu.REPOSITORY / "requirements.lock"))
    carried = dict(pins(gpu.HERE / "gpu_requirements.txt"))
    assert {name: locked.get(name, version) for name, version in carried.items()} == carried
    assert set(carried) - set(locked) == {
        "datasets",
        "dill",
        "multiprocess",
        "trl",
        "xxhash",
    }  # TRL and its own
    assert gpu_carry.runtime_version() == locked["onnxruntime"]


def test_made_rows_are_distinct_and_their_classes_of_one_size() -> None:
    rows = list(gpu_inputs.emotion_rows(13_200))
    assert len({text for text, _ in rows}) == 13_200
    assert set(Counter(label for _, label in rows).values()) == {2_200}
    questions = [question for question, _ in gpu_inputs.conversation_rows(1_800)]
    assert len(set(questions)) == 1_800


def test_a_ratio_is_of_the_fastest_of_ours_over_those_that_did_not_fail() -> None:
    results = {"a": [{"rate": 10.0}, {"rate": 30.0}], "b": [{"rate": 15.0}, {"rate": 17.0}]}
    others = {"theirs": [{"rate": 5.0}, {"rate": 10.0}], "failed": []}
    assert race.ratios(results | others, ("a", "b")) == {"a over theirs": 2.5}
    assert race.ratios(others, ("a", "b")) == {}


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
def test_quick_runs_every_part_on_a_cpu(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    environment = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    command = [str(gpu.HERE / "gpu.sh"), "--quick", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = json.loads(output.read_text())
    assert (whole["device"], whole["aims"]) == ("cpu", [])
    names = ["inputs", *(part.name for part in gpu.PARTS)]
    assert {name: part["status"] for name, part in whole["parts"].items()} == dict.fromkeys(names, "ok")
    assert whole["parts"]["resume_lora"]["figures"]["identical"] is True
    assert "9 of 9 parts ran on cpu" in done.stdout.splitlines()[-1]
