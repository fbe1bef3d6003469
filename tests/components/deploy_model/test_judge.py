"""The judge keeps its α whenever somebody looks, and finds faults in the requests that it should need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from gauntlet.components.deploy_model.judge import (
    METRICS,
    Observed,
    judge,
    log_evidence,
    log_split_mismatch,
    log_wealth,
    over_ceiling,
)
from gauntlet.contracts.rollout import Counts, Seen
from gauntlet.manifests.deployment import DeploymentSection, Tolerance

ALPHA = 0.05
RUNS = 600
LOOKS = 25
SHARES = (0.1, 0.5)
BOUNDS_MS = np.array([1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0])
TOLERANCE = Tolerance()
HEALTHY: Mapping[str, Any] = {"errors": 0.01, "refused": 0.01, "latency": 4.0, "labels": (0.5, 0.3, 0.2)}
EDGE: Mapping[str, Any] = {"errors": 0.02, "refused": 0.02, "latency": 4.0, "labels": (0.6, 0.2, 0.2)}
"""As bad as the default tolerance allows in three metrics at once."""


def arm(random: np.random.Generator, requests: Any, behaviour: Mapping[str, Any]) -> dict[str, Any]:
    errors = random.binomial(requests, behaviour["errors"])
    refused = random.binomial(requests - errors, behaviour["refused"])
    good = requests - errors - refused
    below = 1 - np.exp(-BOUNDS_MS / behaviour["latency"])
    slots = random.multinomial(good, [*np.diff([0.0, *below]), 1 - below[-1]])
    return {
        "errors": errors,
        "refused": refused,
        "slots": slots,
        "labels": random.multinomial(good, behaviour["labels"]),
    }


def paths(new: Mapping[str, Any], per_look: int = 200, runs: int = RUNS) -> np.ndarray:
    """The judge's mean evidence, (runs, looks): `LOOKS` at each of two shares."""
    random = np.random.default_rng(7)
    found, earlier = [], []
    for share in SHARES:
        to_new = random.binomial(per_look, share, (runs, LOOKS))
        arms = [arm(random, to_new, new), arm(random, per_look - to_new, HEALTHY)]
        sums = [{key: np.cumsum(value, axis=1) for key, value in one.items()} for one in arms]
        requests = np.cumsum(to_new, axis=1)
        # A ratio of 1.25 takes the next bound for the new version: over 2 ms is compared with over 1 ms.
        above = [one["slots"][..., ::-1].cumsum(axis=-1)[..., ::-1] for one in sums]
        pairs = np.full((runs, LOOKS), per_look // 10).cumsum(axis=1)
        observed = Observed(
            share,
            requests,
            per_look * np.arange(1, LOOKS + 1) - requests,
            sums[0]["errors"],
            sums[1]["errors"],
            sums[0]["refused"],
            sums[1]["refused"],
            above[0][..., 2:],
            above[1][..., 1:-1],
            sums[0]["labels"],
            sums[1]["labels"],
            pairs,
            np.cumsum(random.binomial(per_look // 10, TOLERANCE.shadow, (runs, LOOKS)), axis=1),
            np.cumsum(random.binomial(per_look // 10, TOLERANCE.errors, (runs, LOOKS)), axis=1),
        )
        logs = log_evidence([*earlier, observed], TOLERANCE)
        found.append(np.mean([np.exp(logs[metric]) for metric in METRICS], axis=0))
        last = {name: value[:, -1:] if name != "share" else value for name, value in vars(observed).items()}
        earlier.append(Observed(**last))
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("new", [HEALTHY, EDGE], ids=["identical arms", "as bad as the tolerance"])
def test_false_alarms_over_all_metrics_steps_and_looks_keep_alpha(new: Mapping[str, Any]) -> None:
    alarms = int((paths(new).max(axis=1) >= 1 / ALPHA).sum())
    # If the probability were over 5 %, at most this many alarms in 600 runs would have a chance under 99.9 %.
    assert alarms <= binom.ppf(0.999, RUNS, ALPHA), alarms


def test_a_single_metric_at_its_tolerance_keeps_alpha_at_every_request() -> None:
    random = np.random.default_rng(3)
    to_new = random.random((1_000, 3_000)) < 0.1
    fails = random.random(to_new.shape) < np.where(to_new, 0.06, 0.05)
    new, old = np.cumsum(fails & to_new, axis=1), np.cumsum(fails & ~to_new, axis=1)
    looks = slice(9, None, 10)
    logs = log_wealth(new[:, looks], old[:, looks], np.arange(1, 3_001)[looks], 0.1, 0.01)
    alarms = int((np.exp(logs).mean(axis=-1).max(axis=1) >= 20).sum())
    assert alarms <= binom.ppf(0.999, 1_000, ALPHA), alarms


@pytest.mark.parametrize(
    ("fault", "most"),
    [
        ({"errors": 0.2}, 1_400),
        ({"refused": 0.2}, 1_400),
        ({"latency": 40.0}, 600),
        ({"labels": (0.05, 0.05, 0.9)}, 800),
    ],
    ids=["a fifth fails", "a fifth is refused", "ten times as slow", "another label"],
)
def test_faults_are_found_at_ten_percent_of_the_requests(fault: Mapping[str, Any], most: int) -> None:
    with np.errstate(over="ignore"):
        found = paths({**HEALTHY, **fault}, runs=100)
    first = np.argmax(found >= 1 / ALPHA, axis=1) + 1
    assert (found.max(axis=1) >= 1 / ALPHA).all()
    assert np.median(first) * 200 <= most, np.median(first) * 200
    assert (first <= LOOKS).mean() >= 0.99


def test_a_broken_split_is_found_and_the_asked_one_is_not() -> None:
    assert log_split_mismatch(np.array(1_000), np.array(9_000), 0.1) < 0
    assert log_split_mismatch(np.array(1_500), np.array(8_500), 0.1) > np.log(1e4)


def seen(new: Counts, old: Counts, step: int = 0, share: float = 0.1, **pairs: int) -> Seen:
    return Seen(step=step, share=share, new=new, old=old, **pairs)


def test_no_requests_are_waiting_and_then_inconclusive_but_never_passed() -> None:
    settings = DeploymentSection(min_seconds=60, max_seconds=600)
    nothing = [seen(Counts(), Counts())]
    assert judge(nothing, 599, settings).state == "waiting"
    assert judge(nothing, 600, settings).state == "inconclusive"


def test_a_step_is_passed_after_the_least_requests_of_each_and_the_least_time() -> None:
    settings = DeploymentSection(min_seconds=60, min_requests=200)
    enough, few = Counts(requests=200), Counts(requests=1_800)
    assert judge([seen(enough, few)], 59, settings).state == "waiting"
    assert judge([seen(Counts(requests=199), few)], 61, settings).state == "waiting"
    assert judge([seen(enough, few)], 60, settings).state == "pass"
    of_the_step_before = [seen(enough, few), seen(Counts(requests=1), few, step=1, share=0.5)]
    assert judge(of_the_step_before, 61, settings).state != "pass"


def test_shadowed_requests_show_another_model_in_a_few_pairs() -> None:
    few = Counts(requests=10), Counts(requests=90)
    found = judge([seen(*few, compared=20, different=12)], 1, DeploymentSection())
    assert found.state == "alarm"
    assert found.why.startswith("shadow answers: worse than before, 12 of 20 compared requests")
    assert judge([seen(*few, compared=20, different=1)], 1, DeploymentSection()).state == "waiting"


def test_a_version_is_not_called_slow_for_the_cold_caches_of_a_server_with_few_requests() -> None:
    """Counts of one bundle beside itself, at a tenth of 350 requests per second on two cores."""
    new = Counts(requests=140, latency_ms={"1": 70, "1.414": 40, "2": 25, "4": 5})
    old_ms = {"0.5": 126, "0.595": 532, "0.841": 370, "1.189": 150, "2": 70, "6.727": 12}
    old = Counts(requests=1_260, latency_ms=old_ms)
    assert judge([seen(new, old)], 60, DeploymentSection(min_requests=100)).state == "pass"
    slower = Counts(requests=140, latency_ms={"1": 70, "1.414": 20, "8": 50})
    assert judge([seen(slower, old)], 60, DeploymentSection(min_requests=100)).state == "alarm"
    strict = DeploymentSection(min_requests=100, tolerance={"latency_ms": 0})
    assert judge([seen(new, old)], 60, strict).state == "alarm"


def test_rows_of_one_request_count_as_one() -> None:
    one = Counts(requests=1, labels={"spam": 5_000}), Counts(requests=9, labels={"ham": 9})
    assert judge([seen(*one)], 1, DeploymentSection()).state == "waiting"


def test_counts_of_a_broken_split_neither_pass_nor_alarm() -> None:
    bad = Counts(requests=5_000, errors=2_000), Counts(requests=5_000)
    found = judge([seen(*bad)], 100, DeploymentSection())
    assert (found.state, found.why[:26]) == ("waiting", "the requests are not split")


def test_half_of_twenty_failed_requests_end_a_rollout_at_once() -> None:
    assert over_ceiling(19, 19, 0.5) == ""
    assert over_ceiling(20, 9, 0.5) == ""
    assert over_ceiling(20, 10, 0.5) == "10 of 20 requests failed, over the ceiling of 50%"
