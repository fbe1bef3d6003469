"""Finds what the KFP compiler accepts but Vertex AI Pipelines refuses or runs in another way than intended.

Every rule is a function from a pipeline spec to the faults that it finds. One more rule, about input names
that a custom job reserves, is checked before there is a spec: `platforms.require_free_names`.

Accelerators have the names of the API. What is built into a machine is in `backends.prices`.
https://cloud.google.com/vertex-ai/docs/training/configure-compute, of 2026-10-07.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from google.cloud.aiplatform_v1.types import AcceleratorType, CustomJobSpec
from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec

from gauntlet.backends.prices import ATTACHES_ACCELERATORS, BUILT_IN
from gauntlet.manifests.accelerators import accelerator_fault
from gauntlet.manifests.errors import UsageError

SHELLS = ("sh", "bash", "dash")
LAUNCHER_IMAGE = "gcr.io/ml-pipeline/google-cloud-pipeline-components"
"""The image of the wrapper around a custom job. Vertex recognises the name and does not pull it."""

ACCELERATORS = tuple(kind.name for kind in AcceleratorType if kind.value)

ATTACHED_TO_N1 = {"NVIDIA_TESLA_T4": (1, 2, 4)}
"""How many of each an N1 machine can have."""

ACCELERATED_FAMILIES = ("g2-", "g4-", "a2-", "a3-", "a4-")

FLEX_START_GPUS = (
    "NVIDIA_L4",
    "NVIDIA_TESLA_A100",
    "NVIDIA_A100_80GB",
    "NVIDIA_H100_80GB",
    "NVIDIA_H100_MEGA_80GB",
    "NVIDIA_H200_141GB",
    "NVIDIA_B200",
)
FLEX_START_SECONDS = 7 * 24 * 3600
"""The GPUs that `flex_start` is for, and the longest job:
https://cloud.google.com/vertex-ai/docs/training/schedule-jobs-dws"""

DEFAULT_TIMEOUT = "604800s"  # of the wrapper: seven days
PLACEHOLDER = re.compile(r"\{\{.*?\}\}")
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


def require_acceptable(spec: PipelineSpec, by_digest: bool = False) -> None:
    """Refuse a spec that Vertex would refuse, or run in another way than intended.

    With `by_digest` its images must be named by digest, as in a job that is submitted.

    Raises:
        UsageError: It has faults; all of them are named.
    """
    if found := faults(spec, by_digest):
        listed = "".join(f"\n  {fault}" for fault in dict.fromkeys(found))
        raise UsageError(f"pipeline {spec.pipeline_info.name}: Vertex AI would not run it:{listed}")


def faults(spec: PipelineSpec, by_digest: bool = False) -> list[str]:
    """All faults of the spec, rule by rule."""
    containers = _containers(spec)
    found = [*_selected_artifacts(spec)]
    for name, container in containers.items():
        found += [f"{name}: {fault}" for fault in _resource_faults(container)]
        found += [f"{name}: {fault}" for fault in _command_faults([container.command])]
    for name, arguments in _custom_jobs(spec, containers):
        found += [f"{name}: {fault}" for fault in _custom_job_faults(arguments)]
    found += [fault for image in images(spec) if (fault := _image_fault(image, by_digest))]
    return found


def images(spec: PipelineSpec) -> tuple[str, ...]:
    """The images of all steps, custom jobs included, each once."""
    containers = _containers(spec)
    named = [container.image for container in containers.values()]
    for _, arguments in _custom_jobs(spec, containers):
        pools = arguments.get("worker_pool_specs") or []
        named += [pool.get("container_spec", {}).get("image_uri", "") for pool in pools]
    return tuple(dict.fromkeys(image for image in named if not image.startswith(LAUNCHER_IMAGE)))


def _containers(spec: PipelineSpec) -> dict[str, Any]:
    config = json_format.ParseDict(
        json_format.MessageToDict(spec.deployment_spec), PipelineDeploymentConfig()
    )
    return {
        name.removeprefix("exec-"): executor.container
        for name, executor in config.executors.items()
        if executor.HasField("container")
    }


