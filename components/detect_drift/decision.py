"""What to do about what a window of the request log shows: a pure function, the first rule that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gauntlet.contracts.drift import Estimated, Harm, Outcome


@dataclass(frozen=True)
class Rules:
    """The limits of the decision.

    Attributes:
        min_rows: Fewer answered rows decide nothing.
        min_new_rows, min_class_rows: Labelled rows, in all and of each class, that a retraining needs.
    """

    min_rows: int = 200
    min_new_rows: int = 500
    min_class_rows: int = 20


@dataclass(frozen=True)
class Evidence:
    """What was found.

    Attributes:
        changed: The families whose change is proven.
        classes: Of the model.
    """

    rows: int
    faults: Sequence[str]
    changed: Sequence[str]
    harm: Harm | None
    estimated: Estimated | None
    classes: Sequence[str]


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
        return _of_harm(evidence.harm, evidence.classes, rules)
    if evidence.changed:
        return _of_change(evidence)
    return Decision("none", "no change is proven and no harm", "Nothing to do.")


def _of_harm(harm: Harm, classes: Sequence[str], rules: Rules) -> Decision:
    found = f"{harm.errors:,} of {harm.labelled:,} labelled rows are wrong ({harm.loss or 0:.1%})"
    if harm.measured == "distance":
        found = f"the mean error of {harm.labelled:,} labelled rows is {harm.loss or 0:.1%} of the range"
    reason = (
        f"{found}; at most {harm.promised:.1%} were promised. One false alarm is expected in "
        f"{harm.run_length:,.0f} labelled rows or more"
    )
    scarce = [
        name
        for name in classes
        if harm.measured == "wrong" and harm.by_class.get(name, 0) < rules.min_class_rows
    ]
    if harm.labelled >= rules.min_new_rows and not scarce:
        return Decision(
            "retrain",
            reason,
            "Add the labelled rows to the dataset, some to its test split; run the manifest.",
        )
    lacking = []
    if harm.labelled < rules.min_new_rows:
        lacking.append(f"{rules.min_new_rows - harm.labelled:,} more labelled rows")
    if scarce:
        lacking.append(f"at least {rules.min_class_rows} of each of {', '.join(scarce)}")
    return Decision("label", reason, f"Label {', and '.join(lacking)}: a retraining needs them.")


def _of_change(evidence: Evidence) -> Decision:
    reason = f"{', '.join(evidence.changed)} changed"
    estimated, harm = evidence.estimated, evidence.harm
    if harm is not None and estimated is not None and estimated.accuracy_high is not None:
        floor = 1 - harm.promised
        if estimated.accuracy_high < floor:
            return Decision(
                "label",
                f"{reason}, and the estimated accuracy is at most {estimated.accuracy_high:.1%}, below the "
                f"promised {floor:.1%}",
                "Label a uniform sample of the window's rows: only labels prove harm.",
            )
        return Decision(
            "watch", f"{reason}; neither labels nor estimates show harm", "Watch the next window."
        )
    return Decision(
        "watch",
        f"{reason}; without an estimate or labels nothing says whether that harms",
        "Label a uniform sample of the window's rows, and give it with --labels.",
    )
