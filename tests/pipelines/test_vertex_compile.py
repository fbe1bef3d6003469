"""What is compiled for Vertex AI and for Kubeflow, held against Google's and KFP's own message types."""

import json
import re
from pathlib import Path
from typing import Any  # kfp reads annotations at run time, so they are not postponed in this module

import pytest
import yaml
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform
from google.cloud.aiplatform_v1.types import CustomJob, Scheduling
from google.protobuf import json_format
from google_cloud_pipeline_components._placeholders import SERVICE_ACCOUNT_PLACEHOLDER
from google_cloud_pipeline_components.v1.custom_job import create_custom_training_job_from_component
from kfp import dsl
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.platforms import STATES_FOLDER, Platform, require_free_names
from gauntlet.pipelines.training import compile_manifest, exec_python, parameters, training_pipeline
from gauntlet.pipelines.vertex.lint import faults, require_acceptable
from tests.pipelines.test_cli import ROOT, SAMPLE, gauntlet

MANIFESTS = sorted((ROOT / "manifests").glob("*.yaml"))
GPU = "{machine_type: n1-standard-8, accelerator_type: NVIDIA_TESLA_T4, accelerator_count: 1, max_hours: 2"
L4 = "{machine_type: g2-standard-8, accelerator_type: NVIDIA_L4, accelerator_count: 1, max_hours: 2"
IMAGE = "registry.example/image:1.0"


def manifest(resources: str = "{}") -> Manifest:
    return load_manifest(
        ROOT / "manifests" / "emotion_sample.yaml", [f"training.resources={resources}", "training.epochs=1"]
    )


def executors(spec: PipelineSpec) -> Any:
    content = json_format.MessageToDict(spec.deployment_spec)
    return json_format.ParseDict(content, PipelineDeploymentConfig()).executors


def custom_job(spec: PipelineSpec, **given: str) -> CustomJob:
    """What train-model's launcher sends, with the values that are given or known before it runs filled in."""
    [*_, payload] = (
        part for part in executors(spec)["exec-train-model"].container.args if "job_spec" in part
    )
    inputs = spec.components["comp-train-model"].input_definitions.parameters
    values = {name: json_format.MessageToDict(one.default_value) for name, one in inputs.items()} | given

    def fill(found: re.Match[str]) -> str:
        value = values[found[1]] or ([] if found[1] == "reserved_ip_ranges" else values[found[1]])
        return value if isinstance(value, str) else json.dumps(value)

    filled = re.sub(r"\{\{\$\.inputs\.parameters\['(\w+)'\]\}\}", fill, payload)
    content = json.loads(filled)
    # The launcher leaves out what is empty, too.
    content["job_spec"] = {
        key: value for key, value in content["job_spec"].items() if value not in ({}, [], "")
    }
    message = json_format.ParseDict(content, CustomJob.pb()())  # an unknown key is refused
    return CustomJob.wrap(message)


def compiled(resources: str, platform: Any = "vertex") -> PipelineSpec:
    pipeline = training_pipeline(manifest(resources), "image", platform)
    return pipeline.pipeline_spec


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_committed_file_is_a_pipeline_spec_that_vertex_takes_with_its_parameters(path: Path) -> None:
    file = ROOT / "compiled" / path.name
    spec = json_format.ParseDict(yaml.safe_load(file.read_text()), PipelineSpec())
    assert faults(spec) == []

    given = parameters(load_manifest(path)) | {
        "registry_uri": "r",
        "tracking_uri": "t",
        "training_account": "a",
    }
    job = aiplatform.PipelineJob(
        display_name=path.stem,
        template_path=str(file),
        pipeline_root="gs://bucket/root",
        parameter_values=given,
        project="demo",
        location="europe-west4",
        credentials=AnonymousCredentials(),
    )
    assert dict(job.runtime_config.parameter_values)["name"] == given["name"]
    assert set(spec.root.input_definitions.parameters) == set(given)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_committed_file_for_kubeflow_is_a_pipeline_spec_and_its_node_settings(path: Path) -> None:
    documents = yaml.safe_load_all((ROOT / "compiled" / "kubeflow" / path.name).read_text())
    spec, platform = documents
    json_format.ParseDict(spec, PipelineSpec())
    [settings] = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    assert json_format.ParseDict(settings, KubernetesExecutorConfig()).active_deadline_seconds > 0


