"""The request for a training run: one schema, whoever asks and whatever takes it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from gauntlet.manifests.section import Name, Section

SPEC_VERSION = "1.0"
DECISION = "gauntlet.monitoring.decision.v1"
CLOUD_EVENT = "application/cloudevents+json"


class TrainingRequest(Section):
    """A request for a run.

    Attributes:
        manifest: The name of one of the receiver's manifests.
        reason: Why the run is requested. Only `manual` ignores the cool-down.
        id: Identifies the event if the envelope's ID does not: publish the same event twice with the same ID.
        detail: For people, in the receiver's log.
        dataset_uri: New data, instead of the manifest's; under its `dataset.uri` or one of its
            `dataset.roots`.
        dataset_version: The version of the new data.
    """

    manifest: Name
    reason: Literal["schedule", "drift", "new_data", "manual"]
    id: str | None = Field(None, min_length=1, max_length=200)
    detail: str = Field("", max_length=500)
    dataset_uri: str | None = Field(None, pattern=r"^(gs|https|hf|file)://\S+$")
    dataset_version: str | None = Field(None, min_length=1, max_length=100)

    @property
    def overrides(self) -> tuple[str, ...]:
        """The manifest's keys that the event sets, in the form of `--set`."""
        given = {"dataset.uri": self.dataset_uri, "dataset.version": self.dataset_version}
        return tuple(f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None)


def decision_event(
    request: TrainingRequest, event: str, model: str, version: str, at: datetime
) -> dict[str, Any]:
    """A monitoring's request as a CloudEvent in JSON; `event` is the same however often it is published."""
    return {
        "specversion": SPEC_VERSION,
        "id": event,
        "source": f"gauntlet/monitoring/{model}",
        "type": DECISION,
        "subject": f"{model}@{version}",
        "time": at.isoformat(),
        "datacontenttype": "application/json",
        "data": request.model_dump(mode="json", exclude_none=True),
    }
