"""The manifest: one section per DAG step, and nothing else reaches that step.

Every model forbids unknown keys, so a misspelt key is a fault instead of a silent default.
`Manifest.sha256` identifies a manifest by its content: the same settings written as YAML, as JSON,
or with a default spelt out have the same hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal, Self, cast, get_args

from pydantic import Field, SerializeAsAny, TypeAdapter, ValidationError, model_validator

from gauntlet.manifests.conversion import OF_SOME_KINDS, Conversion
from gauntlet.manifests.dataset import Dataset
from gauntlet.manifests.deployment import DeploymentSection
from gauntlet.manifests.gates import CommonEvaluation, CommonGates
from gauntlet.manifests.kinds import TaskKind, manifest_classes, task_kind
from gauntlet.manifests.monitoring import Monitoring
from gauntlet.manifests.search import Search
from gauntlet.manifests.section import Name, Section
from gauntlet.manifests.training import CommonTraining

ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
"""The name of a claim or a secret: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/."""
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
SecretKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
Label = Annotated[str, Field(min_length=1)]


class Volume(Section):
    """An existing persistent volume claim that train-model keeps its training states on.

    Its folder must be writable for the images' user, 10001.
    """

    claim: ObjectName
    mount_path: str = Field("/mnt/gauntlet", pattern=r"^/[^:]*[^:/]$")


class Toleration(Section):
    """A taint that train-model's pod tolerates; without `key` and with `Exists` it tolerates all."""

    key: str | None = Field(None, min_length=1)
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator Exists takes no value: remove it, or write operator Equal")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("operator Equal needs a key: add it, or write operator Exists")
        return self


class Kubeflow(Section):
    """What pods get on a Kubernetes cluster. `volume`, `node_selector`, `tolerations` are train-model's.

    `secrets` sets environment variables of every step, `{SECRET: {VARIABLE: KEY}}`; `image_pull_secrets` are
    what every step's image is pulled with. `node_selector` replaces the label that GKE puts on nodes with
    accelerators, which is the default for a training on one; `{}` is no label at all.
    """

    volume: Volume | None = None
    secrets: dict[ObjectName, dict[Variable, SecretKey]] = Field(default_factory=dict)
    image_pull_secrets: tuple[ObjectName, ...] = ()
    node_selector: dict[Label, str] | None = None
    tolerations: tuple[Toleration, ...] = ()

    @model_validator(mode="after")
    def _variables_set_once(self) -> Self:
        names = [name for keys in self.secrets.values() for name in keys]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"secrets set {', '.join(twice)} more than once: keep one of them")
        return self


class Platforms(Section):
    """Settings of the place that a pipeline runs on; Vertex AI's are in `training.resources`.

    No step reads them. They change neither a manifest's hash nor a step's parameters, so a cached result
    stays valid.
    """

    kubeflow: Kubeflow = Kubeflow()


class Registration(Section):
    """Section of register-model. With `manual` the version stays challenger until `gauntlet promote`."""

    promotion: Literal["automatic", "manual"] = "automatic"