def test_compiling_for_kubeflow_writes_the_committed_file(tmp_path: Path) -> None:
    target = tmp_path / "emotion.yaml"
    arguments = ("--platform", "kubeflow", "--output", str(target))
    assert gauntlet("compile", str(ROOT / "manifests" / "emotion.yaml"), *arguments) == 0
    assert target.read_text() == (ROOT / "compiled" / "kubeflow" / "emotion.yaml").read_text()


def test_training_is_a_custom_job_with_the_machine_the_deadline_and_the_labels_of_the_manifest() -> None:
    job = custom_job(compiled(f"{GPU}, boot_disk_gb: 200}}"))
    [pool] = job.job_spec.worker_pool_specs
    assert pool.machine_spec.machine_type == "n1-standard-8"
    assert pool.machine_spec.accelerator_type.name == "NVIDIA_TESLA_T4"
    assert (pool.machine_spec.accelerator_count, pool.replica_count) == (1, 1)
    assert (pool.disk_spec.boot_disk_type, pool.disk_spec.boot_disk_size_gb) == ("pd-ssd", 200)
    scheduling = job.job_spec.scheduling
    # Two hours, and half an hour for the machine, the image and the model.
    assert scheduling.timeout.total_seconds() == 2.5 * 3600
    assert scheduling.strategy == Scheduling.Strategy.STANDARD
    assert scheduling.restart_job_on_worker_restart is False
    assert job.job_spec.base_output_directory.output_uri_prefix == STATES_FOLDER  # a worker may be restarted
    assert dict(job.labels) == {"system": "emotion_sample", "step": "train-model"}
    assert job.job_spec.persistent_resource_id == "{{$.pipeline_persistent_resource_id}}"


def test_training_runs_as_the_account_that_the_pipeline_is_given() -> None:
    spec = compiled("{}")
    [group] = (one.dag for one in spec.components.values() if "train-model" in one.dag.tasks)
    account = group.tasks["train-model"].inputs.parameters["service_account"]
    inside = account.component_input_parameter
    outside = spec.root.dag.tasks["exit-handler-1"].inputs.parameters[inside].component_input_parameter
    assert outside == "training_account"
    assert (
        spec.root.input_definitions.parameters[outside].default_value.string_value
        == SERVICE_ACCOUNT_PLACEHOLDER
    )
    trainer = "trainer@demo.iam.gserviceaccount.com"
    assert custom_job(spec, service_account=trainer).job_spec.service_account == trainer


def test_the_machines_of_a_persistent_resource_are_used_where_one_is_named() -> None:
    job = custom_job(compiled(f"{GPU}, persistent_resource: gpus}}")).job_spec
    assert job.persistent_resource_id == "gpus"
    assert job.worker_pool_specs[0].machine_spec.machine_type == "n1-standard-8"


def test_a_managed_training_knows_the_image_that_it_is_made_in_on_every_platform() -> None:
    gemini = load_manifest(ROOT / "manifests" / "gemini_lm.yaml")
    job = custom_job(training_pipeline(gemini, IMAGE, "vertex").pipeline_spec).job_spec
    [pool] = job.worker_pool_specs
    assert {one.name: one.value for one in pool.container_spec.env} == {"GAUNTLET_IMAGE": IMAGE}

    elsewhere: dict[Platform, dict[str, str]] = {
        "local": {},
        "kubeflow": {"GAUNTLET_PLATFORM": "kubeflow"},
    }
    for platform, also in elsewhere.items():
        spec = training_pipeline(gemini, IMAGE, platform).pipeline_spec
        container = executors(spec)["exec-train-model"].container
        assert {one.name: one.value for one in container.env} == {"GAUNTLET_IMAGE": IMAGE, **also}


def retries(spec: PipelineSpec) -> dict[str, int]:
    """How often each task is run again when it fails, by its name."""
    dags = [spec.root.dag, *(component.dag for component in spec.components.values())]
    return {name: task.retry_policy.max_retry_count for dag in dags for name, task in dag.tasks.items()}


@pytest.mark.parametrize("platform", ["vertex", "kubeflow"])
def test_cheap_steps_are_retried_after_a_while_and_training_is_not_bought_again(platform: Platform) -> None:
    spec = compiled("{}", platform)
    of_kubeflow = {"check-services", "write-report", "write-report-2"} if platform == "kubeflow" else set()
    assert {name for name, count in retries(spec).items() if count} == of_kubeflow | {
        "fingerprint-data",
        "validate-data",
        "convert-to-onnx",
        "evaluate-model",
        "gate-model",
        "register-model",
    }
    dags = [spec.root.dag, *(component.dag for component in spec.components.values())]
    [dag] = (one for one in dags if "validate-data" in one.tasks)
    policy = dag.tasks["validate-data"].retry_policy
    assert (policy.max_retry_count, policy.backoff_duration.seconds, policy.backoff_factor) == (2, 60, 2)


