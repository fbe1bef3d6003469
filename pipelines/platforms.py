"""What a step runs on, platform by platform; the DAG is the same on all of them.

`local` is this machine, through kfp.local, which can run neither a custom job nor anything else that asks for
a placeholder of Google Cloud's. So `gauntlet run` compiles a pipeline of its own, and `compiled/` holds those
of the other platforms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from kfp import dsl, kubernetes

from components.train_model.component import train_model
from components.train_model.managed_component import train_model as train_managed_model
from manifests.errors import UsageError
from manifests.managed import is_managed
from manifests.schema import Manifest
from manifests.training import Resources

Platform = Literal["local", "vertex", "kubeflow"]

SECONDS_TO_START_AND_END = 1_800
"""Around a training: a machine, the image, and the model on its way to the bucket."""

GKE_ACCELERATOR_LABEL = "cloud.google.com/gke-accelerator"
GPU_RESOURCE = "nvidia.com/gpu"


def run_id(platform: Platform) -> str | None:
    """What names a run there; none where the caller gives it a name."""
    placeholders: dict[Platform, str] = {
        "vertex": dsl.PIPELINE_JOB_NAME_PLACEHOLDER,  # the id that the job was made with
        "kubeflow": dsl.PIPELINE_JOB_ID_PLACEHOLDER,
    }
    return placeholders.get(platform)


def deadline_seconds(resources: Resources) -> int:
    """When a training is ended from outside, should it not end by its own budget."""
    return math.ceil(resources.max_hours * 3600) + SECONDS_TO_START_AND_END


def training_component(platform: Platform, manifest: Manifest) -> Callable[..., dsl.PipelineTask]:
    """train-model; on Vertex a custom job, since training has a deadline, which plain tasks cannot have.

    Raises:
        UsageError: An input of train-model has the name of one of the custom job's.
    """
    managed = is_managed(manifest.training)
    component: Callable[..., dsl.PipelineTask] = train_managed_model if managed else train_model
    if platform != "vertex":
        return component
    from pipelines.vertex.custom_job import as_custom_job

    return as_custom_job(component, manifest, deadline_seconds(manifest.training.resources))


def place_training(task: dsl.PipelineTask, platform: Platform, resources: Resources) -> None:
    """Ask Kubeflow for the machine that train-model needs; the custom job has asked already.

    Raises:
        UsageError: Kubeflow's plain tasks cannot do it.
    """
    if platform != "kubeflow":
        return
    if resources.replica_count > 1:
        raise UsageError(
            f"training.resources.replica_count: found {resources.replica_count}, expected 1: on Kubeflow a "
            "step is one pod. Ask for one machine with more accelerators."
        )
    kubernetes.set_timeout(task, deadline_seconds(resources))
    accelerator = resources.accelerator_type
    if accelerator is None:
        place(task, platform, cpus=4, memory_gb=16)
        return
    if not accelerator.startswith("NVIDIA_"):
        raise UsageError(
            f"training.resources.accelerator_type: found {accelerator}, expected one of NVIDIA's, "
            "the only ones that are set up on Kubeflow."
        )
    task.set_accelerator_type(GPU_RESOURCE).set_accelerator_limit(resources.accelerator_count)
    kubernetes.add_node_selector(task, GKE_ACCELERATOR_LABEL, accelerator.lower().replace("_", "-"))
    kubernetes.add_toleration(task, key=GPU_RESOURCE, operator="Exists", effect="NoSchedule")


def place(task: dsl.PipelineTask, platform: Platform, cpus: int, memory_gb: int) -> None:
    """Literal limits for a step on a CPU; kfp.local would warn that it does not hold them."""
    if platform != "local":
        task.set_cpu_limit(str(cpus)).set_memory_limit(f"{memory_gb}G")
