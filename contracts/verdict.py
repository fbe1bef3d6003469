"""What gate-model decides, rule by rule, and the version that register-model makes of the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from gauntlet.contracts.document import Document

Operator = Literal[">=", ">", "<=", "is"]
Outcome = Literal["pass", "fail", "not applicable"]
StageName = Literal["staging", "production"]
STAGES: tuple[StageName, ...] = ("staging", "production")
PROMOTE = "promote"


class RuleVerdict(Document):
    """A rule `value operator bound` and its outcome.

    `value` is None when no usable figure was found, `bound` when a rule that does not apply has none.
    """

    rule: str
    bound: bool | int | float | None
    operator: Operator
    value: bool | int | float | None
    verdict: Outcome
    note: str


class Decision(Document):
    """`promote` when no rule failed, else `reject`, with one sentence for each rule that failed."""

    written_by: ClassVar[str] = "gate-model"

    decision: Literal["promote", "reject"]
    reasons: tuple[str, ...] = ()
    rules: tuple[RuleVerdict, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the rules that failed."""
        return tuple(rule.rule for rule in self.rules if rule.verdict == "fail")


class StageDecision(Decision):
    """The decision about a promotion stage, and the bounds that were applied."""

    bounds: Mapping[str, float]


class Verdict(Decision):
    """The content of `verdict`. `stages` is None unless the section `gates` has promotion stages."""

    stages: Mapping[str, StageDecision] | None = None

    def as_json(self) -> dict[str, Any]:
        """As `Document.as_json`, without `stages` if there are none."""
        return {key: value for key, value in super().as_json().items() if (key, value) != ("stages", None)}


class Version(Document):
    """The content of `version`. `registered` is false if an earlier run has registered the same bundle.

    `overruled` are the rules that the model failed, if a person promoted it anyway. Only then are the fields
    after it set.
    """

    written_by: ClassVar[str] = "register-model"
    omits_none: ClassVar[bool] = True

    name: str
    version: str
    uri: str
    registered: bool = True
    aliases: tuple[str, ...]
    bundle_sha256: str
    overruled: tuple[str, ...] | None = None
    approved_by: str | None = None
    approved_at: str | None = None
    reason: str | None = None
