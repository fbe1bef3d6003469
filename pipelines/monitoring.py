"""The monitoring DAG: collect-window → detect-drift → request-training, on every platform that trains too.

No step is cached: the log grows while its parameters stay. The window is that before the scheduled time, so a
run that starts late, or again, looks at the same rows. The jobs have a label of their own: those of trainings
count for the limits of the receiver, and an hourly job would use these up.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any  # kfp reads annotations at run time, so they are not postponed in this module

from kfp import dsl
from kfp.dsl import base_component

from gauntlet.backends.google.location import valid_label
from gauntlet.components.collect_window.component import collect_window
from gauntlet.components.detect_drift.component import detect_drift
from gauntlet.components.request_training.component import request_training
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.schema import Manifest, as_parameter
from gauntlet.pipelines.platforms import Platform, furnish, place, retry, without_parameters
from gauntlet.pipelines.training import exec_python, pipeline_name, write_spec

STEPS = ("collect-window", "detect-drift", "request-training")
MONITORED_LABEL = "monitored"
"""A label with the name of the manifest whose model a job monitors."""


def is_monitored(manifest: Manifest) -> bool:
    """Whether the manifest says where the request log is."""
    return manifest.monitoring.log is not None


def monitoring_parameters(manifest: Manifest) -> dict[str, Any]:
    """The pipeline's parameters as the manifest sets them.

    Raises:
        UsageError: The manifest names no log.
    """
    if not is_monitored(manifest):
        raise UsageError(
            f"{manifest.name}: monitoring.log: found none, expected the folder of the request log. Add it to "
            "the manifest."
        )
    resources = manifest.training.resources
    return {
        "name": manifest.name,
        "monitoring": as_parameter(manifest.monitoring),
        "max_hours": resources.max_hours,
        "max_cost_usd": resources.max_cost_usd,
    }


def monitoring_pipeline(manifest: Manifest, platform: Platform = "local") -> base_component.BaseComponent:
    """The DAG with the manifest's settings as its parameters' defaults.

    `registry_uri` belongs to a run; on this machine `scheduled` too, which other platforms set.

    Raises:
        UsageError: The manifest names no log.
    """
    default = monitoring_parameters(manifest)

    def pipeline(
        registry_uri: str,
        scheduled: str = "",
        name: str = default["name"],
        monitoring: dict = default["monitoring"],
        max_hours: float = default["max_hours"],
        max_cost_usd: float = default["max_cost_usd"],
    ) -> None:
        collected = collect_window(
            monitoring=monitoring, name=name, registry_uri=registry_uri, scheduled=scheduled
        )
        window = collected.outputs["window"]
        detected = detect_drift(
            monitoring=monitoring, registry_uri=registry_uri, max_cost_usd=max_cost_usd, window=window
        )
        requested = request_training(
            monitoring=monitoring,
            name=name,
            registry_uri=registry_uri,
            max_hours=max_hours,
            window=window,
            drift=detected.outputs["drift"],
        )
        for task, cpus, memory_gb in ((collected, 1, 4), (detected, 2, 8), (requested, 1, 4)):
            task.set_caching_options(False)
            place(task, platform, cpus, memory_gb)
            retry(task, platform)
            furnish(task, platform, manifest)

    given = {} if platform == "local" else {"scheduled": dsl.PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER}
    described = f"Monitor {manifest.name}: {manifest.description}"
    named = f"{pipeline_name(manifest)}-monitoring"
    made = dsl.pipeline(name=named, description=described)(without_parameters(pipeline, given))
    if platform != "local":
        exec_python(made.pipeline_spec)
    return made


def require_reachable_log(manifest: Manifest) -> None:
    """Raise a `UsageError` for a log, labels or reference rows that no step elsewhere can read."""
    named = {key: getattr(manifest.monitoring, key) for key in ("log", "labels", "reference")}
    local = [f"monitoring.{key}: found {uri}" for key, uri in named.items() if uri and "://" not in uri]
    if local:
        raise UsageError(
            f"{'; '.join(local)}: a path on this machine, expected a folder that Vertex AI can read, such as "
            "gs://BUCKET/FOLDER."
        )


def monitoring_file(manifest_file: Path, platform: Platform, folder: Path = Path("compiled")) -> Path:
    """Where the committed spec of a manifest's monitoring is, or its place in another folder."""
    return (folder if platform == "vertex" else folder / platform) / f"{manifest_file.stem}.monitoring.yaml"


def compile_monitoring(manifest: Manifest, path: Path, platform: Platform) -> None:
    """Write `monitoring_pipeline` as YAML, atomically, or raise a `UsageError` that names all reasons."""
    write_spec(monitoring_pipeline(manifest, platform), path, platform)


def monitoring_job(
    manifest: Manifest, spec: Mapping[str, Any], root: str, registry_uri: str, service_account: str | None
) -> dict[str, Any]:
    """A `PipelineJob` as plain types."""
    job: dict[str, Any] = {
        "display_name": f"{manifest.name}-monitoring",
        "pipeline_spec": dict(spec),
        "labels": {MONITORED_LABEL: valid_label(manifest.name), "manifest": manifest.sha256[:32]},
        "runtime_config": {
            "gcs_output_directory": root,
            "parameter_values": monitoring_parameters(manifest) | {"registry_uri": registry_uri},
        },
    }
    if service_account:
        job["service_account"] = service_account
    return job
