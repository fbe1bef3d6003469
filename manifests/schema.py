"""The manifest: one section per DAG step, and nothing else reaches that step.

Every model forbids unknown keys, so a misspelt key is a fault instead of a silent default.
`Manifest.sha256` identifies a manifest by its content: the same settings written as YAML, as JSON,
or with a default spelt out have the same hash.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import (
    Field,
    SerializeAsAny,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.dataset import Dataset
from gauntlet.manifests.evaluation import CommonEvaluation
from gauntlet.manifests.gates import CommonGates
from gauntlet.manifests.platforms import Platforms
from gauntlet.manifests.section import Name, Section
from gauntlet.manifests.tasks import (
    TaskName,
    of_task,
    require_judged_stages,
    require_known_classes,
    require_measurable,
    require_shared_keys,
    with_shared_keys,
)
from gauntlet.manifests.training import CommonTraining


class Registration(Section):
    """Section of register-model. `manual` stops at the alias challenger; `gauntlet promote` goes on."""

    promotion: Literal["automatic", "manual"] = "automatic"


class Manifest(Section):
    """A system that is retrained: what to run, on what, and what it must prove.

    `name` is also the name of the pipeline and of the model in the registry. Which keys `dataset`,
    `training`, `evaluation` and `gates` have depends on the task (`manifests/tasks.py`). `platforms` says
    what the pipeline gets where it runs; it is no part of the hash.
    """

    name: Name
    description: str = Field(min_length=1)
    task: TaskName
    seed: int = Field(0, ge=0, lt=2**32)
    dataset: SerializeAsAny[Dataset]
    training: SerializeAsAny[CommonTraining] = Field(default_factory=dict, validate_default=True)
    conversion: Conversion = Conversion()
    evaluation: SerializeAsAny[CommonEvaluation] = Field(default_factory=dict, validate_default=True)
    gates: SerializeAsAny[CommonGates]
    registration: Registration = Registration()
    platforms: Platforms = Platforms()

    @model_validator(mode="before")
    @classmethod
    def _shared(cls, content: Any) -> Any:
        return with_shared_keys(content)

    @model_validator(mode="after")
    def _agreeing(self) -> Self:
        require_shared_keys(self.task, self.dataset, self.training)
        require_known_classes(self.dataset, self.training)
        require_judged_stages(self.evaluation, self.gates)
        require_measurable(self.training, self.conversion, self.gates)
        return self

    @field_validator("dataset", "training", "evaluation", "gates", mode="wrap")
    @classmethod
    def _of_the_task(cls, value: Any, _: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        return of_task(info.data.get("task"), str(info.field_name), value)

    @property
    def sha256(self) -> str:
        """Hash of the content, defaults included, without `platforms`."""
        return hashlib.sha256(canonical_json(self, exclude={"platforms"}).encode()).hexdigest()


SECTIONS = ("dataset", "training", "conversion", "evaluation", "gates", "registration")


def as_parameter(section: Section) -> dict[str, Any]:
    """The section as a KFP struct parameter: plain JSON types and no nulls, which kfp refuses."""
    return section.model_dump(mode="json", exclude_none=True)


def canonical_json(section: Section, exclude: set[str] | None = None) -> str:
    """One spelling per content: sorted keys, no spaces, no nulls."""
    content = section.model_dump(mode="json", exclude_none=True, exclude=exclude)
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
