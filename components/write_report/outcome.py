"""How a run ended: in words for the page, as an exit code for `gauntlet run`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gauntlet.backends.registry import CHALLENGER, CHAMPION, STAGING
from gauntlet.components.write_report.record import FAILURE, CollectedRun, StepRecord
from gauntlet.contracts.version import Version
from gauntlet.manifests.errors import DataError, RejectedError
from gauntlet.pages.formatting import words

Kind = Literal["promoted", "registered", "unchanged", "rejected", "data refused", "failed", "cancelled"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        kind: `registered` is a model that passed and waits for a person to promote it; `unchanged` one whose
            bundle an earlier run has registered.
        headline: The outcome in a few words.
        detail: One or two sentences: why, or what it means.
        exit_code: 0 promoted, registered or unchanged, 3 rejected by a gate, 4 bad data, else that of the
            failure.
    """

    kind: Kind
    headline: str
    detail: str
    exit_code: int


def outcome(record: CollectedRun) -> Outcome:
    """How the run of `record` ended."""
    failed = record.failed_step
    if failed is not None:
        return _failure(record, failed)
    if record.version is None:
        return _rejection(record)
    version = record.version
    if version.overruled:
        return _overruling(version)
    if not version.registered:
        return _unchanged(version)
    if CHAMPION in version.aliases:
        return Outcome("promoted", f"Promoted as version {version.version}", _promotion_detail(record), 0)
    if STAGING in version.aliases:
        detail = "It met every rule of staging, and waits there for the approval that production needs."
    elif CHALLENGER in version.aliases:
        detail = (
            "It met every rule and waits for you: promotion is manual for this system, or the champion went "
            "through promotion stages, which this model did not."
        )
    else:
        detail = "It met every rule, but was champion before, so its aliases were left as they are."
    return Outcome("registered", f"Passed, and registered as version {version.version}", detail, 0)


def _overruling(version: Version) -> Outcome:
    headline = f"Rejected by {_listed(list(version.overruled or ()))}, then promoted by {version.approved_by}"
    at = (version.approved_at or "")[:16]
    detail = f"It is version {version.version}, promoted at {at} UTC. {version.reason}"
    return Outcome("promoted", headline, detail, 0)


def _unchanged(version: Version) -> Outcome:
    cached = "Data and settings have not changed, so the bundle came from the cache"
    if CHAMPION in version.aliases:
        headline = f"Unchanged: version {version.version} is still the champion"
        detail = f"{cached}: it is the champion's own. Nothing was registered or promoted."
    else:
        headline = f"Unchanged: the bundle is that of version {version.version}"
        detail = (
            f"{cached}. Version {version.version} was champion before and has been replaced, which is left "
            "as it is. Nothing was registered or promoted."
        )
    return Outcome("unchanged", headline, detail, 0)


def _failure(record: CollectedRun, failed: StepRecord) -> Outcome:
    message = failed.message or ""
    exit_code = FAILURE if failed.exit_code is None else failed.exit_code
    if record.final is not None and record.final.state == "CANCELLED":
        return Outcome("cancelled", f"Cancelled during {failed.name}", message, exit_code)
    if exit_code == DataError.exit_code:
        return Outcome(
            "data refused", f"Data refused by {failed.name}", _refusal_detail(record, failed), exit_code
        )
    return Outcome("failed", f"Failed in {failed.name}", message, exit_code)


def _refusal_detail(record: CollectedRun, failed: StepRecord) -> str:
    failing = (
        [check.check for check in record.checks.checks if check.verdict == "fail"] if record.checks else []
    )
    if not failing:
        return failed.message or "The data could not be used."
    checks = f"{len(failing)} check{'s' if len(failing) > 1 else ''}"
    return f"The data failed {checks} ({_listed(failing)}), so nothing was trained."


def _rejection(record: CollectedRun) -> Outcome:
    rules = [rule.rule for rule in record.verdict.rules if rule.verdict == "fail"] if record.verdict else []
    by = f" by {_listed(rules)}" if rules else " by the gate"
    champion = record.champion_version
    keeps = (
        f"Version {champion} stays the champion."
        if champion is not None
        else "No model was registered or promoted."
    )
    return Outcome("rejected", f"Rejected{by}", keeps, RejectedError.exit_code)


def _promotion_detail(record: CollectedRun) -> str:
    champion = record.champion_version
    if champion is None:
        return "It met every rule. There was no champion to compare with, so the floors alone decided."
    return f"It met every rule and takes over from version {champion}, scored on the same rows."


def _listed(names: list[str]) -> str:
    *first, last = (words(name) for name in names)
    return f"{', '.join(first)} and {last}" if first else last
