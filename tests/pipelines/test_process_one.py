"""Every compiled step as process 1 of a PID namespace of its own, as in a container, that gets SIGTERM."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from gauntlet.components.step import ERROR_FILE
from gauntlet.manifests.loading import load_manifest
from gauntlet.pipelines.training import parameters
from gauntlet.pipelines.vertex.lint import command_fault
from tests.pipelines.test_cli import ROOT, SAMPLE

COMPILED = ROOT / "compiled" / "emotion_sample.yaml"
UNSHARE = ("unshare", "--pid", "--fork", "--kill-child")
FILES = sorted((ROOT / "compiled").rglob("*.yaml"))
# The file that a step reads first after the splits: it is a pipe here, so the step waits for its content.
PIPES = {
    "convert-to-onnx": "checkpoint/training.json",
    "evaluate-model": "bundle/bundle.json",
    "gate-model": "bundle/bundle.json",
    "register-model": "verdict",
    "write-report": "root/job/validate-data/checks",
}


def containers(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every step of a compiled file and its container; of a custom job, that of the job."""
    spec = next(yaml.safe_load_all(file.read_text()))
    for label, executor in spec["deploymentSpec"]["executors"].items():
        if "importer" in executor:  # which runs nothing
            continue
        step = label.removeprefix("exec-")
        inputs = spec["components"][f"comp-{step}"].get("inputDefinitions", {}).get("parameters", {})
        for pool in inputs.get("worker_pool_specs", {}).get("defaultValue", []):
            yield step, pool["container_spec"]
        yield step, executor["container"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT / "compiled")))
def test_every_compiled_command_ends_as_python_itself(file: Path) -> None:
    found = list(containers(file))
    assert {step for step, _ in found} >= {"validate-data", "train-model", "write-report"}
    for _, container in found:
        assert command_fault(container["command"]) is None


def test_a_command_that_leaves_the_shell_as_process_1_is_a_fault() -> None:
    assert "SIGTERM never reaches the step" in str(command_fault(["sh", "-ec", "python3 -m program"]))
    assert "SIGTERM never reaches the step" in str(command_fault(["/bin/bash", "-c", "python3 program.py"]))
    assert command_fault(["sh", "-ec", "export A=1; exec python3 -m program"]) is None
    assert command_fault(["python3", "-m", "program"]) is None
    assert command_fault([]) is None


def executor_input(step: str, folder: Path, overrides: Sequence[str] = ()) -> str:
    """What the platform tells a step: the sample's parameters, inputs in `folder`, outputs in one below."""
    component = next(yaml.safe_load_all(COMPILED.read_text()))["components"][f"comp-{step}"]
    given = parameters(load_manifest(SAMPLE, overrides)) | {
        "registry_uri": f"sqlite:///{folder / 'gauntlet.db'}",
        "tracking_uri": "",
        "run_id": "run",
        "data_fingerprint": "f" * 64,
        "splits_folder": "",
        "splits_sha256": "f" * 64,
        "pipeline_root": str(folder / "root"),
        "job": "job",
        "status": {"state": "SUCCEEDED", "error": {"message": ""}, "pipelineJobResourceName": "job"},
    }

    def artifacts(definitions: str, where: Path) -> dict[str, Any]:
        named = component.get(definitions, {}).get("artifacts", {})
        return {
            name: {
                "artifacts": [
                    {"name": name, "uri": str(where / name), "metadata": {}, "type": one["artifactType"]}
                ]
            }
            for name, one in named.items()
        }

    output = folder / "step"
    names = component["inputDefinitions"]["parameters"]
    content = {
        "inputs": {
            "parameterValues": {name: given[name] for name in names if name in given},
            "artifacts": artifacts("inputDefinitions", folder),
        },
        "outputs": {
            "artifacts": artifacts("outputDefinitions", output),
            "outputFile": str(output / "executor_output.json"),
        },
    }
    return json.dumps(content)


@pytest.fixture(scope="module")
def namespace() -> Sequence[str]:
    """The command that makes the one after it process 1 of a PID namespace."""
    for command in (UNSHARE, (*UNSHARE, "--user", "--map-root-user")):
        if shutil.which("unshare") and not subprocess.call([*command, "true"], stderr=subprocess.DEVNULL):
            return command
    pytest.skip("this machine allows no PID namespace (unshare --pid), so no step can be process 1 of one")


@dataclass(frozen=True)
class Container:
    """A compiled step that runs as process 1 of a namespace."""

    process: subprocess.Popen[str]
    outputs: Path

    def terminate(self) -> dict[str, Any]:
        """Send SIGTERM to process 1; what the step leaves in `error.json` then."""
        [first] = psutil.Process(self.process.pid).children()
        first.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 143, errors
        assert "Traceback" not in errors
        assert [path.name for path in self.outputs.iterdir()] == [ERROR_FILE]
        failure: dict[str, Any] = json.loads((self.outputs / ERROR_FILE).read_text())
        assert failure["exit_code"] == 143
        return failure


Start = Callable[..., Container]


@pytest.fixture
def start(namespace: Sequence[str], tiny_splits: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a step of the sample's compiled file with its inputs in `tmp_path`."""
    started: list[subprocess.Popen[str]] = []

    def start_step(step: str, *overrides: str, **environment: str) -> Container:
        container = dict(reversed(list(containers(COMPILED))))[step]  # of a custom job, that of the job
        told = executor_input(step, tmp_path, overrides)
        paths = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}",
        }
        process = subprocess.Popen(
            [
                *namespace,
                *container["command"],
                *(told if "{{$" in part else part for part in container["args"]),
            ],
            env=os.environ | paths | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return Container(process, tmp_path / "step")

    yield start_step
    for process in started:
        process.kill()
        process.communicate()


def wait_until_read(pipe: Path, process: subprocess.Popen[str]) -> int:
    """A writer's end of the pipe, once the process has opened it for reading."""
    while process.poll() is None:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO  # nobody reads it yet
            time.sleep(0.05)
    raise AssertionError(f"the step ended before it read {pipe}: {process.communicate()[1]}")


@pytest.mark.parametrize("step", PIPES)
def test_a_step_that_is_process_1_ends_on_sigterm_and_says_so(
    start: Start, step: str, tmp_path: Path
) -> None:
    pipe = tmp_path / PIPES[step]
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    container = start(step)
    writer = wait_until_read(pipe, container.process)
    assert "the step was cancelled or preempted" in container.terminate()["message"]
    os.close(writer)


def test_validate_data_that_waits_for_a_server_ends_on_sigterm(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        uri = f"http://127.0.0.1:{server.getsockname()[1]}/texts.csv"
        container = start("validate-data", f"dataset.uri={uri}")
        connection, _ = server.accept()  # and no answer
        assert "the step was cancelled or preempted" in container.terminate()["message"]
        connection.close()


def test_train_model_writes_its_state_on_sigterm(start: Start, tiny_encoder: Path, tmp_path: Path) -> None:
    settings = (
        f"training.encoder={tiny_encoder}",
        "training.epochs=100000",
        "training.early_stopping.patience=100000",  # it trains until the signal comes, however late that is
    )
    container = start("train-model", *settings, AIP_CHECKPOINT_DIR=str(tmp_path / "states"))
    assert container.process.stdout is not None
    for line in container.process.stdout:
        if "epoch 1/" in line:
            break
    message = container.terminate()["message"]
    assert "training: ended by SIGTERM after step" in message
    assert f"Its state is in {tmp_path / 'states'}" in message
    [*_, newest] = sorted((tmp_path / "states").iterdir())
    assert (newest / "manifest.json").is_file()
