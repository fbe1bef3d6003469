"""The judge of a rollout: anytime-valid tests of whether a new version is worse than the one beside it.

Each request goes to the new version with probability w, its share. For an event such as an error let X be
1/w if the new version has it, -1/(1 - w) if the old one has it, and 0 else. Its mean is the difference of the
two probabilities, whatever the traffic is like. If that difference is at most the tolerance d, then

    W = (1 + l (X1 - d)) (1 + l (X2 - d)) …

is for each bet l a martingale with mean 1 or less, so it ever exceeds 1/alpha with a probability of at most
alpha (Ville). It depends on the counts alone: with a new events, b old ones and n requests it is

    a log(1 + l (1/w - d)) + b log(1 - l (1/(1 - w) + d)) + (n - a - b) log(1 - l d).

For d = 0 this is the conditional binomial test of Lindon & Malek 2022 (https://arxiv.org/abs/2210.08589).
A mean over bets, thresholds, labels and metrics is such a process again, so one alpha covers all of them, and
the product goes on over steps with other shares. Waudby-Smith & Ramdas 2020, https://arxiv.org/abs/2010.09686.

The bets are on requests. A request may have several rows, whose labels are not independent, so the counts of
labels are scaled to one per request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import betaln, logsumexp

from gauntlet.contracts.rollout import Counts, Seen
from gauntlet.manifests.deployment import DeploymentSection, Tolerance

Array = npt.NDArray[np.float64]
BETS = np.geomspace(0.005, 0.95, 16)
"""The bets, as shares of the largest possible one."""
METRICS = ("errors", "refusals", "latency", "labels", "shadow answers", "shadow errors")
FEWEST_FOR_THE_CEILING = 20
CRASHES = 3
RATIO_ALPHA = 1e-4
RATIO_CONCENTRATION = 200.0


@dataclass(frozen=True)
class Observed:
    """What was counted at one share. Arrays of shape (…), with B thresholds (…, B) and L labels (…, L)."""

    share: float
    new_requests: Array
    old_requests: Array
    new_errors: Array
    old_errors: Array
    new_refused: Array
    old_refused: Array
    new_slow: Array
    old_slow: Array
    new_labels: Array
    old_labels: Array
    compared: Array
    different: Array
    shadow_errors: Array


@dataclass(frozen=True)
class Judgement:
    """`evidence` is by metric: its mean is an alarm from 1/alpha on."""

    state: Literal["waiting", "pass", "alarm", "inconclusive"]
    why: str
    evidence: Mapping[str, float]


def log_wealth(new: Array, old: Array, requests: Array, share: float, tolerance: float) -> Array:
    """log W of each bet, (…, bets), after counts of shape (…)."""
    largest = 1 / (1 / (1 - share) + tolerance)
    bets = BETS * largest
    a, b, n = (np.asarray(count, dtype=np.float64)[..., None] for count in (new, old, requests))
    gains = a * np.log1p(bets * (1 / share - tolerance)) + b * np.log1p(-bets * (1 / (1 - share) + tolerance))
    return np.asarray(gains + (n - a - b) * np.log1p(-bets * tolerance))


def log_wealth_of_pairs(events: Array, pairs: Array, tolerance: float) -> Array:
    """log W of each bet that an event has a probability over `tolerance`, (…, bets); (…) are the counts."""
    bets = BETS / tolerance
    d, n = (np.asarray(count, dtype=np.float64)[..., None] for count in (events, pairs))
    return np.asarray(d * np.log1p(bets * (1 - tolerance)) + (n - d) * np.log1p(-bets * tolerance))


def log_evidence(observed: Sequence[Observed], tolerance: Tolerance, classes: int = 0) -> dict[str, Array]:
    """The log of the evidence against each of `METRICS`, over consecutive shares.

    `classes` is how many labels the model has, if more than were predicted.
    """
    total: dict[str, Array] = {}

    def add(metric: str, logs: Array) -> None:
        total[metric] = total[metric] + logs if metric in total else logs

    for one in observed:
        requests = one.new_requests + one.old_requests
        add("errors", log_wealth(one.new_errors, one.old_errors, requests, one.share, tolerance.errors))
        add("refusals", log_wealth(one.new_refused, one.old_refused, requests, one.share, tolerance.refusals))
        wide = requests[..., None]
        add("latency", log_wealth(one.new_slow, one.old_slow, wide, one.share, tolerance.slow))
        new = _one_per_request(one.new_labels, one.new_requests)
        old = _one_per_request(one.old_labels, one.old_requests)
        more = log_wealth(new, old, wide, one.share, tolerance.labels)
        less = log_wealth(old, new, wide, 1 - one.share, tolerance.labels)
        add("labels", np.stack([more, less], axis=-1))
        add("shadow answers", log_wealth_of_pairs(one.different, one.compared, tolerance.shadow))
        add(
            "shadow errors",
            log_wealth_of_pairs(one.shadow_errors, one.compared, max(tolerance.errors, 1e-3)),
        )
    leading = np.shape(observed[0].new_requests)
    found = {}
    for metric in METRICS:
        logs = total[metric].reshape(*leading, -1)
        if logs.shape[-1] == 0:
            found[metric] = np.zeros(leading)
            continue
        terms = logs.shape[-1]
        if metric == "labels":
            terms = max(terms, 2 * len(BETS) * classes)
        found[metric] = np.asarray(logsumexp(logs, axis=-1) - np.log(terms))
    return found


def _one_per_request(labels: Array, requests: Array) -> Array:
    rows = labels.sum(axis=-1)
    return np.asarray(labels * np.minimum(1.0, requests / np.maximum(rows, 1.0))[..., None])


def log_split_mismatch(new: Array, old: Array, share: float) -> Array:
    """The log of the evidence that requests are not split by `share`: a beta mixture over the true share.

    Lindon & Malek 2022, with the prior's mean at `share`.
    """
    a, b = share * RATIO_CONCENTRATION, (1 - share) * RATIO_CONCENTRATION
    return np.asarray(betaln(a + new, b + old) - betaln(a, b) - new * np.log(share) - old * np.log1p(-share))


def judge(seen: Sequence[Seen], seconds: float, settings: DeploymentSection, classes: int = 0) -> Judgement:
    """What the counts so far say at the step that the last of them belong to, which has lasted `seconds`.

    A step is passed after the least time and requests, if the evidence against the new version is less than
    that for it.
    """
    own = [one for one in seen if one.step == seen[-1].step]
    tolerance = settings.tolerance
    logs = log_evidence([_observed(one, seen, tolerance) for one in seen], tolerance, classes)
    evidence = {metric: float(np.exp(min(float(log), 700.0))) for metric, log in logs.items()}
    total = sum(evidence.values()) / len(evidence)
    new, old = sum(one.new.requests for one in own), sum(one.old.requests for one in own)
    counted = f"{new:,} requests to the new version and {old:,} to the one before"
    mismatch = any(
        log_split_mismatch(np.array(one.new.requests), np.array(one.old.requests), one.share)
        >= -np.log(RATIO_ALPHA)
        for one in own
    )
    if total >= 1 / settings.alpha and not mismatch:
        worst = max(evidence, key=lambda metric: evidence[metric])
        return Judgement("alarm", f"{worst}: worse than before, {_shown(worst, seen)}; {counted}", evidence)
    if mismatch:
        why = f"the requests are not split as asked, {own[-1].share:.0%}: {counted}"
    elif min(new, old) < settings.min_requests:
        why = f"{counted}; each needs {settings.min_requests:,}"
    elif seconds < settings.min_seconds:
        why = f"{counted}, in {seconds:.0f} of at least {settings.min_seconds:.0f} s"
    elif total >= 1:
        why = f"{counted}, which speak against the new version, but not enough"
    else:
        return Judgement("pass", f"no difference over the tolerance in {counted}", evidence)
    late = seconds >= settings.max_seconds
    return Judgement("inconclusive" if late else "waiting", why, evidence)


def over_ceiling(requests: int, errors: int, ceiling: float) -> str:
    """Why a rollout ends without statistics, in words; empty if it goes on."""
    if requests >= FEWEST_FOR_THE_CEILING and errors >= ceiling * requests:
        return f"{errors} of {requests} requests failed, over the ceiling of {ceiling:.0%}"
    return ""


def _observed(one: Seen, seen: Sequence[Seen], tolerance: Tolerance) -> Observed:
    arms = [arm for each in seen for arm in (each.new, each.old)]
    bounds = sorted({float(bound) for arm in arms for bound in arm.latency_ms})
    labels = sorted({label for arm in arms for label in arm.labels})

    def slower(arm: Counts, thresholds: Sequence[float]) -> Array:
        counts = {float(bound): count for bound, count in arm.latency_ms.items()}
        above = [sum(count for bound, count in counts.items() if bound > limit) for limit in thresholds]
        return np.array(above, dtype=np.float64)

    def of_labels(arm: Counts) -> Array:
        return np.array([arm.labels.get(label, 0) for label in labels], dtype=np.float64)

    longest = [max(tolerance.latency * limit, limit + tolerance.latency_ms) for limit in bounds]
    allowed = [next((bound for bound in bounds if bound >= most), np.inf) for most in longest]
    return Observed(
        share=one.share,
        new_requests=np.array(float(one.new.requests)),
        old_requests=np.array(float(one.old.requests)),
        new_errors=np.array(float(one.new.errors)),
        old_errors=np.array(float(one.old.errors)),
        new_refused=np.array(float(one.new.refused)),
        old_refused=np.array(float(one.old.refused)),
        new_slow=slower(one.new, allowed),
        old_slow=slower(one.old, bounds),
        new_labels=of_labels(one.new),
        old_labels=of_labels(one.old),
        compared=np.array(float(one.compared)),
        different=np.array(float(one.different)),
        shadow_errors=np.array(float(one.shadow_errors)),
    )


def _shown(metric: str, seen: Sequence[Seen]) -> str:
    """The figures behind an alarm, in words."""
    last = seen[-1]

    def share(arm: Counts, count: int) -> str:
        return f"{count / max(arm.requests, 1):.2%}"

    if metric == "errors":
        return f"{share(last.new, last.new.errors)} against {share(last.old, last.old.errors)}"
    if metric == "refusals":
        return f"{share(last.new, last.new.refused)} against {share(last.old, last.old.refused)}"
    if metric == "shadow answers":
        return f"{last.different:,} of {last.compared:,} compared requests got another answer"
    if metric == "shadow errors":
        return f"{last.shadow_errors:,} of {last.compared:,} compared requests failed"
    if metric == "latency":
        return f"median {_median(last.new)} against {_median(last.old)}"
    rows = (sum(last.new.labels.values()) or 1, sum(last.old.labels.values()) or 1)
    apart = {
        label: last.new.labels.get(label, 0) / rows[0] - last.old.labels.get(label, 0) / rows[1]
        for label in {*last.new.labels, *last.old.labels}
    }
    label = max(apart, key=lambda one: abs(apart[one]))
    return f"the share of {label} differs by {apart[label]:+.1%}"


def _median(arm: Counts) -> str:
    counts = sorted((float(bound), count) for bound, count in arm.latency_ms.items())
    half, passed = sum(count for _, count in counts) / 2, 0
    for bound, count in counts:
        passed += count
        if passed >= half:
            return f"up to {bound:g} ms"
    return "unknown"