def test_answers_that_are_paid_for_are_not_asked_for_again() -> None:
    gemini = load_manifest(ROOT / "manifests" / "gemini_lm.yaml")
    found = retries(training_pipeline(gemini, IMAGE, "vertex").pipeline_spec)
    assert {name for name, count in found.items() if count} == {
        "fingerprint-data",
        "validate-data",
        "gate-model",
        "register-model",
    }


def test_spot_machines_and_several_machines_start_again_from_their_states() -> None:
    spot = custom_job(compiled(f"{GPU}, strategy: spot}}")).job_spec
    assert spot.scheduling.strategy == Scheduling.Strategy.SPOT
    assert spot.scheduling.restart_job_on_worker_restart is True
    assert spot.base_output_directory.output_uri_prefix.startswith("{{$.pipeline_root}}/")

    several = custom_job(compiled(f"{GPU}, replica_count: 3}}")).job_spec
    assert [pool.replica_count for pool in several.worker_pool_specs] == [1, 2]
    assert several.scheduling.restart_job_on_worker_restart is True

    waiting = custom_job(compiled(f"{L4}, strategy: flex_start, max_wait_hours: 3}}")).job_spec.scheduling
    assert waiting.strategy == Scheduling.Strategy.FLEX_START
    assert waiting.max_wait_duration.total_seconds() == 3 * 3600
    assert waiting.restart_job_on_worker_restart is False


def test_what_data_and_settings_decide_is_cached_and_what_the_champion_decides_is_not() -> None:
    spec = compiled("{}")
    tasks: dict[str, bool] = {}
    for component in (spec.root, *spec.components.values()):
        for name, task in component.dag.tasks.items():
            tasks[name] = task.caching_options.enable_cache
    cached = {name for name, on in tasks.items() if on and spec.components[f"comp-{name}"].executor_label}
    assert {"validate-data", "train-model", "convert-to-onnx"} <= cached
    others = {"fingerprint-data", "evaluate-model", "gate-model", "register-model", "write-report"}
    assert others <= tasks.keys() and not cached & others


@pytest.mark.parametrize("name", ["emotion", "gemini_lm"])
@pytest.mark.parametrize("platform", ["vertex", "kubeflow", "local"])
def test_validate_data_is_cached_by_the_files_and_the_steps_after_it_by_the_content_of_the_splits(
    name: str, platform: Platform
) -> None:
    """An artifact's id is in the key too, but newer KFP backends take its name instead."""
    loaded = load_manifest(ROOT / "manifests" / f"{name}.yaml")
    spec = training_pipeline(loaded, IMAGE, platform).pipeline_spec
    dags = [spec.root.dag, *(component.dag for component in spec.components.values())]
    [steps] = (dag.tasks for dag in dags if "validate-data" in dag.tasks)
    cached = {
        step: task
        for step, task in steps.items()
        if task.caching_options.enable_cache
        and spec.components[task.component_ref.name].executor_label
        and step != "importer"
    }
    assert len(cached) == (2 if name == "gemini_lm" else 3)
    files = cached.pop("validate-data").inputs.parameters["data_fingerprint"].task_output_parameter
    assert files.producer_task == "fingerprint-data"
    for task in cached.values():
        rows = task.inputs.parameters["splits_sha256"].task_output_parameter
        assert (rows.producer_task, rows.output_parameter_key) == ("validate-data", "splits_sha256")
        assert "data_fingerprint" not in task.inputs.parameters


def test_on_vertex_the_same_splits_are_the_same_artifact_whichever_run_has_made_them() -> None:
    spec = compiled("{}")
    [importer] = [one.importer for one in executors(spec).values() if one.HasField("importer")]
    assert not importer.reimport
    dags = [spec.root.dag, *(component.dag for component in spec.components.values())]
    [steps] = (dag.tasks for dag in dags if "validate-data" in dag.tasks)
    folder = steps["validate-data"].inputs.parameters["splits_folder"].runtime_value.constant.string_value
    assert folder.startswith("{{$.pipeline_root}}/splits/")  # and no run's folder
    kept = steps["importer"].inputs.parameters["uri"].task_output_parameter
    assert (kept.producer_task, kept.output_parameter_key) == ("validate-data", "splits_uri")
    for step in ("train-model", "convert-to-onnx", "evaluate-model"):
        assert steps[step].inputs.artifacts["splits"].task_output_artifact.producer_task == "importer"


