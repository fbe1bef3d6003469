"""A step as a Vertex AI custom job: only custom jobs have a deadline and can use spot machines.

https://cloud.google.com/vertex-ai/docs/training/create-custom-job
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from google_cloud_pipeline_components.v1.custom_job import (
    CustomTrainingJobOp,
    create_custom_training_job_from_component,
)
from kfp import dsl
from kfp.dsl import base_component

from gauntlet.backends.google.location import valid_label
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.schema import Manifest

STRATEGIES = {"standard": "STANDARD", "spot": "SPOT", "flex_start": "FLEX_START"}
STATES_FOLDER = "{{$.pipeline_root}}/{{$.pipeline_job_name}}-training"
"""Where a restarted training finds its resume state: beside the run's folder, not in it."""


def as_custom_job(
    component: base_component.BaseComponent,
    manifest: Manifest,
    deadline_seconds: int,
    environment: Mapping[str, str],
) -> Callable[..., dsl.PipelineTask]:
    """The component on the machines that the manifest asks for, with the component's own inputs.

    The pipeline must also set `service_account`, the job's own input.

    Raises:
        UsageError: An input of the component has the name of one of the job's inputs.
    """
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
        timeout=f"{deadline_seconds}s",
        restart_job_on_worker_restart=restarts,
        base_output_directory=STATES_FOLDER,  # Vertex may restart a worker of any job
        env=[{"name": name, "value": value} for name, value in environment.items()],
        labels={"system": valid_label(manifest.name), "step": valid_label(component.name)},
        **own,
    )
    return custom_job


def require_free_names(component: base_component.BaseComponent) -> None:
    """Refuse a component whose inputs the wrapper would silently use as its own.

    Raises:
        UsageError: There is such an input.
    """
    reserved = set(CustomTrainingJobOp.component_spec.inputs)
    taken = sorted(reserved.intersection(component.component_spec.inputs or ()))
    if taken:
        raise UsageError(
            f"component {component.name}: found inputs named {', '.join(taken)}, which are a custom job's "
            "own. Rename them."
        )
