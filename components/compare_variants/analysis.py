"""What an A/B test says now: the interval of the difference, the sample-ratio test, and the decision."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from gauntlet.components.compare_variants.outcomes import Assigned, Observed
from gauntlet.components.compare_variants.sequence import (
    LEAST,
    Bools,
    Bounds,
    Floats,
    Sums,
    interval,
    looks,
    sums,
)
from gauntlet.components.deploy_model.judge import RATIO_ALPHA, log_split_mismatch
from gauntlet.contracts.experiment import Analysis, Arm, Decision, Experiment, Point

MOST_POINTS = 240
LARGEST_LOG = 700.0


def bounds_of(experiment: Experiment) -> Bounds:
    """The bounds of the metric, and the share of the second variant."""
    low, high = (0.0, 1.0) if experiment.type == "binary" else (experiment.low, experiment.high)
    return Bounds(experiment.variants[1].share / 100, low, high)


def analyse(experiment: Experiment, assigned: Assigned, observed: Observed, now: datetime) -> Analysis:
    """The state of a test. At most `maximum_n` units with an outcome count, the first ones."""
    units, values = observed.units[: experiment.maximum_n], observed.values[: experiment.maximum_n]
    is_second = assigned.is_second[units]
    bounds = bounds_of(experiment)
    evidence = {
        "all units": largest_mismatch(assigned.is_second, bounds.share),
        "with outcomes": largest_mismatch(is_second, bounds.share),
    }
    path = _path(values, is_second, bounds, experiment)
    decision, winner, why = decide(experiment, path[-1] if path else None, evidence)
    arms = []
    of_request = assigned.is_second[assigned.units]
    for place, variant in enumerate(experiment.variants):
        own = is_second == bool(place)
        arms.append(
            Arm(
                name=variant.name,
                version=variant.version,
                requests=int((of_request == bool(place)).sum()),
                units=int((assigned.is_second == bool(place)).sum()),
                observed=int(own.sum()),
                mean=float(values[own].mean()) if own.any() else None,
            )
        )
    return Analysis(
        at=now.isoformat(timespec="seconds"),
        arms=tuple(arms),
        faults=observed.faults,
        waiting=observed.waiting,
        without_key=assigned.without_key,
        ratio_evidence=evidence,
        path=path,
        decision=decision,
        winner=winner,
        why=why,
    )


def widest(experiment: Experiment) -> float | None:
    """Half of the interval at the largest number of units, for values that vary as much as they can.

    None for a metric without bounds.
    """
    bounds, most = bounds_of(experiment), experiment.maximum_n
    if not bounds.are_finite:
        return None
    squares = np.full(most, 0.25 / (bounds.share * (1 - bounds.share))).cumsum()
    found = Sums(np.zeros(most), squares)
    return float(interval(found, np.array([most]), bounds, experiment.alpha, most)[1][0])


def largest_mismatch(is_second: Bools, share: float) -> float:
    """The largest evidence that units are not assigned by `share`, over all looks so far."""
    if not len(is_second):
        return 0.0
    second = np.cumsum(is_second, dtype=np.float64)
    logs = log_split_mismatch(second, np.arange(1, len(second) + 1) - second, share)
    return float(np.exp(min(float(logs.max()), LARGEST_LOG)))


def _path(values: Floats, is_second: Bools, bounds: Bounds, experiment: Experiment) -> tuple[Point, ...]:
    at = np.array(looks(len(values), MOST_POINTS), dtype=np.int64)
    if not bounds.are_finite and len(at):
        second = np.cumsum(is_second)[at - 1]
        at = at[np.minimum(second, at - second) >= LEAST]
    if not len(at):
        return ()
    found, radius = interval(
        sums(values, is_second, bounds), at, bounds, experiment.alpha, experiment.maximum_n
    )
    return tuple(
        Point(units=int(units), difference=float(one), low=float(one - wide), high=float(one + wide))
        for units, one, wide in zip(at, found, radius, strict=True)
    )


def decide(
    experiment: Experiment, last: Point | None, evidence: dict[str, float]
) -> tuple[Decision, str, str]:
    """The decision, the winner's name and the reason in words."""
    alarms = [name for name, one in evidence.items() if one >= 1 / RATIO_ALPHA]
    if alarms:
        return (
            "mismatch",
            "",
            f"the units ({' and '.join(alarms)}) are not split as asked, so the arms cannot be compared and "
            "no winner is declared. Find the cause, then start a new test",
        )
    if last is None:
        return "go on", "", "too few units have an outcome for an interval"
    control, other = experiment.variants
    least = experiment.minimal_effect
    shown = f"{other.name} - {control.name} is {last.low:+.4g} to {last.high:+.4g} after {last.units:,} units"
    if last.low > 0 or last.high < 0:
        is_other = (last.low > 0) == (experiment.better == "higher")
        winner = other.name if is_other else control.name
        return "winner", winner, f"{winner} is better: {shown}, which excludes 0"
    if -least <= last.low and last.high <= least:
        return "no difference", "", f"no difference of {least:g} or more: {shown}"
    if last.units >= experiment.maximum_n:
        return "inconclusive", "", f"the largest number of units is reached: {shown}"
    return "go on", "", shown