class Manifest(Section):
    """A system that is retrained: what to run, on what, and what it must prove.

    `name` is also the name of the pipeline and of the model in the registry. Each task kind has a subclass,
    which says what the keys of `dataset`, `training`, `evaluation` and `gates` are.
    """

    name: Name
    description: str = Field(min_length=1)
    task: str
    seed: int = Field(0, ge=0, lt=2**32)
    dataset: SerializeAsAny[Dataset]
    training: SerializeAsAny[CommonTraining]
    conversion: Conversion = Conversion()
    evaluation: SerializeAsAny[CommonEvaluation] = CommonEvaluation()
    gates: SerializeAsAny[CommonGates]
    registration: Registration = Registration()
    deployment: DeploymentSection = DeploymentSection()
    monitoring: Monitoring = Monitoring()
    platforms: Platforms = Platforms()

    shared_keys: ClassVar[Mapping[str, str]] = {}
    """Keys of `dataset` that always equal a key of `training`.

    A step gets only its own section, and validate-data counts the tokens that train-model will see.
    """

    @model_validator(mode="before")
    @classmethod
    def _with_shared_keys(cls, content: Any) -> Any:
        """Add them to the dataset. A value of the wrong type is refused later, under its own key."""
        dataset = content.get("dataset") if isinstance(content, Mapping) else None
        training = content.get("training", {}) if isinstance(content, Mapping) else None
        if not isinstance(dataset, Mapping) or not isinstance(training, Mapping):
            return content
        shared = {}
        for key, source in cls.shared_keys.items():
            field = section_class(cls, "training").model_fields[source]
            with suppress(ValidationError):
                value = training.get(source, field.default)
                shared[key] = TypeAdapter[Any](cast("Any", field.annotation)).validate_python(value)
        return {**content, "dataset": {**shared, **dataset}}

    @model_validator(mode="after")
    def _shared_keys_agree(self) -> Self:
        for key, source in self.shared_keys.items():
            counted, trained = getattr(self.dataset, key), getattr(self.training, source)
            if counted != trained:
                raise ValueError(
                    f"dataset.{key} {counted} and training.{source} {trained}: remove the first, or set both"
                )
        return self

    @property
    def conversion_keys(self) -> Collection[str]:
        """Those of `OF_SOME_KINDS` that the kind's conversion reads; others must keep their defaults."""
        return ()

    @model_validator(mode="after")
    def _conversion_is_read(self) -> Self:
        default = Conversion(target=self.conversion.target)
        for key, readers in OF_SOME_KINDS.items():
            is_set = getattr(self.conversion, key) != getattr(default, key)
            if is_set and key not in self.conversion_keys:
                raise ValueError(f"conversion.{key} is for {readers}: leave it out")
        return self

    @property
    def kind(self) -> TaskKind:
        """The task kind."""
        return task_kind(self.task)

    def require_model(self, file: str) -> None:
        """Raise a `ManifestError` for a pretrained model that is missing here, or cannot do what is asked.

        `file` is the manifest's. A model that is not on this machine is checked by the step that reads it.
        """

    def require_vocabulary(self, file: str) -> None:
        """Raise a `ManifestError` if a model here has a tokenizer with more tokens than its embedding."""

    @property
    def sha256(self) -> str:
        """Hash of the content, defaults included, without `platforms`, `deployment` and `monitoring`.

        None of them changes the model.
        """
        content = canonical_json(self, exclude={"platforms", "deployment", "monitoring"})
        return hashlib.sha256(content.encode()).hexdigest()


def section_class(manifest: type[Manifest], name: str) -> type[Section]:
    """The class of a manifest's section."""
    section = manifest.model_fields[name].annotation
    assert isinstance(section, type)
    assert issubclass(section, Section)
    return section


def section_of(task: str, name: str, content: Mapping[str, Any]) -> Any:
    """A section of a manifest of this task kind, as a step of the pipeline gets it."""
    return section_class(task_kind(task).manifest_class(), name).model_validate(content)


def search_class(training: type[Section]) -> type[Search] | None:
    """What `training.search` is in a section of this class; None where nothing can be tuned."""
    field = training.model_fields.get("search")
    options = get_args(field.annotation) if field else ()
    return next((one for one in options if isinstance(one, type) and issubclass(one, Search)), None)


def searchable_keys() -> tuple[str, ...]:
    """The keys that `training.search` can have in a manifest of any task kind."""
    manifests = manifest_classes().values()
    searches = [search_class(section_class(manifest, "training")) for manifest in manifests]
    return tuple(dict.fromkeys(key for search in searches if search for key in search.model_fields))


SECTIONS = ("dataset", "training", "conversion", "evaluation", "gates", "registration", "deployment")


def as_parameter(section: Section) -> dict[str, Any]:
    """The section as a KFP struct parameter: plain JSON types and no nulls, which kfp refuses."""
    return section.model_dump(mode="json", exclude_none=True)


def canonical_json(section: Section, exclude: set[str] | None = None) -> str:
    """One spelling per content: sorted keys, no spaces, no nulls."""
    content = section.model_dump(mode="json", exclude_none=True, exclude=exclude)
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