def test_steps_on_a_cpu_ask_for_literal_cpus_and_memory() -> None:
    limits = {
        name: (executor.container.resources.cpu_limit, executor.container.resources.memory_limit)
        for name, executor in executors(compiled("{}")).items()
        if executor.HasField("container")
    }
    assert limits.pop("exec-train-model") == (0, 0)  # the launcher of the custom job
    assert limits["exec-convert-to-onnx"] == (4, 16)
    assert all(cpus >= 1 and memory >= 4 for cpus, memory in limits.values())


def test_what_this_machine_runs_asks_google_cloud_for_nothing(tmp_path: Path) -> None:
    compile_manifest(manifest(GPU + "}"), tmp_path / "local.yaml", "local")
    text = (tmp_path / "local.yaml").read_text()
    assert "pipeline_google_cloud" not in text and "worker_pool_specs" not in text
    assert "run_id" in yaml.safe_load(text)["root"]["inputDefinitions"]["parameters"]


def test_kubeflow_gets_the_gpu_its_node_and_the_deadline(tmp_path: Path) -> None:
    compile_manifest(manifest(GPU + "}"), tmp_path / "k.yaml", "kubeflow")
    spec, platform = yaml.safe_load_all((tmp_path / "k.yaml").read_text())
    container = executors(json_format.ParseDict(spec, PipelineSpec()))["exec-train-model"].container
    assert container.resources.accelerator.resource_type == "nvidia.com/gpu"
    assert container.resources.accelerator.resource_count == "1"
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train-model"]
    config = json_format.ParseDict(settings, KubernetesExecutorConfig())
    assert dict(config.node_selector.labels) == {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}
    assert [(one.key, one.operator, one.effect) for one in config.tolerations] == [
        ("nvidia.com/gpu", "Exists", "NoSchedule")
    ]
    assert config.active_deadline_seconds == 2.5 * 3600


