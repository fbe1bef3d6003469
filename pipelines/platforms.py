"""What a step runs on, platform by platform; the DAG is the same on all of them.

`local` is this machine, through kfp.local. It can run neither a custom job nor a placeholder of Google Cloud,
so `gauntlet run` compiles a pipeline of its own; `compiled/` has those of the other platforms.

On Vertex AI train-model is a custom job, because only custom jobs have a deadline and can use spot machines:
https://cloud.google.com/vertex-ai/docs/training/create-custom-job
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Literal

from kfp import dsl
from kfp.dsl import base_component

from gauntlet.backends.google.location import valid_label
from gauntlet.components.train_model.component import train_model
from gauntlet.components.train_model.service_component import train_model as train_on_service
from gauntlet.manifests.accelerators import bought_gpus_environment
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.training import Resources
from gauntlet.pipelines import kubeflow

Platform = Literal["local", "vertex", "kubeflow"]

SECONDS_TO_START_AND_END = 1_800
"""Time around a training: for the machine, the image, and the upload of the model."""

ACCOUNT_OF_THE_STEPS = "{{$.pipeline_service_account}}"
"""A placeholder for the service account of the pipeline's job, or the default one."""

STRATEGIES = {"standard": "STANDARD", "spot": "SPOT", "flex_start": "FLEX_START"}
STATES_FOLDER = "{{$.pipeline_root}}/{{$.pipeline_job_name}}-training"
"""Where a restarted training finds its resume state: beside the run's folder, not in it."""

SPLITS_FOLDER = "{{$.pipeline_root}}/splits"
"""Where splits lie by their content, for all runs."""

RETRIES = 2
"""Retries of a cheap step. No platform can tell a user's mistake from a failure, so both are retried."""