def _custom_jobs(spec: PipelineSpec, containers: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each custom job's name and its arguments, as far as they are known before it runs."""
    for name, component in spec.components.items():
        container = containers.get(component.executor_label.removeprefix("exec-"))
        if container is not None and container.image.startswith(LAUNCHER_IMAGE):
            inputs = component.input_definitions.parameters.items()
            yield (
                name.removeprefix("comp-"),
                {key: json_format.MessageToDict(one.default_value) for key, one in inputs},
            )


def _selected_artifacts(spec: PipelineSpec) -> Iterator[str]:
    for component in (spec.root, *spec.components.values()):
        for name, output in component.dag.outputs.artifacts.items():
            if len(output.artifact_selectors) > 1:
                yield f"output {name}: OneOf of an artifact compiles, and fails when it runs"


def _resource_faults(container: Any) -> Iterator[str]:
    resources = container.resources
    texts = {field.name: value for field, value in resources.ListFields() if field.type == field.TYPE_STRING}
    accelerator = resources.accelerator
    texts |= {"accelerator type": accelerator.resource_type or accelerator.type}
    texts |= {"accelerator count": accelerator.resource_count}
    computed = [f"{name} {value}" for name, value in texts.items() if PLACEHOLDER.search(value)]
    if computed:
        yield f"{', '.join(computed)}: known only at run time, which Vertex may ignore; give a literal"
    if not resources.HasField("accelerator"):
        return
    kind = texts["accelerator type"]
    if not PLACEHOLDER.search(kind) and kind not in ACCELERATORS:
        yield f"accelerator {kind} is not one of {', '.join(ACCELERATORS)}"
    yield "a plain task with an accelerator has no timeout; make it a custom job"


def _custom_job_faults(arguments: dict[str, Any]) -> Iterator[str]:
    if arguments.get("timeout") in (None, "", DEFAULT_TIMEOUT):
        yield "a custom job without a timeout runs for seven days"
    pools = arguments.get("worker_pool_specs") or []
    yield from _command_faults([pool.get("container_spec", {}).get("command", []) for pool in pools])
    if PLACEHOLDER.search(str([pool.get("machine_spec") for pool in pools])):
        yield "a machine known only at run time has no price; give a literal"
        return
    for pool in pools:
        machine = pool.get("machine_spec", {})
        accelerator = machine.get("accelerator_type")
        count = int(machine.get("accelerator_count", 0))
        if fault := machine_fault(machine.get("machine_type", ""), accelerator, count):
            yield fault
        if arguments.get("strategy") == "FLEX_START":
            seconds = float(str(arguments.get("timeout") or DEFAULT_TIMEOUT).removesuffix("s"))
            if fault := _flex_start_fault(accelerator or None, seconds):
                yield fault
    # An unknown accelerator is reported by `machine_fault`, in better words.
    machines = [{**pool.get("machine_spec", {}), "accelerator_type": None} for pool in pools]
    known = [{**pool, "machine_spec": machine} for pool, machine in zip(pools, machines, strict=True)]
    try:
        json_format.ParseDict({"worker_pool_specs": known}, CustomJobSpec.pb()())
    except json_format.ParseError as error:
        yield f"worker_pool_specs: {error}"


def _command_faults(commands: Iterable[Sequence[str]]) -> Iterator[str]:
    yield from filter(None, map(command_fault, commands))


def command_fault(command: Sequence[str]) -> str | None:
    """Why SIGTERM would not reach the program that a container's command starts; None if it would."""
    program, *arguments = command or [""]
    is_shell = program.rpartition("/")[2] in SHELLS
    if not is_shell or any("exec " in argument for argument in arguments[:2]):
        return None
    return (
        f"its command, {' '.join(command[:2])} …, keeps the shell as process 1, so SIGTERM never reaches the "
        "step: a preempted or cancelled step could write nothing. Start the program with exec"
    )


def _image_fault(image: str, by_digest: bool) -> str | None:
    if by_digest and not DIGEST.search(image):
        return (
            f"image {image}: expected one by digest, REPOSITORY/IMAGE@sha256:…, so that a run can be "
            "repeated and its cache is sound. Push the images (cloudbuild.yaml) and name them by "
            "GAUNTLET_COMPONENTS_IMAGE and GAUNTLET_TRAINER_IMAGE"
        )
    tag = image.rpartition("/")[2].partition(":")[2]
    if not DIGEST.search(image) and tag in ("", "latest"):
        return f"image {image}: what `latest` is changes; name it by digest, or by a version's tag"
    return None


def _flex_start_fault(accelerator: str | None, timeout_seconds: float) -> str | None:
    if accelerator not in FLEX_START_GPUS:
        return (
            f"strategy flex_start is for {', '.join(FLEX_START_GPUS)}, not for {accelerator or 'CPUs alone'}"
        )
    if timeout_seconds > FLEX_START_SECONDS:
        return f"strategy flex_start is for 7 days at most, and the job's timeout is {timeout_seconds:.0f} s"
    return None


def machine_fault(machine: str, accelerator: str | None, count: int) -> str | None:
    """Why Vertex AI would refuse the pair, or training could not use it; None if it is valid or unknown."""
    if accelerator is not None and accelerator not in ACCELERATORS:
        return f"accelerator {accelerator} is not one of {', '.join(ACCELERATORS)}"
    if accelerator is not None and (fault := accelerator_fault(accelerator)):
        return f"accelerator {fault}"
    if machine.startswith(ACCELERATED_FAMILIES):
        return _built_in_fault(machine, accelerator, count)
    if accelerator is not None and not machine.startswith(ATTACHES_ACCELERATORS):
        return f"{machine} takes no accelerators: only n1 machines have them attached"
    if accelerator is not None and count not in ATTACHED_TO_N1.get(accelerator, ()):
        return f"{machine} does not take {count} × {accelerator}"
    return None


def _built_in_fault(machine: str, accelerator: str | None, count: int) -> str | None:
    if machine not in BUILT_IN:
        return f"machine type {machine} is not one of {', '.join(BUILT_IN)}"
    kind, number = BUILT_IN[machine]
    if (accelerator, count) != (kind, number):
        return f"{machine} comes with {number} × {kind} and was asked for {count} × {accelerator}"
    return None
