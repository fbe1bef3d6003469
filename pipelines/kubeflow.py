"""Sets resources, nodes, secrets and deadlines of Kubeflow's pods, by kfp-kubernetes.

A pod runs on nodes that the cluster already has, so `training.resources` buys no machine there. It sets the
pod's size, its nodes and how long it may run.
"""

from __future__ import annotations

from dataclasses import dataclass

from kfp import dsl, kubernetes

from gauntlet.backends.processes import KUBEFLOW, PLATFORM_VARIABLE, RUN_ID_VARIABLE, STATES_VARIABLE
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.schema import Kubeflow, Manifest
from gauntlet.manifests.training import Resources

# CPUs and memory of machine types: https://cloud.google.com/compute/docs/machine-resource, of 2026-10-07.
GB_PER_CPU = {
    "n1-standard": 3.75,
    "n1-highmem": 6.5,
    "e2-standard": 4.0,
    "g2-standard": 4.0,
}
"""GB for each CPU, of families whose last number is the CPUs."""

SIZES = {
    "a2-highgpu-1g": (12, 85),
    "a2-highgpu-2g": (24, 170),
    "a2-highgpu-4g": (48, 340),
    "a2-highgpu-8g": (96, 680),
    "a2-megagpu-16g": (96, 1360),
    "a2-ultragpu-1g": (12, 170),
    "a2-ultragpu-2g": (24, 340),
    "a2-ultragpu-4g": (48, 680),
    "a2-ultragpu-8g": (96, 1360),
    "a3-highgpu-1g": (26, 234),
    "a3-highgpu-2g": (52, 468),
    "a3-highgpu-4g": (104, 936),
    "a3-highgpu-8g": (208, 1872),
    "a3-megagpu-8g": (208, 1872),
    "a3-ultragpu-8g": (224, 2952),
}
"""CPUs and GB of the types whose last number is the accelerators."""
GKE_ACCELERATOR_LABEL = "cloud.google.com/gke-accelerator"
GPU_RESOURCE = "nvidia.com/gpu"
RUN_ID_FIELD = "metadata.labels['pipeline/runid']"
"""KFP labels each pod of a run with the run's ID."""
SHARED_MEMORY = "/dev/shm"
REQUESTED_SHARE = 0.75
"""The share of a machine that a pod asks for. The node needs the rest: on GKE a fifth of a small machine."""


@dataclass(frozen=True)
class MachineSize:
    """The CPUs and memory of a machine or a pod."""

    cpus: int
    memory_gb: int

    def __str__(self) -> str:
        return f"{self.cpus} CPUs and {self.memory_gb} GB"


UNKNOWN_MACHINE = MachineSize(cpus=4, memory_gb=16)
"""The size of the training pod if `machine_type` is unknown: that of the other steps."""


def machine_size(machine_type: str) -> MachineSize | None:
    """The size of a machine type; None if it is unknown."""
    if machine_type in SIZES:
        return MachineSize(*SIZES[machine_type])
    family, _, cpus = machine_type.rpartition("-")
    if family not in GB_PER_CPU or not cpus.isdecimal():
        return None
    return MachineSize(int(cpus), int(int(cpus) * GB_PER_CPU[family]))


def place_training(task: dsl.PipelineTask, manifest: Manifest, deadline_seconds: int) -> None:
    """Give train-model's pod its size, nodes, deadline and folder for states, or raise a `UsageError`."""
    resources, settings = manifest.training.resources, manifest.platforms.kubeflow
    _require_one_pod(resources)
    known = machine_size(resources.machine_type)
    size = known or UNKNOWN_MACHINE
    least = requested(size)
    if known or resources.accelerator_type is None:  # with GPUs a guessed limit could kill the pod
        task.set_cpu_limit(str(size.cpus)).set_memory_limit(f"{size.memory_gb}G")
    task.set_cpu_request(str(least.cpus)).set_memory_request(f"{least.memory_gb}G")
    kubernetes.set_timeout(task, deadline_seconds)
    if resources.accelerator_type is not None:
        _place_on_gpus(task, resources.accelerator_type, resources.accelerator_count, settings)
    for label, value in (settings.node_selector or {}).items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in settings.tolerations:
        kubernetes.add_toleration(task, **toleration.model_dump())
    if not manifest.kind.is_converted:  # by a vendor's job, which has no states here
        return
    kubernetes.use_field_path_as_env(task, RUN_ID_VARIABLE, RUN_ID_FIELD)
    if settings.volume is not None:
        kubernetes.mount_pvc(task, settings.volume.claim, settings.volume.mount_path)
        task.set_env_variable(STATES_VARIABLE, settings.volume.mount_path)


