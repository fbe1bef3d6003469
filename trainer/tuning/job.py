"""The input of a tuning process, as JSON."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny, ValidationInfo, ValidatorFunctionWrapHandler, field_validator

from gauntlet.manifests.kinds import task_kind
from gauntlet.manifests.schema import search_class, section_class
from gauntlet.manifests.search import Search
from gauntlet.manifests.section import Section
from gauntlet.manifests.training import Training

NOT_OF_A_SCORE = {"resources", "resume", "compute_target", "prefetch_batches", "tracking", "student"}
"""Settings that change where a training runs and what it costs, but not its result."""


class TuningJob(Section):
    """A study and what this process does for it.

    Attributes:
        trials: Number of finished trials after which the study is complete.
        deadline: No trial starts after it; seconds since the epoch.
        threads: CPU threads of this process.
    """

    study: str
    database: Path
    task: str
    seed: int
    training: SerializeAsAny[Training]
    search: SerializeAsAny[Search]
    splits: Path
    trials: int = Field(ge=1)
    deadline: float | None = None
    threads: int = Field(ge=1)

    @field_validator("training", "search", mode="wrap")
    @classmethod
    def _of_the_task(cls, value: Any, _: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        training = section_class(task_kind(info.data["task"]).manifest_class(), "training")
        section = training if info.field_name == "training" else search_class(training)
        assert section is not None
        return section.model_validate(value)

    @property
    def metric(self) -> str:
        """What trials are compared by."""
        return self.training.early_stopping.metric


def study_name(name: str, task: str, seed: int, training: Training, data_sha256: str) -> str:
    """The study's name. It has a hash of all that the scores depend on, so scores within a study compare."""
    search = training.search.model_dump(mode="json") if training.search else None
    identity = {
        "task": task,
        "seed": seed,
        "training": training.model_dump(mode="json", exclude=NOT_OF_A_SCORE),
        "search": search,
        "data": data_sha256,
    }
    return f"{name}-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]}"
