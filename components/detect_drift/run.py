"""Compare a window of the request log with reference rows, and decide.

N = rows, C = classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from gauntlet.components.detect_drift.change import (
    JOINT,
    Change,
    classes_of_counts,
    detectable,
    family_p_values,
    ks_of_counts,
)
from gauntlet.components.detect_drift.counts import LabelledRows, Window, name_of
from gauntlet.components.detect_drift.decision import Evidence, Rules, decide
from gauntlet.components.detect_drift.harm import calibrated, detect_harm, estimate, shifted_priors
from gauntlet.components.detect_drift.reference import FEWEST_LABELS, Reference, losses_of
from gauntlet.components.detect_drift.rows import UNCERTAINTIES
from gauntlet.contracts.drift import (
    PROBABILITIES,
    ColumnChange,
    Cost,
    DriftRecord,
    Estimated,
    Harm,
    Paired,
)
from gauntlet.manifests.errors import DataError
from gauntlet.serving.request_log import SCHEMA_VERSION

MOST_OUTSIDE = 0.05
MOST_NULLS, MOST_FAILED, MOST_REPEATED = 0.02, 0.05, 0.05
MOST_OF_A_CLIENT, FEWEST_OF_CLIENTS = 0.5, 100
LEAST_CHANCE = 1e-6
"""Chance that all rows of a window have one value of the reference, above which that is no fault."""


@dataclass(frozen=True)
class Settings:
    """How sure detect-drift must be.

    Attributes:
        alpha: The rate of windows without a change in which one is proven, at most.
        tolerance: The smallest KS or TV effect that counts as a change.
        margin: How much above the reference's error the error may be.
        run_length: The expected labelled rows up to a false alarm of harm, at least.
    """

    alpha: float = 0.001
    tolerance: float = 0.05
    margin: float = 0.02
    run_length: float = 1e6
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True)
class History:
    """What is known beside the rows of the window.

    Attributes:
        windows_changed: Windows in a row before this one with a proven change; None if nobody remembers.
        previous: Compares with the version before on the same labelled rows; it is asked only if harm is
            proven.
        cost: What the harm has cost so far, given its proof.
    """

    windows_changed: int | None = None
    previous: Callable[[], Paired | None] = lambda: None
    cost: Callable[[Harm], Cost | None] = lambda _: None


def detect(
    reference: Reference, window: Window, settings: Settings = Settings(), history: History = History()
) -> DriftRecord:
    """What has changed, what it harms, and what to do.

    Raises:
        DataError: The rows are of different models, or there are labels but too few of the reference.
    """
    known = reference.baseline
    model = window.model if reference.model is None else reference.model
    if (window.model, window.bundle) != (model, reference.bundle):
        raise DataError(
            f"{window.place}: found rows of {window.model}, bundle {window.bundle}, expected those of the "
            f"reference {reference.place}: {model}, bundle {reference.bundle}. "
            "Name the bundle, or reference rows of the bundle, that serves now."
        )
    if known.log_schema != SCHEMA_VERSION:
        raise DataError(
            f"{reference.place}: log_schema: found {known.log_schema}, expected {SCHEMA_VERSION}: the log's "
            "columns are computed in another way now. Name reference rows with --reference."
        )
    faults = find_faults(reference, window)
    changes = _changes(reference, window) if window.rows else []
    families = family_p_values(changes)
    large = {one.family for one in changes if one.statistic == "MMD" or one.effect >= settings.tolerance}
    changed = [name for name, p_value in families.items() if p_value <= settings.alpha and name in large]
    harm = None if window.labelled is None else _harm(reference, window.labelled, settings)
    estimated = _estimated(reference, window)
    classes = () if "value" in known.columns else known.labels or sorted(known.predicted)
    is_harmful = harm is not None and harm.is_proven
    before = history.windows_changed
    evidence = Evidence(
        window.rows,
        faults,
        changed,
        harm,
        estimated,
        classes,
        windows_changed=None if before is None else before + 1,
        previous=history.previous() if is_harmful else None,
        cost=history.cost(harm) if harm is not None and is_harmful else None,
        only_shares=_only_shares(reference, window, estimated, changed, settings),
    )
    decision = decide(evidence, settings.rules)
    smallest = _smallest(reference, window, settings.alpha, len(changes))
    return DriftRecord(
        model=window.model,
        bundle=window.bundle,
        start=window.start.isoformat(),
        end=window.end.isoformat(),
        rows=window.rows,
        reference_rows=known.rows,
        alpha=settings.alpha,
        tolerance=settings.tolerance,
        **asdict(decision),
        faults=tuple(faults),
        families=families,
        changed=tuple(changed),
        changes=tuple(
            ColumnChange(**asdict(one), detectable=smallest if one.statistic == "KS" else None)
            for one in changes
        ),
        harm=harm,
        estimated=estimated,
        previous=evidence.previous,
        cost=evidence.cost,
        only_shares=evidence.only_shares,
    )


def _smallest(reference: Reference, window: Window, alpha: float, tests: int) -> float | None:
    if not tests or not window.rows:
        return None
    return detectable(window.rows, reference.baseline.rows, alpha / tests)


# --- faults ------------------------------------------------------------------------------------------


def find_faults(reference: Reference, window: Window) -> list[str]:
    """What is wrong with the log itself, in words; a change that comes with one says nothing of the world."""
    found = []
    known, total = reference.baseline, window.rows + window.failed
    if window.failed > MOST_FAILED * total:
        found.append(f"{window.failed:,} of {total:,} requests were not answered")
    if window.repeated > MOST_REPEATED * (total + window.repeated):
        found.append(f"{window.repeated:,} rows have the event_id of an earlier row")
    if len(window.sample_rates) > 1:
        rates = ", ".join(f"{rate:g}" for rate in window.sample_rates)
        found.append(f"the sample rate changed within the window: {rates}")
    had_many = known.largest_client is not None and 2 * known.largest_client < MOST_OF_A_CLIENT
    if had_many and window.largest_client > MOST_OF_A_CLIENT and total >= FEWEST_OF_CLIENTS:
        found.append(f"{window.largest_client:.0%} of the rows come from one client")
    if not window.rows:
        return found
    if window.not_finite:
        found.append(f"{window.not_finite:,} rows have a probability that is no number")
    for name in known.columns:
        if not name.startswith(PROBABILITIES):
            found += _column_faults(name, reference, window)
    found += [
        f"{name} is not in the reference" for name in window.unknown if not name.startswith(PROBABILITIES)
    ]
    for name, ours, theirs in (
        ("predicted", bool(window.predicted), bool(known.predicted)),
        (PROBABILITIES, window.probabilities is not None, name_of(0) in known.columns),
    ):
        if ours != theirs:
            found.append(f"{name} is missing in the {'reference' if ours else 'window'}")
    return found


def _column_faults(name: str, reference: Reference, window: Window) -> list[str]:
    ours, theirs = window.counts[name], reference.arrays.counts[name]
    nulls = ours[-1] / window.rows
    if nulls == 1:
        return [f"{name} has no value in any row"]
    found = []
    if nulls - theirs[-1] / theirs.sum() > MOST_NULLS:
        found.append(f"{name} has no value in {nulls:.0%} of the rows")
    if name in window.constant and ours[:-1].sum() > 1:
        place = np.searchsorted(reference.arrays.edges[name], window.constant[name])
        is_rare = (theirs[place] / theirs.sum()) ** float(window.rows) > LEAST_CHANCE
        if not is_rare:
            found.append(f"{name} has the same value in all rows")
    return found


# --- change ------------------------------------------------------------------------------------------


def _changes(reference: Reference, window: Window) -> list[Change]:
    found, known = [], reference.baseline
    for name in known.columns:
        counts = window.counts[name]
        if counts[:-1].any():
            ks = ks_of_counts(counts, reference.arrays.counts[name])
            found.append(Change(family_of(name), name, "KS", *ks))
    if reference.scores is not None:
        found.append(Change(JOINT, "all numbers", "T2", *reference.scores.compared(window.counts)))
    if known.predicted and window.predicted and "value" not in known.columns:
        answers = sorted(known.predicted.keys() | window.predicted.keys())
        of_window, of_reference = (
            np.array([one.get(answer, 0) for answer in answers], dtype=np.int64)
            for one in (window.predicted, known.predicted)
        )
        compared = classes_of_counts(of_window, of_reference)
        found.append(Change("predictions", "predicted", "TV", *compared))
    features, ours = reference.features, window.probabilities
    if ours is None:
        return found
    if (classes := sum(name.startswith(PROBABILITIES) for name in known.columns)) not in (0, ours.shape[1]):
        raise DataError(
            f"{window.place}: probabilities: found {ours.shape[1]} numbers a row, expected {classes} as in "
            f"{reference.place}."
        )
    if features is not None and len(ours):
        found.append(Change(PROBABILITIES, PROBABILITIES, "MMD", *features.compared(np.sqrt(ours))))
    return found


def family_of(column: str) -> str:
    """What a column is tested together with."""
    if column.startswith(PROBABILITIES):
        return PROBABILITIES
    return "uncertainty" if column in UNCERTAINTIES else "features"


# --- harm --------------------------------------------------------------------------------------------


def _harm(reference: Reference, rows: LabelledRows, settings: Settings) -> Harm:
    known, promise = reference.baseline, reference.baseline.promise
    if promise is None:
        raise DataError(
            f"{reference.place}: found labels of fewer than {FEWEST_LABELS} rows, expected {FEWEST_LABELS} "
            "or more: the error that the model promises is that of labelled reference rows. Label some, or "
            "name a bundle with a baseline."
        )
    losses = losses_of(rows, promise.span)
    bound = min(promise.upper + settings.margin, 0.99)
    alarm = detect_harm(losses, bound, settings.run_length)
    return Harm(
        labelled=len(losses),
        by_class={} if "value" in known.columns else dict(sorted(Counter(rows.labels).items())),
        errors=int((losses > 0).sum()),
        loss=float(losses.mean()) if len(losses) else None,
        measured=promise.loss,
        promised=bound,
        run_length=settings.run_length,
        largest=alarm.largest,
        is_proven=alarm.row is not None,
        since=None if alarm.since is None else rows.events[alarm.since - 1],
    )


def _estimated(reference: Reference, window: Window) -> Estimated | None:
    """None without a calibration, or if the model has no probabilities."""
    known, ours = reference.baseline, window.probabilities
    if known.calibration is None or ours is None or not len(ours):
        return None
    error = known.calibration.error
    if known.energy_bound is not None and window.outside > MOST_OUTSIDE * window.rows:
        share = window.outside / window.rows
        why = f"{share:.0%} of the rows lie outside the support: 1% of the reference has such an energy"
        return Estimated(calibration_error=error, withheld=why)
    biases, priors = np.array(known.calibration.biases), np.array(known.calibration.priors)
    probabilities = calibrated(ours, known.calibration.temperature, biases)
    shares = shifted_priors(probabilities, priors) if priors.all() else None
    return Estimated(
        calibration_error=error,
        **asdict(estimate(probabilities)),
        class_shares=None if shares is None else dict(zip(known.labels, map(float, shares), strict=True)),
    )


def _only_shares(
    reference: Reference,
    window: Window,
    estimated: Estimated | None,
    changed: Sequence[str],
    settings: Settings,
) -> bool | None:
    """Whether the estimated shares of the classes explain the window: each class looks as in the reference.

    The reference's counts by class, in these shares, are compared with the window's. None if they are not
    known, or nothing has changed.
    """
    known, by_class = reference.baseline, reference.arrays.by_class
    shares = None if estimated is None else estimated.class_shares
    if not changed or not by_class or shares is None or known.calibration is None:
        return None
    expected = np.array([shares[name] for name in known.labels])
    moved = float(np.abs(expected - known.calibration.priors).sum() / 2)
    if "features" in changed or moved < settings.tolerance:
        return False
    for name, counts in by_class.items():
        of_class = counts.sum(1)
        if not of_class.all():
            return None
        mixed = expected @ (counts / of_class[:, None])
        gap = np.abs(mixed.cumsum() - window.counts[name].cumsum() / window.counts[name].sum()).max()
        effective = 1 / float((expected**2 / of_class).sum())
        smallest = detectable(window.rows, effective, settings.alpha / len(by_class))
        if gap > max(settings.tolerance, smallest):
            return False
    return True
