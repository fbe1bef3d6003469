"""Compare a window of the request log with reference rows, and decide.

N = rows, C = classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from gauntlet.components.detect_drift.change import (
    Change,
    MeanFeatures,
    classes_of_counts,
    counted,
    detectable,
    edges_of,
    family_p_values,
    ks_of_counts,
)
from gauntlet.components.detect_drift.decision import Evidence, Rules, decide
from gauntlet.components.detect_drift.harm import (
    calibration_error,
    detect_harm,
    estimate,
    fit_temperature,
    shifted_priors,
    tempered,
    upper_error,
)
from gauntlet.components.detect_drift.rows import UNCERTAINTIES, Floats, LogRows, labels_of
from gauntlet.contracts.drift import ColumnChange, DriftRecord, Estimated, Harm
from gauntlet.manifests.errors import DataError

FEWEST_LABELS = 100
"""Labelled reference rows below which neither the promised error nor a calibration is taken from them."""
MOST_OUTSIDE = 0.05
SUPPORT = 0.99
"""Rows with an energy above that quantile of the reference lie outside its support."""
MOST_NULLS, MOST_FAILED, MOST_REPEATED = 0.02, 0.05, 0.05
MOST_OF_A_CLIENT, FEWEST_OF_CLIENTS = 0.5, 100


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
class Labelled:
    """The rows that have a label: their places, whether each prediction is wrong, and the labels."""

    places: Sequence[int]
    losses: Floats
    labels: Sequence[str]

    @classmethod
    def of(cls, rows: LogRows, labels: Mapping[str, str]) -> Labelled:
        """Join labels by event id, or a `DataError` if the model predicts no class."""
        if rows.predicted is None:
            raise DataError(
                f"{rows.place}: predicted: found no class, expected one: labels are compared with classes. "
                "Leave --labels out, or log with --store features."
            )
        places, found = labels_of(rows, labels)
        return cls(places.tolist(), (rows.predicted[places] != found).astype(np.float64), found.tolist())


def detect(
    reference: LogRows,
    window: LogRows,
    labels: Mapping[str, str] | None = None,
    settings: Settings = Settings(),
) -> DriftRecord:
    """What has changed, what it harms, and what to do.

    Raises:
        DataError: The rows are of different models, or there are labels but too few of the reference.
    """
    if (window.model, window.bundle) != (reference.model, reference.bundle):
        raise DataError(
            f"{window.place}: found rows of {window.model}, bundle {window.bundle}, expected those of the "
            f"reference {reference.place}: {reference.model}, bundle {reference.bundle}. "
            "Name reference rows of the bundle that serves now."
        )
    if not reference.answered:
        raise DataError(
            f"{reference.place}: found no answered row, expected some. Name other reference rows."
        )
    faults = find_faults(reference, window)
    changes = _changes(reference, window) if window.answered else []
    families = family_p_values(changes)
    large = {one.family for one in changes if one.statistic == "MMD" or one.effect >= settings.tolerance}
    changed = [name for name, p_value in families.items() if p_value <= settings.alpha and name in large]
    harm = estimated = None
    if labels is not None:
        of_reference, of_window = Labelled.of(reference, labels), Labelled.of(window, labels)
        harm = _harm(reference, of_reference, window, of_window, settings)
        estimated = _estimated(reference, of_reference, window)
    classes = [] if reference.predicted is None else sorted({*reference.predicted.tolist()})
    decision = decide(Evidence(window.answered, faults, changed, harm, estimated, classes), settings.rules)
    smallest = _smallest(reference, window, settings.alpha, len(changes))
    return DriftRecord(
        model=window.model,
        bundle=window.bundle,
        start=window.start.isoformat(),
        end=window.end.isoformat(),
        rows=window.answered,
        reference_rows=reference.answered,
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
    )


def _smallest(reference: LogRows, window: LogRows, alpha: float, tests: int) -> float | None:
    if not tests or not window.answered:
        return None
    return detectable(window.answered, reference.answered, alpha / tests)


# --- faults ------------------------------------------------------------------------------------------


def find_faults(reference: LogRows, window: LogRows) -> list[str]:
    """What is wrong with the log itself, in words; a change that comes with one says nothing of the world."""
    found = []
    total = window.answered + window.failed
    if window.failed > MOST_FAILED * total:
        found.append(f"{window.failed:,} of {total:,} requests were not answered")
    if window.repeated > MOST_REPEATED * (total + window.repeated):
        found.append(f"{window.repeated:,} rows have the event_id of an earlier row")
    if len(window.sample_rates) > 1:
        rates = ", ".join(f"{rate:g}" for rate in window.sample_rates)
        found.append(f"the sample rate changed within the window: {rates}")
    is_one_client = window.largest_client > MOST_OF_A_CLIENT > 2 * reference.largest_client
    if is_one_client and total >= FEWEST_OF_CLIENTS:
        found.append(f"{window.largest_client:.0%} of the rows come from one client")
    if not window.answered:
        return found
    for name, values in reference.scalars.items():
        if name not in window.scalars:
            found.append(f"{name} has no value in any row")
            continue
        nulls = np.isnan(window.scalars[name]).mean() - np.isnan(values).mean()
        if nulls > MOST_NULLS:
            found.append(f"{name} has no value in {np.isnan(window.scalars[name]).mean():.0%} of the rows")
        if _is_constant(window.scalars[name]) and not _is_rare(values, window.scalars[name], window.answered):
            found.append(f"{name} has the same value in all rows")
    found += [f"{name} is not in the reference" for name in window.scalars if name not in reference.scalars]
    for name, ours, theirs in (
        ("predicted", window.predicted, reference.predicted),
        ("probabilities", window.probabilities, reference.probabilities),
    ):
        if (ours is None) != (theirs is None):
            found.append(f"{name} is missing in the {'window' if ours is None else 'reference'}")
    return found


def _is_constant(values: Floats) -> bool:
    present = values[~np.isnan(values)]
    return len(present) > 1 and bool((present == present[0]).all())


def _is_rare(reference: Floats, constant: Floats, rows: int) -> bool:
    """Whether the reference too could have given so many rows with the one value of `constant`."""
    value = constant[~np.isnan(constant)][0]
    return float((reference == value).mean()) ** rows > 1e-6


# --- change ------------------------------------------------------------------------------------------


def _changes(reference: LogRows, window: LogRows) -> list[Change]:
    found = []
    for name in sorted(reference.scalars.keys() & window.scalars.keys()):
        family = "uncertainty" if name in UNCERTAINTIES else "features"
        found.append(_of_column(family, name, reference.scalars[name], window.scalars[name]))
    if reference.predicted is not None and window.predicted is not None:
        both = np.concatenate([reference.predicted, window.predicted])
        classes, numbers = np.unique(both, return_inverse=True)
        of_window, of_reference = (
            np.bincount(one, minlength=len(classes)).astype(np.int64)
            for one in (numbers[reference.answered :], numbers[: reference.answered])
        )
        compared = classes_of_counts(of_window, of_reference)
        found.append(Change("predictions", "predicted", "TV", *compared))
    ours, theirs = window.probabilities, reference.probabilities
    if ours is not None and theirs is not None:
        if ours.shape[1] != theirs.shape[1]:
            raise DataError(
                f"{window.place}: probabilities: found {ours.shape[1]} numbers a row, expected "
                f"{theirs.shape[1]} as in {reference.place}."
            )
        for place in range(ours.shape[1]):
            name = f"probabilities[{place}]"
            found.append(_of_column("probabilities", name, theirs[:, place], ours[:, place]))
        features = MeanFeatures.of(np.sqrt(theirs))
        if features is not None:
            found.append(Change("joint", "probabilities", "MMD", *features.compared(np.sqrt(ours))))
    return found


def _of_column(family: str, name: str, reference: Floats, window: Floats) -> Change:
    edges = edges_of(reference)
    return Change(family, name, "KS", *ks_of_counts(counted(window, edges), counted(reference, edges)))


# --- harm --------------------------------------------------------------------------------------------


def _harm(
    reference: LogRows, of_reference: Labelled, window: LogRows, of_window: Labelled, settings: Settings
) -> Harm:
    labelled = len(of_reference.places)
    if labelled < FEWEST_LABELS:
        raise DataError(
            f"{reference.place}: found labels of {labelled} rows, expected {FEWEST_LABELS} or more: the "
            "error that the model promises is that of labelled reference rows."
        )
    bound = min(upper_error(int(of_reference.losses.sum()), labelled) + settings.margin, 0.99)
    alarm = detect_harm(of_window.losses, bound, settings.run_length)
    since = None if alarm.since is None else window.events[of_window.places[alarm.since - 1]]
    return Harm(
        labelled=len(of_window.places),
        by_class=dict(sorted(Counter(of_window.labels).items())),
        errors=int(of_window.losses.sum()),
        promised=bound,
        run_length=settings.run_length,
        largest=alarm.largest,
        is_proven=alarm.row is not None,
        since=since,
    )


def _estimated(reference: LogRows, of_reference: Labelled, window: LogRows) -> Estimated | None:
    """None if the model has no probabilities, or the order of its classes cannot be told."""
    if reference.probabilities is None or window.probabilities is None or reference.predicted is None:
        return None
    names = _names(reference)
    if names is None or not window.answered:
        return None
    labelled = zip(of_reference.places, of_reference.labels, strict=True)
    known = [(place, names[label]) for place, label in labelled if label in names]
    places, truths = [place for place, _ in known], np.array([of for _, of in known], dtype=np.int64)
    if len(places) < FEWEST_LABELS:
        return None
    temperature = fit_temperature(reference.probabilities[places], truths)
    held = tempered(reference.probabilities[places], temperature)
    error = calibration_error(held.max(1), held.argmax(1) == truths)
    outside = _outside(reference, window)
    if outside is not None and outside > MOST_OUTSIDE:
        why = f"{outside:.0%} of the rows lie outside the support: 1% of the reference has such an energy"
        return Estimated(calibration_error=error, withheld=why)
    probabilities = tempered(window.probabilities, temperature)
    of_window = estimate(probabilities)
    counts = np.bincount(truths, minlength=len(names))
    shares = shifted_priors(probabilities, counts / counts.sum()) if counts.all() else None
    return Estimated(
        calibration_error=error,
        **asdict(of_window),
        class_shares=None if shares is None else dict(zip(names, map(float, shares), strict=True)),
    )


def _names(rows: LogRows) -> dict[str, int] | None:
    """The column of each class, from what was predicted; None if a class was never predicted."""
    assert rows.predicted is not None
    assert rows.probabilities is not None
    best = rows.probabilities.argmax(1)
    pairs = sorted({*zip(best.tolist(), rows.predicted.tolist(), strict=True)})
    is_whole = [place for place, _ in pairs] == list(range(rows.probabilities.shape[1]))
    return {name: place for place, name in pairs} if is_whole else None


def _outside(reference: LogRows, window: LogRows) -> float | None:
    if "energy" not in reference.scalars or "energy" not in window.scalars:
        return None
    bound = np.nanquantile(reference.scalars["energy"], SUPPORT)
    return float((window.scalars["energy"] > bound).mean())
