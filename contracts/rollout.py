"""The record of a model's deployment: one JSON file per model, written before anything is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from gauntlet.contracts.document import Document
from gauntlet.contracts.experiment import Experiment

FORMAT = 1

Phase = Literal["start", "golden", "shift", "judge", "watch", "stop", "undo", "held", "done", "rolled back"]
ENDED: tuple[Phase, ...] = ("done", "rolled back")


class Lock(Document):
    """Who works on the rollout, and until when nobody else may; ISO 8601, UTC."""

    owner: str
    until: str


class Transition(Document):
    """What the rollout was about to do, and why. The weights are by revision, in percent."""

    at: str
    phase: Phase
    weights: Mapping[str, int] = Field(default_factory=dict)
    why: str = ""


class Counts(Document):
    """What one revision answered; see `ArmCounts`. A bound of `latency_ms` is a number or `inf`."""

    requests: int = 0
    errors: int = 0
    refused: int = 0
    latency_ms: Mapping[str, int] = Field(default_factory=dict)
    labels: Mapping[str, int] = Field(default_factory=dict)


class Seen(Document):
    """What was counted while two revisions shared the requests, and what the judge said of it.

    A new entry begins with each step, and where a target lost its counts. `share` is the part of the
    requests, 0 to 1, that was sent to the new version.
    """

    step: int
    share: float
    new: Counts = Counts()
    old: Counts = Counts()
    compared: int = 0
    different: int = 0
    shadow_errors: int = 0


class Rejected(Document):
    """A bundle that was rolled back: it is not deployed again unless somebody asks for it."""

    version: str
    at: str
    why: str
    by: str


class Rollout(Document):
    """One rollout of one version.

    Attributes:
        revision, previous: The new revision, and the one that served before; empty if there is none.
        previous_version: The version of that one.
        step: The number of the step, from 0.
        seconds: How long the step has lasted, without the time in which nobody worked on the rollout.
        why: What the judge said last, or what ended the rollout.
        evidence: The judge's evidence against each metric, by name; 1 over alpha is an alarm.
    """

    version: str
    bundle_uri: str
    bundle_sha256: str
    started: str
    phase: Phase = "start"
    revision: str = ""
    previous: str = ""
    previous_version: str = ""
    step: int = 0
    seconds: float = 0.0
    why: str = ""
    evidence: Mapping[str, float] = Field(default_factory=dict)
    seen: tuple[Seen, ...] = ()
    transitions: tuple[Transition, ...] = ()


class DeploymentRecord(Document):
    """The file of a model: how it is deployed, the rollout or the A/B test, and what was rolled back.

    Attributes:
        settings: The manifest's section `deployment` that the rollout was started with.
        rejected: By the bundle's sha256.
        experiment: The A/B test that is going on, or was the last.
        history: One sentence for each rollout, rollback and A/B test that has ended, oldest first.
    """

    written_by: ClassVar[str] = "deploy-model"

    format: int = FORMAT
    model: str
    settings: Mapping[str, object] = Field(default_factory=dict)
    lock: Lock | None = None
    rollout: Rollout | None = None
    experiment: Experiment | None = None
    rejected: Mapping[str, Rejected] = Field(default_factory=dict)
    history: tuple[str, ...] = ()
