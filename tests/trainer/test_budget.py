from __future__ import annotations

import pytest

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.training import Resources
from gauntlet.trainer.watch import Budget

HOUR = 3600.0


def test_cost_is_time_times_price_and_a_share_is_of_its_limit() -> None:
    budget = Budget(max_hours=4, max_cost_usd=10, usd_per_hour=2.5, notify_at=0.8)
    assert budget.cost_usd(1.5 * HOUR) == 3.75
    assert budget.share_of_hours(1.5 * HOUR) == 0.375
    assert budget.share_of_cost(1.5 * HOUR) == 0.375
    assert budget.used(1.5 * HOUR) == "1.50 of 4 h, 3.75 of 10 USD"


@pytest.mark.parametrize(
    ("usd_per_hour", "hours", "reason"),
    [
        (2.0, 3.999, None),  # 8.00 USD
        (2.0, 4.0, "max_hours reached"),
        (5.0, 1.999, None),  # 9.995 USD
        (5.0, 2.0, "max_cost reached"),  # 10 USD after half of the time
        (2.5, 4.0, "max_hours reached"),  # both at once
        (5.0, 5.0, "max_cost reached"),  # both are over: the cost was three hours ago
    ],
)
def test_the_limit_that_is_reached_first_is_the_reason_to_stop(
    usd_per_hour: float, hours: float, reason: str | None
) -> None:
    budget = Budget(max_hours=4, max_cost_usd=10, usd_per_hour=usd_per_hour, notify_at=0.8)
    assert budget.stop_reason(hours * HOUR) == reason


@pytest.mark.parametrize(
    ("usd_per_hour", "hours", "due"),
    [(2.0, 3.19, False), (2.0, 3.2, True), (5.0, 1.59, False), (5.0, 1.6, True)],
)
def test_notice_is_due_when_the_threshold_of_either_limit_is_used(
    usd_per_hour: float, hours: float, due: bool
) -> None:
    budget = Budget(max_hours=4, max_cost_usd=10, usd_per_hour=usd_per_hour, notify_at=0.8)
    assert budget.notice_due(hours * HOUR) is due


def test_a_budget_is_reckoned_with_the_price_of_the_manifests_machine() -> None:
    # Compute Engine 0.189999 USD and a T4 for 0.35, with Vertex AI's 15 %
    budget = Budget.of(
        Resources(machine_type="n1-standard-4", accelerator_type="NVIDIA_TESLA_T4", accelerator_count=1)
    )
    assert budget.usd_per_hour == pytest.approx(0.189999 * 1.15 + 0.35 * 1.15, abs=1e-6)
    assert (budget.max_hours, budget.max_cost_usd, budget.notify_at) == (4, 10, 0.8)


def test_a_machine_without_a_price_has_no_budget() -> None:
    with pytest.raises(UsageError, match="cray-1: no price is known"):
        Budget.of(Resources(machine_type="cray-1"))
