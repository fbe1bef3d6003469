"""What training may cost at most, as a table with a column for each manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.table import Column, Table

from gauntlet.backends.prices import Estimate, estimate, tuning_price_source, tuning_rate
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.training import Resources
from gauntlet.pipelines.terminal import borderless


@dataclass(frozen=True)
class Cost:
    """The estimate of one manifest's training beside its budget. `note`: what the estimate leaves out."""

    system: str
    resources: Resources
    most: Estimate
    note: str | None

    @property
    def left_usd(self) -> float:
        """The budget minus the estimate; negative if the budget is too small."""
        return self.resources.max_cost_usd - self.most.usd

    def as_json(self) -> dict[str, object]:
        """The estimate as `--json` prints it."""
        return {
            "system": self.system,
            "machine_type": self.resources.machine_type,
            "accelerator_type": self.resources.accelerator_type,
            "accelerator_count": self.resources.accelerator_count,
            **asdict(self.most),
            "usd": self.most.usd,
            "budget_usd": self.resources.max_cost_usd,
            "left_usd": self.left_usd,
            "fits": self.left_usd >= 0,
            "note": self.note,
        }


def training_cost(manifest: Manifest) -> Cost:
    """What a manifest's training may cost.

    Raises:
        UsageError: Its machine, or the tuning of its managed model, has no price.
    """
    resources = manifest.training.resources
    return Cost(manifest.name, resources, estimate(resources), _tuning_note(manifest))


def _tuning_note(manifest: Manifest) -> str | None:
    """The price of tuning by a service, which comes on top of the machine's."""
    tuning = manifest.training.by_service
    if tuning is None:
        return None
    return (
        f"{manifest.name}: and {tuning_rate(tuning.model):g} USD a million training tokens in each of "
        f"{tuning.epochs} epochs, which are counted, and held to the budget, before tuning begins. "
        f"That price: {tuning_price_source(tuning.model)}."
    )


def cost_table(costs: Sequence[Cost]) -> Table:
    """A row for each factor, their product, the budget and the verdict."""
    columns = (Column(cost.system, justify="right", overflow="fold") for cost in costs)
    table = borderless("training of", *columns)
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
