"""What training may cost at most, as a table: one column a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Column, Table

from gauntlet.backends.prices import Estimate, estimate, tuning_price_source, tuning_rate
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.training import Resources
from gauntlet.tasks.managed_causal_lm.manifest import ManagedTraining


@dataclass(frozen=True)
class Cost:
    """The estimate of one manifest's training beside its budget."""

    name: str
    resources: Resources
    most: Estimate

    @property
    def left_usd(self) -> float:
        """What is left of the budget when all of the estimate is spent; negative: it is too small."""
        return self.resources.max_cost_usd - self.most.usd


def training_cost(manifest: Manifest) -> Cost:
    """What a manifest's training may cost.

    Raises:
        UsageError: Its machine has no price.
    """
    resources = manifest.training.resources
    return Cost(manifest.name, resources, estimate(resources))


def tuning_note(manifest: Manifest) -> str | None:
    """Of a managed model, what comes on top of the machine that waits for it; its rows are not counted yet.

    Raises:
        UsageError: No price of tuning it is known.
    """
    training = manifest.training
    if not isinstance(training, ManagedTraining):
        return None
    return (
        f"{manifest.name}: and {tuning_rate(training.model):g} USD a million training tokens in each of "
        f"{training.epochs} epochs, which are counted, and held to the budget, before tuning begins. "
        f"That price: {tuning_price_source(training.model)}."
    )


def cost_table(costs: Sequence[Cost]) -> Table:
    """A row for each factor, their product, the budget and the verdict."""
    columns = (Column(cost.name, justify="right", overflow="fold") for cost in costs)
    table = Table("training of", *columns, box=None, pad_edge=False)
    for row in zip(*(_rows(cost) for cost in costs), strict=True):
        table.add_row(row[0][0], *(value for _, value in row))
    return table


def _rows(cost: Cost) -> list[tuple[str, str]]:
    resources, most = cost.resources, cost.most
    accelerators = f"{resources.accelerator_count} × {resources.accelerator_type}"
    fits = cost.left_usd >= 0
    return [
        ("machine", resources.machine_type),
        ("accelerators", accelerators if resources.accelerator_count else "none"),
        ("USD an hour", f"{most.usd_per_hour:.4f}"),
        ("× hours at most", f"{most.hours:g}"),
        ("× replicas", f"{most.replicas}"),
        ("× attempts", f"{most.attempts}"),
        ("= USD at most", f"{most.usd:.2f}"),
        ("budget, USD", f"{resources.max_cost_usd:.2f}"),
        ("left over, USD", f"{cost.left_usd:.2f}"),
        ("verdict", "fits" if fits else "over budget"),
    ]
