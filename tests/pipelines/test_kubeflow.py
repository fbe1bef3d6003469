"""What is compiled for Kubeflow, read as strictly as KFP's driver reads it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from gauntlet.backends.prices import LIST_PRICES
from gauntlet.manifests.errors import ManifestError
from gauntlet.manifests.loading import load_manifest, save_manifest
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.kubeflow import MachineSize, machine_size, notes, requested
from gauntlet.pipelines.training import compile_manifest
from tests.pipelines.test_cli import ROOT, SAMPLE, gauntlet
from tests.pipelines.test_vertex_compile import executors

T4 = "{machine_type: n1-standard-8, accelerator_type: NVIDIA_TESLA_T4, accelerator_count: 1, max_hours: 2}"
TWO_L4 = (
    "{machine_type: g2-standard-24, accelerator_type: NVIDIA_L4, accelerator_count: 2, max_hours: 1, "
    "max_cost_usd: 10}"
)
CLUSTER = """{
  volume: {claim: training-states, mount_path: /mnt/states},
  secrets: {mlflow: {MLFLOW_TRACKING_TOKEN: token}, hugging-face: {HF_TOKEN: token, HF_HUB_TOKEN: token}},
  image_pull_secrets: [registry],
  node_selector: {eks.amazonaws.com/nodegroup: gpus},
  tolerations: [{key: team, value: ml, effect: NoSchedule}]
}"""
MANIFESTS = sorted((ROOT / "manifests").glob("*.yaml"))


def manifest(resources: str = "{}", cluster: str = "{}") -> Manifest:
    return load_manifest(
        ROOT / "manifests" / "emotion_sample.yaml",
        [f"training.resources={resources}", f"platforms.kubeflow={cluster}"],
    )


class Compiled:
    """A pipeline and its platform's settings, of which every key is known to KFP."""

    def __init__(self, text: str) -> None:
        spec, platform = yaml.safe_load_all(text)
        self.spec = json_format.ParseDict(spec, PipelineSpec())
        settings = json_format.ParseDict(platform, PlatformSpec())
        deployment = json_format.MessageToDict(settings.platforms["kubernetes"].deployment_spec)
        self.pods = {
            name.removeprefix("exec-"): json_format.ParseDict(one, KubernetesExecutorConfig())
            for name, one in deployment["executors"].items()
        }
        self.containers = {
            name.removeprefix("exec-"): executor.container for name, executor in executors(self.spec).items()
        }

    def pod(self, step: str) -> dict[str, Any]:
        return json_format.MessageToDict(self.pods[step])

    def environment(self, step: str) -> dict[str, str]:
        return {one.name: one.value for one in self.containers[step].env}

    def resources(self, step: str) -> dict[str, str]:
        found = json_format.MessageToDict(self.containers[step].resources)
        return {key: value for key, value in found.items() if key.startswith("resource")}


def compiled(tmp_path: Path, resources: str = "{}", cluster: str = "{}") -> Compiled:
    path = tmp_path / "kubeflow.yaml"
    compile_manifest(manifest(resources, cluster), path, "kubeflow")
    return Compiled(path.read_text())