def test_a_bought_machines_training_is_told_how_many_gpus_were_bought(tmp_path: Path) -> None:
    [pool] = custom_job(compiled(GPU + "}")).job_spec.worker_pool_specs
    assert [(one.name, one.value) for one in pool.container_spec.env] == [("GAUNTLET_BOUGHT_GPUS", "1")]
    pod = executors(compiled(GPU + "}", "kubeflow"))["exec-train-model"].container
    assert ("GAUNTLET_BOUGHT_GPUS", "1") in [(one.name, one.value) for one in pod.env]
    [without] = custom_job(compiled("{}")).job_spec.worker_pool_specs
    assert list(without.container_spec.env) == []
    compile_manifest(manifest(GPU + "}"), tmp_path / "local.yaml", "local")
    assert "GAUNTLET_BOUGHT_GPUS" not in (tmp_path / "local.yaml").read_text()


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("check", ()),
        ("cost", ()),
        ("run", ()),
        ("compile", ("--platform", "vertex")),
        ("compile", ("--platform", "kubeflow")),
        ("submit", ("--dry-run",)),
        ("tune", ()),
    ],
)
@pytest.mark.usefixtures("place")
def test_every_command_refuses_a_gpu_without_kernels(
    command: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    v100 = GPU.replace("NVIDIA_TESLA_T4", "NVIDIA_TESLA_V100") + "}"
    assert gauntlet(command, SAMPLE, *options, "--set", f"training.resources={v100}") == 2
    assert "NVIDIA_TESLA_V100 is a Volta GPU (compute capability 7.0)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (f"{GPU}, replica_count: 2}}", "replica_count"),
        ("{accelerator_type: TPU_V3, accelerator_count: 1}", "TPU_V3"),
    ],
)
def test_what_a_pod_of_kubeflow_cannot_do_is_refused(resources: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        compile_manifest(manifest(resources), tmp_path / "k.yaml", "kubeflow")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("platform", ["vertex", "kubeflow"])
def test_a_bundle_for_a_gpu_is_made_where_the_steps_have_one(platform: Platform, tmp_path: Path) -> None:
    for_a_gpu = load_manifest("manifests/emotion.yaml", ["conversion.target=gpu"])
    with pytest.raises(UsageError, match=rf"conversion\.target: found gpu, expected cpu: on {platform} "):
        compile_manifest(for_a_gpu, tmp_path / "k.yaml", platform)
    assert list(tmp_path.iterdir()) == []
    compile_manifest(for_a_gpu, tmp_path / "k.yaml", "local")


# --- what the KFP compiler accepts and Vertex does not ------------------------------------------------------


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def make(number: str, model: dsl.Output[dsl.Model]) -> None:
    pass


@dsl.component(base_image="registry.example:5000/image", install_kfp_package=False)
def of_no_version() -> None:
    pass


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def takes_labels(labels: dict, number: str) -> None:
    pass


def executed(spec: PipelineSpec) -> PipelineSpec:
    exec_python(spec)
    return spec


def plain(accelerator: str, cpus: str | None = None) -> PipelineSpec:
    @dsl.pipeline(name="plain")
    def pipeline(cpu: str = "4") -> None:
        task = make(number="1")
        if accelerator:
            task.set_accelerator_type(accelerator).set_accelerator_limit(1)
        task.set_cpu_limit(cpus or cpu)

    return executed(pipeline.pipeline_spec)


def wrapped(**settings: Any) -> PipelineSpec:
    job = create_custom_training_job_from_component(make, **({"timeout": "60s"} | settings))

    @dsl.pipeline(name="wrapped")
    def pipeline() -> None:
        job(number="1")

    return executed(pipeline.pipeline_spec)


def as_kfp_starts_it() -> PipelineSpec:
    @dsl.pipeline(name="plain")
    def pipeline() -> None:
        make(number="1")

    return pipeline.pipeline_spec


def job_as_kfp_starts_it() -> PipelineSpec:
    @dsl.pipeline(name="wrapped")
    def pipeline() -> None:
        create_custom_training_job_from_component(make, timeout="60s")(number="1")

    return pipeline.pipeline_spec


def machine_by_parameter() -> PipelineSpec:
    return wrapped(machine_type="{{$.inputs.parameters['machine']}}")


def one_of_two_models() -> PipelineSpec:
    @dsl.pipeline(name="one-of")
    def pipeline(number: str = "1") -> dsl.Model:  # type: ignore[type-arg]
        with dsl.If(number == "1"):
            one = make(number="1")
        with dsl.Else():
            other = make(number="2")
        return dsl.OneOf(one.outputs["model"], other.outputs["model"])

    return pipeline.pipeline_spec


def of_any_version() -> PipelineSpec:
    @dsl.pipeline(name="latest")
    def pipeline() -> None:
        of_no_version()

    return pipeline.pipeline_spec


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param(lambda: plain("NVIDIA_RTX_4090", "4"), "NVIDIA_RTX_4090 is not one", id="accelerator"),
        pytest.param(lambda: plain("NVIDIA_TESLA_T4", "4"), "no timeout", id="plain task that costs money"),
        pytest.param(lambda: plain(""), "known only at run time", id="resources by parameter"),
        pytest.param(one_of_two_models, "OneOf of an artifact", id="one of two artifacts"),
        pytest.param(lambda: wrapped(timeout="604800s"), "runs for seven days", id="no timeout"),
        pytest.param(
            lambda: wrapped(machine_type="n1-standard-8", accelerator_type="NVIDIA_L4"),
            "n1-standard-8 does not take 1 × NVIDIA_L4",
            id="what is built in elsewhere",
        ),
        pytest.param(
            lambda: wrapped(machine_type="g2-standard-24", accelerator_type="NVIDIA_L4"),
            "comes with 2 × NVIDIA_L4",
            id="fewer than are built in",
        ),
        pytest.param(
            lambda: wrapped(
                machine_type="n1-standard-8", accelerator_type="NVIDIA_TESLA_T4", accelerator_count=3
            ),
            "does not take 3",
            id="a number that cannot be attached",
        ),
        pytest.param(
            lambda: wrapped(machine_type="e2-standard-8", accelerator_type="NVIDIA_TESLA_T4"),
            "takes no accelerators",
            id="a machine without slots",
        ),
        pytest.param(
            lambda: wrapped(accelerator_type="nvidia-tesla-t4"), "nvidia-tesla-t4 is not one of", id="enum"
        ),
        pytest.param(lambda: wrapped(machine_type="g2-standard-5"), "g2-standard-5 is not one", id="machine"),
        pytest.param(
            lambda: wrapped(
                machine_type="n1-standard-8", accelerator_type="NVIDIA_TESLA_V100", accelerator_count=1
            ),
            "is a Volta GPU",
            id="a GPU without kernels",
        ),
        pytest.param(
            lambda: wrapped(
                machine_type="n1-standard-8",
                accelerator_type="NVIDIA_TESLA_T4",
                accelerator_count=1,
                strategy="FLEX_START",
            ),
            "strategy flex_start is for NVIDIA_L4",
            id="a GPU that is not waited for",
        ),
        pytest.param(
            lambda: wrapped(
                machine_type="g2-standard-8",
                accelerator_type="NVIDIA_L4",
                accelerator_count=1,
                strategy="FLEX_START",
                timeout="604801s",
            ),
            "7 days at most",
            id="more days than are waited for",
        ),
        pytest.param(
            lambda: wrapped(nfs_mounts=[{"nowhere": "x"}]), 'no field named "nowhere"', id="payload"
        ),
        pytest.param(machine_by_parameter, "known only at run time has no price", id="machine by parameter"),
        pytest.param(as_kfp_starts_it, "make: its command, sh -ec …, keeps the shell", id="a shell"),
        pytest.param(
            job_as_kfp_starts_it, "make: its command, sh -ec …, keeps the shell", id="a job's shell"
        ),
        pytest.param(of_any_version, "`latest` is changes", id="an image of no version"),
    ],
)
def test_the_lint_refuses_what_vertex_would(spec: Any, words: str) -> None:
    [found] = [fault for fault in faults(spec()) if words in fault] or [f"nothing about {words}"]
    assert words in found
    with pytest.raises(UsageError, match="Vertex AI would not run it"):
        require_acceptable(spec())


