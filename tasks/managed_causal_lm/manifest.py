"""The manifest of the task kind `managed_causal_lm`: a Gemini model, tuned and served by Vertex AI."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.training import CommonTraining, Resources, ServiceTuning
from gauntlet.tasks.language.manifest import ConversationManifest, LanguageGates

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

    @property
    def by_service(self) -> ServiceTuning:
        """The tuning job."""
        return ServiceTuning(self.model, self.epochs)

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


class ManagedManifest(ConversationManifest):
    """The manifest of a Gemini model, which is not converted and has no perplexity."""

    task: Literal["managed_causal_lm"]
    training: ManagedTraining

    @model_validator(mode="after")
    def _measurable(self) -> Self:
        why = f"{self.training.model} is tuned and served by Vertex AI"
        if self.gates.max_perplexity is not None:
            raise ValueError(
                f"gates.max_perplexity: {why}, which gives no probabilities of an answer: remove it"
            )
        if self.conversion != Conversion():
            raise ValueError(f"conversion: {why}, and nothing is converted: remove the section")
        for key in ("min_speedup", "max_model_mb"):
            if getattr(self.gates, key) != LanguageGates.model_fields[key].default:
                raise ValueError(f"gates.{key}: {why}, and nothing is converted: remove it")
        return self
