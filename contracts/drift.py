"""What detect-drift finds in a window of the request log, and what it recommends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from gauntlet.contracts.document import Document

FORMAT = 1

Outcome = Literal["investigate", "too little", "retrain", "label", "watch", "none"]


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


class DriftRecord(Document):
    """What was found in a window, and the outcome with its reason and its next step.

    `families` are the p-values of no change by family, adjusted over the families.
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
    format: int = FORMAT
