"""How often a system may be run, and for how much: decided from the jobs that Vertex lists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from gauntlet.backends.google.jobs import ListedJob
from gauntlet.manifests.errors import UsageError

DAY = timedelta(days=1)
BUDGET_PERIOD = timedelta(days=30)
ENVIRONMENT = "GAUNTLET_TRIGGER_"


@dataclass(frozen=True)
class Limits:
    """What the receiver allows each system.

    Attributes:
        cool_down_hours: Between the start of one run and the next, unless a person asks.
        runs_per_day: In any 24 hours.
        budget_usd: In any 30 days, the sum of what each run may cost at most by its own budget.
    """

    cool_down_hours: float = 6.0
    runs_per_day: float = 3.0
    budget_usd: float = 100.0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Limits:
        """What `GAUNTLET_TRIGGER_COOL_DOWN_HOURS` and the like say.

        Raises:
            UsageError: One of them is no number from 0.
        """
        found = {field.name: environment.get(ENVIRONMENT + field.name.upper()) for field in fields(cls)}
        return cls(**{name: _number(name, text) for name, text in found.items() if text is not None})

    def reason_against(
        self, jobs: Sequence[ListedJob], max_cost_usd: float, by_hand: bool, now: datetime
    ) -> str | None:
        """Why a run that may cost `max_cost_usd` is not to start now, or None.

        Every job counts, whatever started it and however it ended: what fails costs, too.
        """
        last = max((job.created for job in jobs), default=None)
        if last is not None and not by_hand and now - last < timedelta(hours=self.cool_down_hours):
            began = f"{last:%Y-%m-%d %H:%M} UTC"
            return f"cool-down: the last run began {began}, and {self.cool_down_hours:g} h must pass"
        today = sum(now - job.created < DAY for job in jobs)
        if today >= self.runs_per_day:
            return f"daily cap: {today} runs in 24 hours, {self.runs_per_day:g} are allowed"
        spent = math.fsum(job.max_cost_usd for job in jobs if now - job.created < BUDGET_PERIOD)
        if spent + max_cost_usd > self.budget_usd:
            return (
                f"budget: runs of the last 30 days may cost {spent:.2f} USD, and this one "
                f"{max_cost_usd:.2f}, which is more than {self.budget_usd:.2f}"
            )
        return None


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{ENVIRONMENT}{name.upper()}: found {text!r}, expected a number from 0.")
    return value