def furnish(task: dsl.PipelineTask, settings: Kubeflow) -> None:
    """Give a pod of any step the cluster's secrets, and a variable that names the platform."""
    task.set_env_variable(PLATFORM_VARIABLE, KUBEFLOW)
    for secret, variables in settings.secrets.items():
        for variable, key in variables.items():
            kubernetes.use_secret_as_env(task, secret, {key: variable})
    if settings.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(settings.image_pull_secrets))


def requested(size: MachineSize) -> MachineSize:
    """The request of a pod that fits on a node of that size."""
    cpus = max(1, int(size.cpus * REQUESTED_SHARE))
    return MachineSize(cpus, int(size.memory_gb * REQUESTED_SHARE))


def notes(manifest: Manifest) -> list[str]:
    """What differs on Kubeflow from what the manifest says, one sentence each."""
    resources, settings = manifest.training.resources, manifest.platforms.kubeflow
    size = machine_size(resources.machine_type)
    asked = f"train-model's pod asks for {requested(size or UNKNOWN_MACHINE)}"
    found = [
        f"{asked}, {REQUESTED_SHARE:.0%} of {resources.machine_type}. Kubeflow buys no machine: the cluster "
        "must have a node with as much to spare."
        if size
        else f"{asked}: the size of {resources.machine_type} is not known."
    ]
    if resources.accelerator_type is not None and settings.node_selector is None:
        found.append(
            f"The pod waits for a node with GKE's label {GKE_ACCELERATOR_LABEL}. For another cluster set "
            "platforms.kubeflow.node_selector."
        )
    ignored = [
        key
        for key in ("strategy", "max_wait_hours", "boot_disk_gb", "persistent_resource")
        if key in resources.model_fields_set
    ]
    if ignored:
        found.append(f"Not used on Kubeflow: {', '.join(f'training.resources.{key}' for key in ignored)}.")
    if manifest.kind.is_converted and settings.volume is None:
        found.append("A training whose pod is lost starts again: set platforms.kubeflow.volume to resume it.")
    if not manifest.kind.is_converted and settings.volume is not None:
        found.append("Not used by a managed model: platforms.kubeflow.volume.")
    return found


def _require_one_pod(resources: Resources) -> None:
    if resources.replica_count > 1:
        raise UsageError(
            f"training.resources.replica_count: found {resources.replica_count}, expected 1: on Kubeflow a "
            "step is one pod. Ask for one machine with more accelerators."
        )
    accelerator = resources.accelerator_type
    if accelerator is not None and not accelerator.startswith("NVIDIA_"):
        raise UsageError(
            f"training.resources.accelerator_type: found {accelerator}, expected one of NVIDIA's, "
            "the only ones that are set up on Kubeflow."
        )


def _place_on_gpus(task: dsl.PipelineTask, accelerator: str, count: int, settings: Kubeflow) -> None:
    task.set_accelerator_type(GPU_RESOURCE).set_accelerator_limit(count)
    if settings.node_selector is None:
        kubernetes.add_node_selector(task, GKE_ACCELERATOR_LABEL, accelerator.lower().replace("_", "-"))
    kubernetes.add_toleration(task, key=GPU_RESOURCE, operator="Exists", effect="NoSchedule")
    if count > 1:  # NCCL passes tensors through it, and a container has 64 MB of it by default
        kubernetes.empty_dir_mount(task, "shm", SHARED_MEMORY, medium="Memory")
