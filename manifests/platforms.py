"""Settings of the place that a pipeline runs on, and not of the system: no step reads them.

They change neither a manifest's hash nor any parameter of a step, so a cached result stays valid.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gauntlet.manifests.section import Section

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
    """Settings by platform; Vertex AI's are in `training.resources`."""

    kubeflow: Kubeflow = Kubeflow()
