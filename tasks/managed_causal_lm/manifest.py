"""The section `training` of a language model that a vendor tunes and serves: `model: gemini-…`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from gauntlet.manifests.training import CommonTraining, Resources

MANAGED_PREFIX = "gemini-"
READ_RESOURCES = {"machine_type", "max_hours", "max_cost_usd", "boot_disk_gb"}


class ManagedTraining(CommonTraining):
    """Section of train-model: a Gemini model, tuned on Vertex AI on the same conversations.

    The vendor chooses batch size, schedule and learning rate; `learning_rate_multiplier` is over the one that
    it would choose, and `adapter_size` is the rank of its adapters. `resources` is the machine that waits for
    the job, how long it does, and what both may cost together.
    """

    model: str = Field(pattern=r"^gemini-[a-z0-9.-]+$")
    epochs: int = Field(3, ge=1)
    learning_rate_multiplier: float = Field(1.0, gt=0)
    adapter_size: Literal[1, 2, 4, 8, 16, 32] = 4

    @model_validator(mode="after")
    def _nothing_unread(self) -> Self:
        default = Resources()
        for key in Resources.model_fields.keys() - READ_RESOURCES:
            if getattr(self.resources, key) != getattr(default, key):
                raise ValueError(
                    f"resources.{key} is of machines that train, and {self.model} is trained by Vertex AI: "
                    "remove it"
                )
        return self


def is_managed(training: Any) -> bool:
    """Whether a section `training`, read or not, is that of a model that a vendor tunes."""
    if isinstance(training, ManagedTraining):
        return True
    model = training.get("model") if isinstance(training, Mapping) else None
    return isinstance(model, str) and model.startswith(MANAGED_PREFIX)
