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

from manifests.conversion import Conversion
from manifests.dataset import Dataset
from manifests.section import Fraction, Name, Section
from manifests.tasks import TaskName, of_task
from manifests.training import Training

# --- evaluation, gates, registration -------------------------------------------------------------


class Evaluation(Section):
    """Section of evaluate-model."""

    bootstrap_resamples: int = Field(2_000, ge=200)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    worst_mistakes: int = Field(20, ge=0)


class Gates(Section):
    """Section of gate-model. A bound on a sampled metric holds for its bootstrap lower limit.

    `min_qwk` and `max_mae` are a grader's: quadratic weighted kappa, and the mean absolute error in grades,
    which holds for its upper limit. A grader is compared with its champion by QWK, all else by macro-F1.
    `max_timing_contention` is the share of its time that a timed model may have waited for a CPU: a speed-up
    taken on a busier machine is no measurement.
    """

    min_macro_f1: Fraction
    min_accuracy: Fraction = 0.0
    min_qwk: float | None = Field(None, ge=-1, le=1)
    max_mae: float | None = Field(None, gt=0)
    min_speedup: float = Field(2.3, gt=0)
    max_timing_contention: Fraction = 0.5
    max_model_mb: float = Field(100.0, gt=0)
    non_inferiority_margin: Fraction = 0.01
    max_class_f1_drop: Fraction = 0.05
    max_cost_usd: float = Field(10.0, gt=0)


class Registration(Section):
    """Section of register-model. `manual` stops at the alias challenger; `gauntlet promote` goes on."""

    promotion: Literal["automatic", "manual"] = "automatic"


# --- the manifest ----------------------------------------------------------------------------------


class Manifest(Section):
    """A system that is retrained: what to run, on what, and what it must prove.

    `name` is also the name of the pipeline and of the model in the registry. Which keys `dataset` and
    `training` have depends on the task (`manifests/tasks.py`).
    """

    name: Name
    description: str = Field(min_length=1)
    task: TaskName
    seed: int = Field(0, ge=0, lt=2**32)
    dataset: SerializeAsAny[Dataset]
    training: SerializeAsAny[Training] = Field(default_factory=dict, validate_default=True)
    conversion: Conversion = Conversion()
    evaluation: Evaluation = Evaluation()
    gates: Gates
    registration: Registration = Registration()

    @field_validator("dataset", "training", mode="wrap")
    @classmethod
    def _of_the_task(cls, value: Any, _: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        return of_task(info.data.get("task"), str(info.field_name), value)

    @model_validator(mode="after")
    def _gates_of_the_task(self) -> Self:
        bounds = (self.gates.min_qwk, self.gates.max_mae)
        if self.training.are_grades_ordered and None in bounds:
            raise ValueError("gates.min_qwk and gates.max_mae, which a grader is judged by")
        if not self.training.are_grades_ordered and bounds != (None, None):
            raise ValueError("gates.min_qwk and gates.max_mae for task ordinal_grading alone")
        return self

    @property
    def sha256(self) -> str:
        """Hash of the content, defaults included."""
        return hashlib.sha256(canonical_json(self).encode()).hexdigest()


SECTIONS = ("dataset", "training", "conversion", "evaluation", "gates", "registration")


def as_parameter(section: Section) -> dict[str, Any]:
    """The section as a KFP struct parameter: plain JSON types and no nulls, which kfp refuses."""
    return section.model_dump(mode="json", exclude_none=True)


def canonical_json(section: Section) -> str:
    """One spelling per content: sorted keys, no spaces, no nulls."""
    return json.dumps(as_parameter(section), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
