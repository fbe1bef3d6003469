"""The first rule that fits decides, and each outcome says its evidence, its cost and the next step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from gauntlet.components.detect_drift.decision import Evidence, Rules, decide
from gauntlet.components.detect_drift.paired import compared
from gauntlet.contracts.drift import Cost, Estimated, Harm

HARM = Harm(
    labelled=600,
    by_class={"anger": 200, "joy": 300, "love": 100},
    errors=150,
    promised=0.12,
    run_length=1e6,
    largest=5e6,
    is_proven=True,
)
UNPROVEN = HARM.model_copy(update={"is_proven": False, "errors": 60})
LOW = Estimated(calibration_error=0.02, accuracy=0.8, accuracy_low=0.78, accuracy_high=0.82)
FINE = LOW.model_copy(update={"accuracy_high": 0.92, "class_shares": {"anger": 0.6, "joy": 0.3, "love": 0.1}})
BETTER = compared("3", np.repeat([1.0, 0.0], [150, 450]), np.repeat([0.0, 1.0, 0.0], [110, 40, 450]))
NOTHING = Evidence(
    rows=1_000, faults=[], changed=[], harm=None, estimated=None, classes=("anger", "joy", "love")
)
PROVEN = replace(NOTHING, harm=HARM)
CHANGED = replace(NOTHING, changed=["features"], harm=UNPROVEN, estimated=LOW)


@pytest.mark.parametrize(
    ("evidence", "outcome", "said"),
    [
        (replace(PROVEN, faults=["one client"]), "investigate", "one client"),
        (replace(PROVEN, rows=10), "too little", "10 answered rows"),
        (replace(PROVEN, previous=BETTER), "roll back", "Version 3, the one before, is wrong in 40"),
        (replace(PROVEN, previous=compared("3", np.ones(9), np.ones(9))), "retrain", "150 of 600"),
        (PROVEN, "retrain", "at most 12.0% were promised"),
        (replace(PROVEN, harm=HARM.model_copy(update={"labelled": 400})), "label", "400"),
        (replace(PROVEN, classes=("anger", "joy", "love", "fear")), "label", "150 of 600"),
        (CHANGED, "label", "the estimated accuracy is at most 82.0%"),
        (replace(CHANGED, windows_changed=1), "watch", "in the window before nothing had changed"),
        (replace(CHANGED, windows_changed=2), "label", "below the promised 88.0%"),
        (replace(CHANGED, estimated=FINE, only_shares=True), "reweigh", "other shares of the same classes"),
        (replace(CHANGED, estimated=FINE, only_shares=False), "watch", "neither labels nor estimates"),
        (NOTHING, "none", "no change"),
    ],
)
def test_the_first_rule_that_fits_decides(evidence: Evidence, outcome: str, said: str) -> None:
    found = decide(evidence, Rules())
    assert found.outcome == outcome
    assert said in found.reason


def test_reweighing_says_the_new_shares() -> None:
    found = decide(replace(CHANGED, estimated=FINE, only_shares=True), Rules())
    assert "anger 60.0%, joy 30.0%, love 10.0%" in found.next_step


def test_an_estimate_asks_for_a_retraining_only_if_the_manifest_says_so() -> None:
    rules = Rules(retrains_on_estimate=True)
    assert decide(replace(CHANGED, windows_changed=2), rules).outcome == "retrain"
    few = replace(CHANGED, windows_changed=2, harm=UNPROVEN.model_copy(update={"labelled": 9}))
    assert decide(few, rules).outcome == "label"


def test_a_retraining_waits_until_the_errors_have_cost_as_much() -> None:
    cost = Cost(errors=112, since="2026-11-24T08:30:00+00:00", spent_usd=56, retraining_usd=100)
    waiting = decide(replace(PROVEN, cost=cost), Rules())
    assert waiting.outcome == "watch"
    assert "Since 2026-11-24 08:30 UTC 112 more errors than promised have cost 56.00 USD" in waiting.reason
    due = cost.model_copy(update={"spent_usd": 112.0})
    assert decide(replace(PROVEN, cost=due), Rules()).outcome == "retrain"


def test_two_versions_are_compared_by_mcnemars_exact_test() -> None:
    # 15 rows only ours has wrong and 4 only theirs: P(X ≥ 15), X of 19 fair coins
    found = compared("2", np.repeat([1.0, 0.0, 1.0], [15, 4, 3]), np.repeat([0.0, 1.0, 1.0], [15, 4, 3]))
    assert (found.rows, found.errors, found.other_errors) == (22, 18, 7)
    assert found.p_value == pytest.approx(binom.sf(14, 19, 0.5))
    assert compared("2", np.ones(1), np.ones(1)).p_value == 1.0
