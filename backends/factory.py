"""Opens the backend that a URI names.

A backend is a registry and a tracker for one kind of URI. `BACKENDS` names their classes by import path, so a
vendor's modules are imported when one of its URIs is opened. docs/how-to/add_a_backend.md adds a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gauntlet.backends.deployment import Deployment
from gauntlet.backends.registry import ModelVersion, Registry
from gauntlet.backends.tracking import RunRequest, StartedRun, TrackedRun, Tracker
from gauntlet.manifests.errors import UsageError


@dataclass(frozen=True)
class Backend:
    """One kind of backend: the beginnings of its URIs, and the import paths `module:name` of its classes.

    `download` is the import path of `download(bundle_uri, folder) -> Path`, which copies a bundle of the
    registry into a folder; empty where `storage` can open the bundle's URI.
    """

    schemes: tuple[str, ...]
    example: str
    registry: str
    tracker: str
    download: str = ""


BACKENDS = (
    Backend(
        schemes=("sqlite:",),
        example="sqlite:////absolute/path/gauntlet.db",
        registry="gauntlet.backends.local.registry:MlflowRegistry",
        tracker="gauntlet.backends.local.tracking:DatabaseTracker",
    ),
    Backend(
        schemes=("mlflow+https://", "mlflow+http://"),
        example="mlflow+https://HOST",
        registry="gauntlet.backends.local.mlflow_server:MlflowServerRegistry",
        tracker="gauntlet.backends.local.tracking:ServerTracker",
        download="gauntlet.backends.local.mlflow_server:download_bundle",
    ),
    Backend(
        schemes=("vertex://",),
        example="vertex://PROJECT/REGION?staging=gs://BUCKET/FOLDER",
        registry="gauntlet.backends.google.registry:VertexRegistry",
        tracker="gauntlet.backends.google.tracking:VertexTracker",
    ),
)

DEPLOYMENTS = {
    "local": "gauntlet.backends.local.deployment:LocalDeployment",
    "cloud_run": "gauntlet.backends.google.cloud_run:CloudRunDeployment",
    "vertex_endpoint": "gauntlet.backends.google.vertex_endpoint:VertexEndpointDeployment",
}
"""The classes of deployment targets, by their names in the manifest's section `deployment`."""


def open_registry(registry_uri: str) -> Registry:
    """The registry that a URI of one of `BACKENDS` names, not yet created or read; else a `UsageError`."""
    registry: type[Registry] = _load(_backend(registry_uri, "registry URI").registry)
    return registry(registry_uri)


def open_deployment(target: str, name: str, registry_uri: str, settings: Mapping[str, Any]) -> Deployment:
    """The target that serves the model `name`. `settings` is the manifest's section `deployment`.

    Raises:
        UsageError: There is no such target, or the settings do not reach it.
    """
    if target not in DEPLOYMENTS:
        raise UsageError(
            f"deployment.target: found {target!r}, expected one of {', '.join(DEPLOYMENTS)}. Set it in the "
            "manifest."
        )
    deployment: type[Deployment] = _load(DEPLOYMENTS[target])
    return deployment(name, registry_uri, settings)


def open_tracking(
    tracking_uri: str,
    experiment: str,
    run_name: str,
    tags: Mapping[str, str],
    wandb_project: str | None = None,
    pipeline_run: str = "",
    states: str = "",
) -> TrackedRun:
    """A tracked run that starts when it is entered. Arguments that are not listed are those of `RunRequest`.

    Args:
        tracking_uri: A URI of one of `BACKENDS`; empty for no tracking.
        wandb_project: The project of Weights & Biases that tracks the run in addition.

    Raises:
        UsageError: No backend has such URIs, or the URI is not valid for its backend.
    """
    request = RunRequest(experiment, run_name, tags, pipeline_run, states)
    starts: dict[str, Callable[[], StartedRun]] = {}
    folder = None
    if tracking_uri:
        tracker = _tracker(tracking_uri)
        starts[tracker.title] = partial(tracker.start, request)
        folder = tracker.folder
    if wandb_project:
        wandb_run = _load("gauntlet.backends.wandb:WandbRun")
        starts["Weights & Biases"] = partial(wandb_run, wandb_project, request, folder)
    return TrackedRun(starts)


def require_tracking(tracking_uri: str) -> None:
    """Raise the `UsageError` of `open_tracking` for a URI that it would refuse. Nothing is created."""
    if tracking_uri:
        _tracker(tracking_uri)


@contextmanager
def bundle_folder(version: ModelVersion) -> Iterator[Path]:
    """A version's bundle on this machine: the registry's own folder, or a temporary copy.

    Raises:
        UsageError: The bundle does not exist any more, or may not be read.
        GauntletError: The bucket or the MLflow server cannot be reached.
    """
    uri = version.bundle_uri
    if "://" not in uri:
        yield Path(uri)
        return
    with TemporaryDirectory() as folder:
        yield copy_bundle(uri, Path(folder))


def copy_bundle(uri: str, folder: Path) -> Path:
    """Copy a bundle from a bucket or an MLflow server into a folder; returns where it lies below it.

    Raises:
        UsageError: The bundle does not exist any more, or may not be read.
        GauntletError: The bucket or the MLflow server cannot be reached.
    """
    backend = next((each for each in BACKENDS if each.download and uri.startswith(each.schemes)), None)
    if backend is not None:
        found: Path = _load(backend.download)(uri, folder)
        return found
    from gauntlet.backends.storage import download

    download(uri, folder)
    return folder


def _tracker(tracking_uri: str) -> Tracker:
    tracker: type[Tracker] = _load(_backend(tracking_uri, "tracking URI").tracker)
    return tracker(tracking_uri)


def _backend(uri: str, setting: str) -> Backend:
    for backend in BACKENDS:
        if uri.startswith(backend.schemes):
            return backend
    examples = ", or ".join(backend.example for backend in BACKENDS)
    raise UsageError(f"{setting}: found {uri!r}, expected a URI such as {examples}.")


def _load(import_path: str) -> Any:
    module, _, name = import_path.partition(":")
    return getattr(import_module(module), name)