RUN_ID = [{"name": "GAUNTLET_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}]
GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


# --- train-model's pod ---


def test_a_training_on_a_cpu_gets_its_deadline_the_runs_id_and_most_of_the_machine(tmp_path: Path) -> None:
    found = compiled(tmp_path)
    assert found.pods.keys() == {"train-model"}
    assert found.pod("train-model") == {"activeDeadlineSeconds": "16200", "fieldPathAsEnv": RUN_ID}
    assert found.resources("train-model") == {  # n1-standard-4: 4 CPUs, 15 GB
        "resourceCpuLimit": "4",
        "resourceMemoryLimit": "15G",
        "resourceCpuRequest": "3",
        "resourceMemoryRequest": "11G",
    }


def test_a_training_on_a_gpu_gets_gkes_node_and_cpus_and_memory_beside_it(tmp_path: Path) -> None:
    found = compiled(tmp_path, T4)
    assert found.pod("train-model") == {
        "activeDeadlineSeconds": "9000",
        "fieldPathAsEnv": RUN_ID,
        "nodeSelector": {"labels": {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}},
        "tolerations": [GPU_TAINT],
    }
    assert found.resources("train-model") == {
        "resourceCpuLimit": "8",
        "resourceMemoryLimit": "30G",
        "resourceCpuRequest": "6",
        "resourceMemoryRequest": "22G",
    }
    accelerator = found.containers["train-model"].resources.accelerator
    assert (accelerator.resource_type, accelerator.resource_count) == ("nvidia.com/gpu", "1")


def test_several_gpus_get_shared_memory_beyond_the_64_mb_of_a_container(tmp_path: Path) -> None:
    found = compiled(tmp_path, TWO_L4)
    assert found.pod("train-model")["emptyDirMounts"] == [
        {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory"}
    ]
    assert "emptyDirMounts" not in compiled(tmp_path, T4).pod("train-model")


def test_the_section_gives_the_pod_what_the_cluster_has(tmp_path: Path) -> None:
    found = compiled(tmp_path, T4, CLUSTER)
    pod = found.pod("train-model")
    assert pod["nodeSelector"] == {"labels": {"eks.amazonaws.com/nodegroup": "gpus"}}
    team = {"key": "team", "operator": "Equal", "value": "ml", "effect": "NoSchedule"}
    assert pod["tolerations"] == [GPU_TAINT, team]
    [mount] = pod["pvcMount"]
    assert (mount["constant"], mount["mountPath"]) == ("training-states", "/mnt/states")
    assert found.environment("train-model") == {
        "GAUNTLET_BOUGHT_GPUS": "1",
        "GAUNTLET_PLATFORM": "kubeflow",
        "GAUNTLET_STATES": "/mnt/states",
    }

    for step in found.containers:
        secrets = [
            (one["secretName"], pair["secretKey"], pair["envVar"])
            for one in found.pod(step)["secretAsEnv"]
            for pair in one["keyToEnv"]
        ]
        assert secrets == [
            ("mlflow", "token", "MLFLOW_TRACKING_TOKEN"),
            ("hugging-face", "token", "HF_TOKEN"),
            ("hugging-face", "token", "HF_HUB_TOKEN"),
        ]
        assert [one["secretName"] for one in found.pod(step)["imagePullSecret"]] == ["registry"]
        assert found.environment(step)["GAUNTLET_PLATFORM"] == "kubeflow"
    assert "pvcMount" not in found.pod("convert-to-onnx")


def test_an_empty_node_selector_lets_the_gpu_alone_choose_the_node(tmp_path: Path) -> None:
    pod = compiled(tmp_path, T4, "{node_selector: {}}").pod("train-model")
    assert "nodeSelector" not in pod
    assert pod["tolerations"] == [GPU_TAINT]


def test_a_managed_model_which_a_vendor_trains_gets_no_volume(tmp_path: Path) -> None:
    volume = "platforms.kubeflow.volume={claim: training-states}"
    managed = load_manifest(ROOT / "manifests" / "gemini_lm.yaml", [volume])
    compile_manifest(managed, tmp_path / "k.yaml", "kubeflow")
    pod = Compiled((tmp_path / "k.yaml").read_text()).pod("train-model")
    assert pod.keys() == {"activeDeadlineSeconds"}
    assert notes(managed)[-1] == "Not used by a managed model: platforms.kubeflow.volume."


# --- how large it is ---


def test_the_size_of_every_machine_that_has_a_price_is_known() -> None:
    assert [name for name in LIST_PRICES.machines if machine_size(name) is None] == []
    assert machine_size("n1-highmem-8") == MachineSize(8, 52)
    assert machine_size("g2-standard-96") == MachineSize(96, 384)
    assert machine_size("a3-highgpu-1g") == MachineSize(26, 234)
    assert machine_size("c4-custom-1") is None
    assert requested(MachineSize(1, 4)) == MachineSize(1, 3)


def test_compiling_says_what_the_pod_asks_for_and_what_kubeflow_does_not_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resources = T4.replace("}", ", strategy: spot, boot_disk_gb: 200}")
    target = tmp_path / "k.yaml"
    arguments = (
        "--platform",
        "kubeflow",
        "--output",
        str(target),
        "--set",
        f"training.resources={resources}",
    )
    assert gauntlet("compile", SAMPLE, *arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "train-model's pod asks for 6 CPUs and 22 GB, 75% of n1-standard-8." in said
    assert "GKE's label cloud.google.com/gke-accelerator" in said
    assert "Not used on Kubeflow: training.resources.strategy, training.resources.boot_disk_gb." in said
    assert "A training whose pod is lost starts again" in said


def test_a_machine_of_unknown_size_gets_what_the_other_steps_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "prices.yaml"
    own.write_text("machines: {rack-7: {usd_per_hour: 0.5}}")
    monkeypatch.setenv("GAUNTLET_PRICES", str(own))
    found = compiled(tmp_path, "{machine_type: rack-7}")
    assert found.resources("train-model")["resourceCpuRequest"] == "3"
    assert found.resources("train-model")["resourceMemoryLimit"] == "16G"
    [first, *_] = notes(manifest("{machine_type: rack-7}"))
    assert first == "train-model's pod asks for 3 CPUs and 12 GB: the size of rack-7 is not known."


def test_gpus_of_a_machine_of_unknown_size_get_no_guessed_limit_that_would_kill_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "prices.yaml"
    own.write_text("machines: {a4-highgpu-8g: {usd_per_hour: 90}}")
    monkeypatch.setenv("GAUNTLET_PRICES", str(own))
    gpus = "accelerator_type: NVIDIA_B200, accelerator_count: 8"
    eight = f"{{machine_type: a4-highgpu-8g, {gpus}, max_cost_usd: 500}}"
    resources = compiled(tmp_path, eight).resources("train-model")
    assert "resourceMemoryLimit" not in resources and "resourceCpuLimit" not in resources
    assert resources["resourceMemoryRequest"] == "12G"


# --- the DAG ---


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_no_step_is_given_a_placeholder_that_the_driver_does_not_resolve(path: Path) -> None:
    text = (ROOT / "compiled" / "kubeflow" / path.name).read_text()
    found = Compiled(text)
    constants = [
        value.runtime_value.constant.string_value
        for component in (found.spec.root, *found.spec.components.values())
        for task in component.dag.tasks.values()
        for value in task.inputs.parameters.values()
    ]
    # backend/src/v2/driver/resolve.go replaces these, and only where they are the whole value.
    assert {value for value in constants if "{{" in value} == {"{{$.pipeline_job_uuid}}"}
    assert "pipeline_root" not in text


def test_training_waits_for_the_services_that_later_steps_write_to(tmp_path: Path) -> None:
    tasks = compiled(tmp_path).spec.root.dag.tasks
    assert "check-services" in tasks["train-model"].dependent_tasks
    assert not tasks["check-services"].caching_options.enable_cache
    given = tasks["check-services"].inputs.parameters
    assert given["registry_uri"].component_input_parameter == "registry_uri"
    assert given["tracking_uri"].component_input_parameter == "tracking_uri"


def test_a_promoted_run_and_a_rejected_one_end_with_the_report_and_there_is_no_exit_handler(
    tmp_path: Path,
) -> None:
    spec = compiled(tmp_path).spec
    ends = {
        task.trigger_policy.condition.rpartition(" ")[2]: set(
            spec.components[task.component_ref.name].dag.tasks
        )
        for task in spec.root.dag.tasks.values()
        if task.trigger_policy.condition
    }
    assert ends == {"'promote'": {"register-model", "write-report"}, "'reject'": {"write-report-2"}}
    assert not any(task.trigger_policy.strategy for task in spec.root.dag.tasks.values())


# --- KFP's own client ---


class KfpServer(BaseHTTPRequestHandler):
    """As much of KFP's API as its client asks when it starts a run, which is kept."""

    started: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        experiment = {"experiment_id": "1", "display_name": "Default"}
        self._answer({"experiments": [experiment]} if "/experiments" in self.path else {"multi_user": False})

    def do_POST(self) -> None:
        assert self.path == "/apis/v2beta1/runs"
        self.started.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer({"run_id": "0cf1-77"})

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.filterwarnings("ignore:This client only works:FutureWarning")
def test_kfps_client_sends_the_pipeline_with_its_platform_and_the_two_addresses() -> None:
    import kfp

    server = ThreadingHTTPServer(("127.0.0.1", 0), KfpServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    given = {"registry_uri": "mlflow+https://mlflow.example", "tracking_uri": ""}
    try:
        kfp.Client(host=f"http://127.0.0.1:{server.server_port}").create_run_from_pipeline_package(
            str(ROOT / "compiled" / "kubeflow" / "emotion.yaml"), given, service_account="pipeline-runner"
        )
    finally:
        server.shutdown()
        server.server_close()
    [run] = KfpServer.started
    assert run["runtime_config"]["parameters"] == given
    assert run["service_account"] == "pipeline-runner"
    spec, platform = yaml.safe_load_all((ROOT / "compiled" / "kubeflow" / "emotion.yaml").read_text())
    assert run["pipeline_spec"] == {"pipeline_spec": spec, "platform_spec": platform}
    asked = {
        name
        for name, one in spec["root"]["inputDefinitions"]["parameters"].items()
        if "defaultValue" not in one
    }
    assert asked == given.keys()


# --- the manifest's section ---


def test_the_section_changes_neither_the_hash_nor_a_steps_inputs_nor_what_vertex_gets(tmp_path: Path) -> None:
    plain, furnished = manifest(T4), manifest(T4, CLUSTER)
    assert furnished.sha256 == plain.sha256
    texts = []
    for number, one in enumerate((plain, furnished)):
        compile_manifest(one, tmp_path / f"{number}.yaml", "vertex")
        texts.append((tmp_path / f"{number}.yaml").read_text())
    assert texts[0] == texts[1]

    specs = [compiled(tmp_path, T4, cluster).spec for cluster in ("{}", CLUSTER)]
    for spec in specs:  # what is not in KFP's cache key is left out
        for executor in spec.deployment_spec["executors"].values():
            if "container" in executor:
                del executor["container"]["env"]
    assert specs[0] == specs[1]


def test_a_saved_manifest_keeps_the_section(tmp_path: Path) -> None:
    save_manifest(manifest(T4, CLUSTER), tmp_path / "saved.yaml")
    assert load_manifest(tmp_path / "saved.yaml").platforms == manifest(T4, CLUSTER).platforms


@pytest.mark.parametrize(
    ("cluster", "key", "words"),
    [
        ("{volumes: {}}", "platforms.kubeflow.volumes", "a key that nothing reads"),
        ("{volume: {claim: My_Claim}}", "platforms.kubeflow.volume.claim", "My_Claim"),
        ("{volume: {claim: c, mount_path: states}}", "platforms.kubeflow.volume.mount_path", "states"),
        ("{secrets: {s: {1TOKEN: k}}}", "platforms.kubeflow.secrets.s.1TOKEN", "1TOKEN"),
        ("{secrets: {a: {T: k}, b: {T: k}}}", "platforms.kubeflow", "more than once"),
        ("{tolerations: [{operator: Exists, value: x}]}", "platforms.kubeflow.tolerations.0", "no value"),
        ("{tolerations: [{value: x}]}", "platforms.kubeflow.tolerations.0", "needs a key"),
        ("{node_selector: {gpu: true}}", "platforms.kubeflow.node_selector.gpu", "True"),
    ],
)
def test_a_fault_in_the_section_is_named(cluster: str, key: str, words: str) -> None:
    with pytest.raises(ManifestError) as refused:
        manifest(cluster=cluster)
    [fault] = refused.value.faults
    assert fault.key == key
    assert words in str(fault)
