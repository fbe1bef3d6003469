"""What detect-drift finds in a window of the request log, and what it recommends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from gauntlet.contracts.document import Document

FORMAT = 1

Outcome = Literal["investigate", "too little", "roll back", "retrain", "label", "reweigh", "watch", "none"]


class ColumnChange(Document):
    """How a column differs from the reference; `components/detect_drift/change.py` describes it.

    `detectable` is the smallest effect that would have been found; None of a statistic other than KS.
    """

    family: str
    column: str
    statistic: Literal["KS", "TV", "MMD"]
    effect: float
    p_value: float
    detectable: float | None = None


class Harm(Document):
    """What labels say of the model's error.

    Attributes:
        labelled: Rows of the window with a label; `by_class` counts them.
        promised: The bound that the error must not exceed.
        run_length: At least so many labelled rows are expected between two false alarms.
        largest: The largest value of the e-detector: harm is proven at `run_length`.
        since: The id of the event from which on the errors speak most against the promise.
    """

    labelled: int
    by_class: Mapping[str, int]
    errors: int
    promised: float
    run_length: float
    largest: float
    is_proven: bool
    since: str | None = None


class Estimated(Document):
    """The metrics that calibrated probabilities expect; `withheld` says why they cannot be trusted.

    `class_shares` are those of the rows' true classes, if only they have changed.
    """

    calibration_error: float
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    macro_f1: float | None = None
    class_shares: Mapping[str, float] | None = None
    withheld: str | None = None


class Paired(Document):
    """The answers of another version to the same labelled rows.

    Attributes:
        version: The other version.
        rows: The labelled rows that both have answered.
        errors, other_errors: Of this version, and of the other.
        p_value: Of this version being no worse: the exact test of McNemar, one-sided.
    """

    version: str
    rows: int
    errors: int
    other_errors: int
    p_value: float


class Cost(Document):
    """What the errors above the promised ones have cost since the harm began, and a retraining at most."""

    errors: float
    since: str
    spent_usd: float
    retraining_usd: float


class DriftRecord(Document):
    """What was found in a window, and the outcome with its reason and its next step.

    Attributes:
        families: The p-values of no change by family, adjusted over the families.
        previous: The version before, while this one is on probation.
        rescored: This version on the window that its training was asked for; `version` is that of then.
        rescored_keeps_promise: Whether it keeps its promise there.
        only_shares: Whether only the shares of the classes have changed; None if that cannot be told.
        keeps_promise: Whether the labelled rows of the window itself show that the model keeps its promise;
            None if they are too few to tell.
    """

    written_by: ClassVar[str] = "detect-drift"

    model: str
    bundle: str
    start: str
    end: str
    rows: int
    reference_rows: int
    alpha: float
    tolerance: float
    outcome: Outcome
    reason: str
    next_step: str
    faults: tuple[str, ...] = ()
    families: Mapping[str, float]
    changed: tuple[str, ...] = ()
    changes: tuple[ColumnChange, ...] = ()
    harm: Harm | None = None
    estimated: Estimated | None = None
    previous: Paired | None = None
    rescored: Paired | None = None
    rescored_keeps_promise: bool | None = None
    cost: Cost | None = None
    only_shares: bool | None = None
    keeps_promise: bool | None = None
    format: int = FORMAT
