"""What to do about what a window of the request log shows: a pure function, the first rule that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gauntlet.contracts.drift import Cost, Estimated, Harm, Outcome, Paired

CONSECUTIVE = 2
"""Windows in a row with a change before people are asked to label for an estimate's sake."""
WORSE = 0.01
"""The p-value below which the version before is better on the same labelled rows."""


@dataclass(frozen=True)
class Rules:
    """The limits of the decision.

    Attributes:
        min_rows: Fewer answered rows decide nothing.
        min_new_rows, min_class_rows: Labelled rows, in all and of each class, that a retraining needs.
        retrains_on_estimate: Whether an estimate below the promise asks for a retraining too.
    """

    min_rows: int = 200
    min_new_rows: int = 500
    min_class_rows: int = 20
    retrains_on_estimate: bool = False


@dataclass(frozen=True)
class Evidence:
    """What was found.

    Attributes:
        changed: The families whose change is proven.
        classes: Of the model.
        windows_changed: Windows in a row with a proven change, this one included; None if nobody remembers
            the ones before, so that one is enough.
        previous: The version before on the same labelled rows, while this one is on probation.
        cost: With `value_per_error_usd` only.
        only_shares: Whether only the shares of the classes have changed.
    """

    rows: int
    faults: Sequence[str]
    changed: Sequence[str]
    harm: Harm | None
    estimated: Estimated | None
    classes: Sequence[str]
    windows_changed: int | None = None
    previous: Paired | None = None
    cost: Cost | None = None
    only_shares: bool | None = None


@dataclass(frozen=True)
class Decision:
    """The outcome, why, and what a person or a program does next."""

    outcome: Outcome
    reason: str
    next_step: str


def decide(evidence: Evidence, rules: Rules) -> Decision:
    """Take the first rule that fits. Only harm that labels prove asks for a retraining.

    A retraining without new labelled rows makes the same model again, and one on the rows of a fault makes a
    worse one.
    """
    if evidence.faults:
        return Decision(
            "investigate",
            f"the log has {len(evidence.faults)} fault{'s' if len(evidence.faults) > 1 else ''}: "
            f"{'; '.join(evidence.faults)}",
            "Find the cause. Do not retrain on these rows.",
        )
    if evidence.rows < rules.min_rows:
        return Decision(
            "too little",
            f"the window has {evidence.rows:,} answered rows, fewer than {rules.min_rows:,}",
            "Name a longer window, or log a larger share of the requests.",
        )
    if evidence.harm is not None and evidence.harm.is_proven:
        return _of_harm(evidence.harm, evidence, rules)
    if evidence.changed:
        return _of_change(evidence, rules)
    return Decision("none", "no change is proven and no harm", "Nothing to do.")


def _of_harm(harm: Harm, evidence: Evidence, rules: Rules) -> Decision:
    found = f"{harm.errors:,} of {harm.labelled:,} labelled rows are wrong ({harm.loss or 0:.1%})"
    if harm.measured == "distance":
        found = f"the mean error of {harm.labelled:,} labelled rows is {harm.loss or 0:.1%} of the range"
    reason = (
        f"{found}; at most {harm.promised:.1%} were promised. One false alarm is expected in "
        f"{harm.run_length:,.0f} labelled rows or more"
    )
    previous, cost = evidence.previous, evidence.cost
    if previous is not None and previous.p_value <= WORSE:
        return Decision(
            "roll back",
            f"{reason}. Version {previous.version}, the one before, is wrong in {previous.other_errors:,} of "
            f"the {previous.rows:,} labelled rows that both answered, this one in {previous.errors:,} "
            f"(p = {previous.p_value:.2g})",
            f"Make version {previous.version} champion again.",
        )
    if lacking := _lacking(harm, evidence.classes, rules):
        return Decision("label", reason, f"Label {', and '.join(lacking)}: a retraining needs them.")
    if cost is not None:
        reason = (
            f"{reason}. Since {cost.since[:16].replace('T', ' ')} UTC {cost.errors:,.0f} more errors than "
            f"promised have cost {cost.spent_usd:,.2f} USD; a retraining costs at most "
            f"{cost.retraining_usd:,.2f} USD"
        )
        if cost.spent_usd < cost.retraining_usd:
            return Decision("watch", reason, "Watch: so far a retraining costs more than the errors.")
    return Decision(
        "retrain", reason, "Add the labelled rows to the dataset, some to its test split; run the manifest."
    )


def _lacking(harm: Harm, classes: Sequence[str], rules: Rules) -> list[str]:
    """The labelled rows that a retraining lacks, in words."""
    lacking = []
    if harm.labelled < rules.min_new_rows:
        lacking.append(f"{rules.min_new_rows - harm.labelled:,} more labelled rows")
    scarce = [
        name
        for name in classes
        if harm.measured == "wrong" and harm.by_class.get(name, 0) < rules.min_class_rows
    ]
    if scarce:
        lacking.append(f"at least {rules.min_class_rows} of each of {', '.join(scarce)}")
    return lacking


def _of_change(evidence: Evidence, rules: Rules) -> Decision:
    reason = f"{', '.join(evidence.changed)} changed"
    estimated, harm = evidence.estimated, evidence.harm
    if harm is not None and estimated is not None and estimated.accuracy_high is not None:
        floor = 1 - harm.promised
        if estimated.accuracy_high < floor:
            reason = (
                f"{reason}, and the estimated accuracy is at most {estimated.accuracy_high:.1%}, below the "
                f"promised {floor:.1%}"
            )
            return _of_estimate(reason, harm, evidence, rules)
        if evidence.only_shares:
            return _of_shares(reason, estimated)
        return Decision(
            "watch", f"{reason}; neither labels nor estimates show harm", "Watch the next window."
        )
    return Decision(
        "watch",
        f"{reason}; without an estimate or labels nothing says whether that harms",
        "Label a uniform sample of the window's rows, and give it with --labels.",
    )


def _of_estimate(reason: str, harm: Harm, evidence: Evidence, rules: Rules) -> Decision:
    windows = evidence.windows_changed
    if windows is not None and windows < CONSECUTIVE:
        return Decision(
            "watch", f"{reason}; in the window before nothing had changed", "Watch the next window."
        )
    if rules.retrains_on_estimate and not _lacking(harm, evidence.classes, rules):
        return Decision(
            "retrain",
            f"{reason}; monitoring.retrain_on is estimate",
            "Add the labelled rows to the dataset, some to its test split; run the manifest.",
        )
    return Decision("label", reason, "Label a uniform sample of the window's rows: only labels prove harm.")


def _of_shares(reason: str, estimated: Estimated) -> Decision:
    shares = ", ".join(f"{name} {share:.1%}" for name, share in (estimated.class_shares or {}).items())
    return Decision(
        "reweigh",
        f"{reason}, and that is what other shares of the same classes give: the rows of each class look as "
        "before",
        f"No training is needed. Multiply each probability by the new share of its class over the old one. "
        f"New shares: {shares}.",
    )