def test_the_lint_finds_nothing_in_what_vertex_takes() -> None:
    assert faults(plain("", "4")) == []
    assert (
        faults(
            wrapped(machine_type="a2-highgpu-4g", accelerator_type="NVIDIA_TESLA_A100", accelerator_count=4)
        )
        == []
    )


@pytest.mark.parametrize("name", ["emotion", "gemini_lm"])
def test_a_custom_job_inside_the_exit_handler_is_given_all_its_inputs(name: str, tmp_path: Path) -> None:
    """https://github.com/kubeflow/pipelines/issues/9320, https://github.com/kubeflow/pipelines/issues/10418:
    a custom job made of a component failed where it was part of an inner DAG."""
    path = tmp_path / "pipeline.yaml"
    compile_manifest(load_manifest(ROOT / "manifests" / f"{name}.yaml"), path, "vertex")
    spec = json_format.ParseDict(yaml.safe_load(path.read_text()), PipelineSpec())
    assert "train-model" not in spec.root.dag.tasks
    [dag] = [one.dag for one in spec.components.values() if "train-model" in one.dag.tasks]
    inputs = spec.components["comp-train-model"].input_definitions
    required = {key for key, one in inputs.parameters.items() if not one.is_optional}
    given = dag.tasks["train-model"].inputs
    assert required <= set(given.parameters)
    assert set(inputs.artifacts) == set(given.artifacts) == {"splits"}


def test_steps_name_their_cpus_and_memory_in_the_old_fields_and_in_the_new_ones() -> None:
    """https://github.com/kubeflow/pipelines/issues/11500, https://github.com/kubeflow/pipelines/issues/9087:
    one backend reads the numbers, another the texts, and ignores the others."""
    files = [*(ROOT / "compiled").rglob("*.yaml")]
    assert len(files) == 2 * len(MANIFESTS)
    for file in files:
        spec = next(iter(yaml.safe_load_all(file.read_text())))
        steps = spec["deploymentSpec"]["executors"].items()
        limits = {name: step.get("container", {}).get("resources", {}) for name, step in steps}
        asking = {name: one for name, one in limits.items() if one and "accelerator" not in one}
        assert asking, file
        for name, one in asking.items():
            assert one["resourceCpuLimit"] == f"{one['cpuLimit']:g}", (file, name)
            assert one["resourceMemoryLimit"] == f"{one['memoryLimit']:g}G", (file, name)


def test_an_input_named_like_one_of_the_custom_jobs_own_is_refused() -> None:
    with pytest.raises(UsageError, match="inputs named labels, which"):
        require_free_names(takes_labels)
    require_free_names(make)


def test_what_is_submitted_names_its_images_by_digest() -> None:
    spec = compiled("{}")
    found = faults(spec, by_digest=True)
    assert [fault.split(":")[0] for fault in found] == [
        "image gauntlet-python/components",
        "image gauntlet-python/trainer",
    ]
    assert "GAUNTLET_TRAINER_IMAGE" in found[1]
