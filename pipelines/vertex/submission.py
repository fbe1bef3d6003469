"""A manifest as a pipeline job: what is sent, and where to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gauntlet.backends.factory import open_registry, require_tracking
from gauntlet.backends.google.jobs import SYSTEM_LABEL
from gauntlet.backends.google.location import SCHEME, VertexLocation, valid_label
from gauntlet.backends.local.mlflow_database import SCHEME as DATABASE_SCHEME
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.loading import MODEL_KEYS
from gauntlet.manifests.schema import Manifest
from gauntlet.pipelines.training import parameters
from gauntlet.pipelines.vertex.packages import require_packaged
from gauntlet.tasks.managed_causal_lm.manifest import is_managed


@dataclass(frozen=True)
class Destination:
    """Where a run goes.

    Attributes:
        root: The `gs://` folder below which steps leave their outputs.
        registry_uri: Where versions are registered.
        tracking_uri: Where training is tracked.
        service_account: Whom the steps run as; none: the project's default.
        training_account: Whom train-model runs as; none: as the other steps.
    """

    place: VertexLocation
    root: str
    registry_uri: str
    tracking_uri: str
    service_account: str | None = None
    training_account: str | None = None

    @classmethod
    def of(
        cls,
        project: str,
        region: str,
        root: str,
        registry: str,
        tracking: str | None,
        service_account: str | None,
        training_account: str | None = None,
    ) -> Destination:
        """What the options say.

        Raises:
            UsageError: One of them cannot be.
        """
        place = VertexLocation.named(project, region)
        if not root.startswith("gs://") or not root.removeprefix("gs://"):
            raise UsageError(f"--root: found {root!r}, expected gs://BUCKET/FOLDER.")
        root = root.rstrip("/")
        tracked = tracking or VertexLocation(project, region, staging=f"{root}/tracking").uri
        for option, uri in (("--registry", registry), ("--tracking", tracked)):
            _require_lasting(option, uri, place)
        open_registry(registry)  # refused now, and not by register-model, after the training
        require_tracking(tracked)
        if training_account and not service_account:
            raise UsageError(
                f"--training-account: found {training_account} without --service-account, expected both. The "
                "account of the steps makes the training's job, so it must be one that may act as the other."
            )
        accounts = {"--service-account": service_account, "--training-account": training_account}
        for option, account in accounts.items():
            if account is not None and not account.endswith(".gserviceaccount.com"):
                raise UsageError(f"{option}: found {account!r}, expected NAME@….gserviceaccount.com.")
        return cls(place, root, registry, tracked, service_account, training_account)

    def trains_as(self, manifest: Manifest) -> str | None:
        """The account that train-model has of its own; none: it runs as the other steps."""
        # A managed model is trained by a job that train-model starts, which is for the steps' account.
        return None if is_managed(manifest.training) else self.training_account

    @property
    def sections(self) -> str:
        """Where sections lie that are too large for a parameter."""
        return f"{self.root}/sections"

    @property
    def bucket(self) -> str:
        """The name of the root's bucket."""
        return self.root.removeprefix("gs://").partition("/")[0]


def pipeline_job(
    manifest: Manifest, spec: Mapping[str, Any], destination: Destination, template_uri: str | None = None
) -> dict[str, Any]:
    """A `PipelineJob` as plain types. Labels are what its costs can be told apart by.

    Raises:
        UsageError: Training is to have an account of its own, and the spec takes none.
    """
    given = {
        "registry_uri": destination.registry_uri,
        "tracking_uri": destination.tracking_uri,
        **_training_account(destination.trains_as(manifest), spec, template_uri or manifest.name),
    }
    job: dict[str, Any] = {
        "display_name": manifest.name,
        "pipeline_spec": dict(spec),
        "labels": {SYSTEM_LABEL: valid_label(manifest.name), "manifest": manifest.sha256[:32]},
        "runtime_config": {
            "gcs_output_directory": destination.root,
            "parameter_values": parameters(manifest, destination.sections) | given,
        },
    }
    if destination.service_account:
        job["service_account"] = destination.service_account
    if template_uri:
        job["template_uri"] = template_uri
    return job


def without_cache(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec with no step of it taken from the cache."""
    changed = copy.deepcopy(dict(spec))
    for component in (changed["root"], *changed["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            task["cachingOptions"] = {}  # as the compiler writes `set_caching_options(False)`
    return changed


def _training_account(account: str | None, spec: Mapping[str, Any], pipeline: str) -> dict[str, str]:
    """The parameter of that name, where training has an account of its own."""
    if account is None:
        return {}
    if "training_account" not in spec["root"]["inputDefinitions"]["parameters"]:
        raise UsageError(
            f"--training-account: found {account}, and {pipeline}, which was compiled when it took none. "
            "Compile and upload it again, or leave the option and GAUNTLET_TRAINING_ACCOUNT out."
        )
    return {"training_account": account}


def _require_lasting(option: str, uri: str, place: VertexLocation) -> None:
    """Refuse a database file: a step on Vertex AI has no disk that outlives it but a mounted bucket.

    Raises:
        UsageError: It is one.
    """
    if uri.startswith(DATABASE_SCHEME):
        raise UsageError(
            f"{option}: found {uri!r}, a file that ends with the machine of a step, and under /gcs lies in a "
            f"bucket, where SQLite fails; expected {SCHEME}{place.project}/{place.region}"
            "?staging=gs://BUCKET/FOLDER."
        )


def require_reachable(manifest: Manifest) -> None:
    """Refuse what lies on this machine, out of Vertex AI's reach, or in a package that the images lack.

    Raises:
        UsageError: The dataset or the model that training begins with does.
    """
    uri = manifest.dataset.uri
    if "://" not in uri or uri.startswith("file://"):
        raise UsageError(
            f"dataset.uri: found {uri}, a path on this machine, expected a URI that Vertex AI can "
            "reach. Copy the files to a bucket, then --set dataset.uri=gs://BUCKET/FOLDER."
        )
    require_packaged(manifest.model_dump(mode="json"), [("dataset", "uri")])
    require_reachable_model(manifest)


def require_reachable_model(manifest: Manifest) -> None:
    """Refuse a model that training would begin with and that a training job would not find.

    Raises:
        UsageError: It does.
    """
    for section, key in MODEL_KEYS:
        value = getattr(getattr(manifest, section), key, None)
        if value is not None and Path(value).is_absolute():
            raise UsageError(
                f"{section}.{key}: found {value}, which lies on this machine, expected one "
                "that Vertex AI can reach. Name one on the Hugging Face hub, or a packaged one."
            )
    require_packaged(manifest.model_dump(mode="json"), MODEL_KEYS)


def read_spec(path: Path) -> dict[str, Any]:
    """A pipeline spec as it was compiled."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content
