"""The limits of a training in time and money, and how much of them is used. Pure functions of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from gauntlet.backends.prices import hourly_rate
from gauntlet.contracts.training import StopReason
from gauntlet.manifests.training import Resources


@dataclass(frozen=True)
class Budget:
    """The limits of a training, and the hourly price of all its machines."""

    max_hours: float
    max_cost_usd: float
    usd_per_hour: float
    notify_at: float

    @classmethod
    def of(cls, resources: Resources) -> Self:
        """A manifest's budget, at today's prices.

        Raises:
            UsageError: As `hourly_rate`: the machine has no price.
        """
        return cls(
            resources.max_hours,
            resources.max_cost_usd,
            hourly_rate(resources) * resources.replica_count,
            resources.notify_at,
        )

    def cost_usd(self, seconds: float) -> float:
        """The cost of a training of this length."""
        return self.usd_per_hour * seconds / 3600

    def share_of_hours(self, seconds: float) -> float:
        """The share of `max_hours` that is used."""
        return seconds / 3600 / self.max_hours

    def share_of_cost(self, seconds: float) -> float:
        """The share of `max_cost_usd` that is used."""
        return self.cost_usd(seconds) / self.max_cost_usd

    def stop_reason(self, seconds: float) -> StopReason | None:
        """The limit that has been reached, if any; of both, the one that was reached first."""
        hours, cost = self.share_of_hours(seconds), self.share_of_cost(seconds)
        if max(hours, cost) < 1:
            return None
        return "max_hours reached" if hours >= cost else "max_cost reached"

    def notice_due(self, seconds: float) -> bool:
        """Whether `notify_at` of the hours or of the cost is used."""
        return max(self.share_of_hours(seconds), self.share_of_cost(seconds)) >= self.notify_at

    def used(self, seconds: float) -> str:
        """In words: 3.20 of 4 h, 0.70 of 10 USD."""
        hours = f"{_amount(seconds / 3600)} of {self.max_hours:g} h"
        return f"{hours}, {_amount(self.cost_usd(seconds))} of {self.max_cost_usd:g} USD"


def _amount(value: float) -> str:
    """Two decimals, or two significant digits of a smaller amount: 3.20, 0.0042."""
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"
