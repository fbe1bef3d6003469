"""Where a model is served: what every deployment target offers to the rollout, the judge and the commands.

A target serves one model by revisions. A revision is one version's bundle in its own server; several run
side by side and share the requests by weight. The rollout engine in `components/deploy_model`,
`gauntlet rollback` and `gauntlet ab` use this interface only, so they work alike on this machine, on Cloud
Run and on a Vertex endpoint.

`factory.open_deployment` opens a target by its name in the manifest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gauntlet.manifests.errors import GauntletError

State = Literal["starting", "ready", "failed", "draining"]


class ConflictError(GauntletError):
    """The service was changed by somebody else since it was read: read it again and decide again."""


@dataclass(frozen=True)
class Release:
    """A registered version to serve. `bundle_sha256` is the sha256 of its `bundle.json` (64 digits)."""

    model: str
    version: str
    bundle_uri: str
    bundle_sha256: str


@dataclass(frozen=True)
class Revision:
    """One version's server.

    Attributes:
        id: The target's own name for it. It follows from the bundle's sha256.
        state: `failed` is final, `reason` says why in one sentence; `draining` takes no new requests.
        weight: The share of requests that it gets, in percent; those of a service sum to 100.
        since: When it got this weight; ISO 8601, UTC.
        restarts: How often its server ended unexpectedly and was started again.
    """

    id: str
    version: str
    bundle_sha256: str
    state: State
    weight: int
    since: str
    reason: str = ""
    restarts: int = 0


@dataclass(frozen=True)
class Assignment:
    """An A/B test assigns a request by a salted hash of its `header`.

    Without that header it goes to `control`, or to a variant at random if that is empty.
    """

    test: str
    salt: str
    header: str
    control: str


@dataclass(frozen=True)
class Shadow:
    """A share of the requests, 0 to 1, that `revision` answers too. Clients never get its answers."""

    revision: str
    share: float


@dataclass(frozen=True)
class Service:
    """What a target serves now. `etag` changes with every change of the weights: `shift` compares it."""

    name: str
    address: str
    revisions: tuple[Revision, ...]
    etag: str
    shadow: Shadow | None = None
    assignment: Assignment | None = None

    def of_bundle(self, bundle_sha256: str) -> Revision | None:
        """The revision that serves a bundle."""
        return next((each for each in self.revisions if each.bundle_sha256 == bundle_sha256), None)

    @property
    def weights(self) -> dict[str, int]:
        """The share of each revision that gets requests, in percent."""
        return {each.id: each.weight for each in self.revisions if each.weight}


@dataclass(frozen=True)
class ArmCounts:
    """What one revision answered since the weights were last set, counted by request.

    Attributes:
        requests: All that were sent to it, without those of the rollout itself.
        errors: Answers with a status of 500 or more other than 503 and 504, and broken connections.
        refused: Answers with 429, 503 or 504.
        latency_ms: How many good answers took at most so many milliseconds and more than the bound before.
            The last bound may be infinite. Two arms of a service have the same bounds.
        labels: How many rows were answered with each label, for a kind whose answers are labels.
    """

    requests: int = 0
    errors: int = 0
    refused: int = 0
    latency_ms: Mapping[float, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PairCounts:
    """Requests that the shadow answered beside the revision whose answer the client got.

    `different` counts pairs with another label (another answer, for a kind without labels); `errors` counts
    the shadow's errors at requests that the other one answered.
    """

    compared: int = 0
    different: int = 0
    errors: int = 0


@dataclass(frozen=True)
class Evidence:
    """What was counted since the weights were last set to `weights`, in percent."""

    etag: str
    weights: Mapping[str, int]
    arms: Mapping[str, ArmCounts]
    pairs: PairCounts = PairCounts()


@dataclass(frozen=True)
class Answer:
    """One revision's answer through the public address; it names the first digits of `bundle_sha256`."""

    status: int
    body: bytes
    bundle_sha256: str


class Deployment(ABC):
    """A deployment target for one model.

    A failure that is not a bug is a GauntletError; a UsageError when a retry cannot help. Every call can be
    repeated after it was interrupted at any moment.
    """

    @abstractmethod
    def __init__(self, name: str, registry_uri: str, settings: Mapping[str, Any]) -> None:
        """Check the settings, which are the manifest's section `deployment`. Nothing is read or created.

        Raises:
            UsageError: The target cannot be reached by these settings, such as a project that is not named.
        """

    @abstractmethod
    def service(self) -> Service | None:
        """What is served under the model's name now; None if there is no such service yet."""

    @abstractmethod
    def start(self, release: Release) -> Revision:
        """Start a revision without traffic, or return the one that serves this bundle already.

        It returns at once; `service` says when the revision is ready or has failed. In a service that does
        not exist yet, the revision gets all requests once it is ready. A failed revision is started again.
        """

    @abstractmethod
    def ask(self, revision: str, body: bytes) -> Answer:
        """Send a Vertex request body to one revision through the public address, whatever its weight."""

    @abstractmethod
    def shift(
        self,
        weights: Mapping[str, int],
        etag: str,
        shadow: Shadow | None = None,
        assignment: Assignment | None = None,
    ) -> Service:
        """Set the weights in percent, by revision; return once they are in effect. Evidence starts anew.

        Revisions that are not named get none. `shadow` and `assignment` replace what was set before.

        Raises:
            ConflictError: `etag` is not the service's.
            UsageError: The weights do not sum to 100, a revision is unknown or not ready, or the target has
                no shadow or assignment.
        """

    @abstractmethod
    def evidence(self) -> Evidence:
        """What was counted since the last `shift`."""

    @abstractmethod
    def stop(self, revision: str) -> None:
        """End a revision without traffic, after its last request. A revision that is gone is no error."""

    def undeployed(self) -> Sequence[str]:
        """Sentences about what costs something after all revisions are stopped; empty for most targets."""
        return ()
