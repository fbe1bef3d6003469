"""An A/B test of two versions of a model: what was fixed before it started, and what was seen."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gauntlet.contracts.document import Document

MetricType = Literal["binary", "bounded", "real"]
Decision = Literal["go on", "winner", "no difference", "inconclusive", "mismatch"]


class Variant(Document):
    """A version under test. `share` is in percent; `revision` is the target's own name for its server."""

    name: str
    version: str
    revision: str
    bundle_sha256: str
    share: int


class Arm(Document):
    """What was seen of a variant.

    Attributes:
        requests: Requests that were assigned to it.
        units: The keys of those requests; a request without a key is a unit of its own.
        observed: Units with an outcome that counts.
        mean: The mean of their values; a unit's value is the mean of its outcomes.
    """

    name: str
    version: str
    requests: int = 0
    units: int = 0
    observed: int = 0
    mean: float | None = None


class Point(Document):
    """The interval of the difference after the first `units` units with an outcome."""

    units: int
    difference: float
    low: float
    high: float


class Fault(Document):
    """Rows of the outcomes that do not count: how many, why, and the ids of a few."""

    why: Literal["unknown", "duplicate", "outside the window"]
    rows: int
    examples: tuple[str, ...]


class Analysis(Document):
    """What the requests and outcomes up to a time say. Differences are of the second variant to the first.

    Attributes:
        waiting: Units whose window is not over yet, so that they do not count.
        without_key: Requests without a key, which are not in the test.
        ratio_evidence: Of the sample-ratio test, the largest so far; an alarm from `1 / RATIO_ALPHA` on.
            `all units` is of all that were assigned, `with outcomes` of those that have one.
        path: The interval over the units; the last point is that of all.
    """

    at: str
    arms: tuple[Arm, ...]
    faults: tuple[Fault, ...] = ()
    waiting: int = 0
    without_key: int = 0
    ratio_evidence: dict[str, float] = Field(default_factory=dict)
    path: tuple[Point, ...] = ()
    decision: Decision = "go on"
    winner: str = ""
    why: str = ""


class Experiment(Document):
    """An A/B test. All up to `started` is fixed before the first request is assigned.

    Attributes:
        variants: Two; the first is the control.
        salt: A key's variant follows from its hash with this salt.
        key_header: The header with the key.
        without_key: How a request without a key is assigned: `random`, each by itself; or `control`, and
            then it is not in the test.
        metric: The name of the outcome; `better` says which direction is an improvement.
        low, high: The bounds of a bounded metric.
        alpha: The probability that a winner is ever declared if there is no difference.
        minimal_effect: A difference that is proven to be smaller in both directions is none.
        maximum_n: So many units with an outcome are evaluated at most.
        window_hours: How long after its first request a unit's outcomes count; None for until the end.
        state: `starting` until the requests are assigned.
        winner: The variant that got all requests at the end, if one was named.
        analysis: What was seen when somebody looked last, without the path.
    """

    id: str
    variants: tuple[Variant, Variant]
    salt: str
    key_header: str
    without_key: Literal["random", "control"]
    metric: str
    type: MetricType
    low: float | None = None
    high: float | None = None
    better: Literal["higher", "lower"]
    alpha: float
    minimal_effect: float
    maximum_n: int
    window_hours: float | None = None
    started: str
    state: Literal["starting", "running", "stopped"] = "starting"
    ended: str = ""
    winner: str = ""
    by: str = ""
    why: str = ""
    analysis: Analysis | None = None

    def variant(self, name: str) -> Variant | None:
        """The variant of a name."""
        return next((one for one in self.variants if one.name == name), None)