def parameters_given_by(platform: Platform) -> dict[str, str]:
    """Parameters that the platform sets: a run's name, and no account where there are no accounts."""
    given: dict[Platform, dict[str, str]] = {
        "local": {"training_account": ""},
        "vertex": {"run_id": dsl.PIPELINE_JOB_NAME_PLACEHOLDER},  # the id that the job was made with
        "kubeflow": {"run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER, "training_account": ""},
    }
    return given[platform]


def without_parameters(function: Callable[..., None], given: Mapping[str, object]) -> Callable[..., None]:
    """The function with these parameters set, and without them in the signature that kfp reads."""
    signature = inspect.signature(function)
    left = [one for name, one in signature.parameters.items() if name not in given]

    @functools.wraps(function)
    def rest(*values: object) -> None:
        function(**given, **dict(zip((one.name for one in left), values, strict=True)))

    rest.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
    return rest


def deadline_seconds(resources: Resources) -> int:
    """When the platform stops a training that has not stopped by its own budget."""
    return math.ceil(resources.max_hours * 3600) + SECONDS_TO_START_AND_END


def training_component(
    platform: Platform, manifest: Manifest, environment: Mapping[str, str] | None = None
) -> Callable[..., dsl.PipelineTask]:
    """train-model, with the `environment` of the step itself; on Vertex AI a custom job."""
    converted = manifest.kind.is_converted
    component: Callable[..., dsl.PipelineTask] = train_model if converted else train_on_service
    variables = dict(environment or {})
    if platform != "local" and converted:
        variables |= bought_gpus_environment(manifest.training.resources.accelerator_count)
    if platform == "vertex":
        return _as_custom_job(component, manifest, variables)

    def task(**inputs: object) -> dsl.PipelineTask:
        made = component(**inputs)
        for name, value in variables.items():
            made.set_env_variable(name, value)
        return made

    return task


def _as_custom_job(
    component: base_component.BaseComponent, manifest: Manifest, environment: Mapping[str, str]
) -> Callable[..., dsl.PipelineTask]:
    """The component on the manifest's machines, with its own inputs and the job's input `service_account`."""
    from google_cloud_pipeline_components.v1.custom_job import create_custom_training_job_from_component

    require_free_names(component)
    resources = manifest.training.resources
    # A preempted machine is replaced by another one, and the other replicas would wait for it forever.
    restarts = resources.strategy == "spot" or resources.replica_count > 1
    # Without one, Vertex uses the persistent resource of the pipeline's job, if it has one.
    own = {"persistent_resource_id": resources.persistent_resource} if resources.persistent_resource else {}
    custom_job: Callable[..., dsl.PipelineTask] = create_custom_training_job_from_component(
        component,
        display_name=f"{manifest.name}-{component.name}",
        machine_type=resources.machine_type,
        accelerator_type=resources.accelerator_type or "",
        accelerator_count=resources.accelerator_count,
        replica_count=resources.replica_count,
        boot_disk_size_gb=resources.boot_disk_gb,
        strategy=STRATEGIES[resources.strategy],
        max_wait_duration=f"{resources.max_wait_hours * 3600:.0f}s",
        timeout=f"{deadline_seconds(resources)}s",
        restart_job_on_worker_restart=restarts,
        base_output_directory=STATES_FOLDER,  # Vertex may restart a worker of any job
        env=[{"name": name, "value": value} for name, value in environment.items()],
        labels={"system": valid_label(manifest.name), "step": valid_label(component.name)},
        **own,
    )
    return custom_job


def require_free_names(component: base_component.BaseComponent) -> None:
    """Raise a `UsageError` if the wrapper would silently use an input of the component as its own."""
    from google_cloud_pipeline_components.v1.custom_job import CustomTrainingJobOp

    reserved = set(CustomTrainingJobOp.component_spec.inputs)
    taken = sorted(reserved.intersection(component.component_spec.inputs or ()))
    if taken:
        raise UsageError(
            f"component {component.name}: found inputs named {', '.join(taken)}, which are a custom job's "
            "own. Rename them."
        )


def training_inputs(platform: Platform, account: str) -> dict[str, str]:
    """The platform's own inputs of train-model: the account that the custom job runs as."""
    return {"service_account": account} if platform == "vertex" else {}


def splits_folder(platform: Platform, manifest: Manifest) -> str:
    """Where validate-data keeps the splits by their content; none where artifacts are not known by ids."""
    return f"{SPLITS_FOLDER}/{manifest.name}" if platform == "vertex" else ""


def kept_splits(platform: Platform, data: dsl.PipelineTask) -> object:
    """The splits as the steps after validate-data get them.

    Vertex AI keys a step by the ids of its input artifacts. An importer gives the same URI the same artifact,
    so that a step is reused when validate-data has made the same splits again.
    """
    if platform != "vertex":
        return data.outputs["splits"]
    kept = dsl.importer(artifact_uri=data.outputs["splits_uri"], artifact_class=dsl.Dataset, reimport=False)
    return kept.set_display_name("splits").output


def place_training(task: dsl.PipelineTask, platform: Platform, manifest: Manifest) -> None:
    """Ask Kubeflow for the pod that train-model needs, or raise a `UsageError` if no pod can be that."""
    if platform == "kubeflow":
        kubeflow.place_training(task, manifest, deadline_seconds(manifest.training.resources))


def furnish(task: dsl.PipelineTask, platform: Platform, manifest: Manifest) -> None:
    """Give a step the settings of the manifest's section of the platform."""
    if platform == "kubeflow":
        kubeflow.furnish(task, manifest.platforms.kubeflow)


def notes(platform: Platform, manifest: Manifest) -> list[str]:
    """What differs on the platform from what the manifest says."""
    uri, found = manifest.dataset.uri, []
    if "://" not in uri or uri.startswith("file://"):
        found.append(
            f"dataset.uri: {uri} is a path on this machine, which steps elsewhere cannot read. Copy the data "
            "to a bucket and set its URI."
        )
    return found + (kubeflow.notes(manifest) if platform == "kubeflow" else [])


def require_converting(platform: Platform, device: str) -> None:
    """Raise a `UsageError` if convert-to-onnx lacks the device there that its graphs are for."""
    if platform != "local" and device == "gpu":
        raise UsageError(
            f"conversion.target: found gpu, expected cpu: on {platform} later steps run on CPUs. "
            "`gauntlet run` converts for a GPU on a machine that has one."
        )


def retry(task: dsl.PipelineTask, platform: Platform) -> None:
    """Run a cheap step again when it fails, as for a service that was unavailable for some minutes.

    train-model is never retried, because it would be paid for again; Vertex AI restarts its custom job.
    https://cloud.google.com/vertex-ai/docs/pipelines/configure-retries
    """
    if platform != "local":
        task.set_retry(RETRIES, backoff_duration="60s", backoff_factor=2, backoff_max_duration="600s")


def place(task: dsl.PipelineTask, platform: Platform, cpus: int, memory_gb: int) -> None:
    """Literal limits for a step on a CPU; kfp.local would warn that it ignores them."""
    if platform != "local":
        task.set_cpu_limit(str(cpus)).set_memory_limit(f"{memory_gb}G")
