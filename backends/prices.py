"""What the machines of Vertex AI have and cost, so that a paid step has a price before it starts.

Prices are list prices: on demand, USD per hour, us-central1, without discounts, disks or network. They are
for budgets and not for billing; check them against these pages before you rely on them.

- https://cloud.google.com/compute/all-pricing: Compute Engine's prices, in the table below.
- https://cloud.google.com/vertex-ai/docs/training/configure-compute: the accelerators of each machine.
- https://cloud.google.com/vertex-ai/generative-ai/pricing: tuning of Gemini models. The page could not be
  reached when the prices were taken, so they are as other pages quote them.
- https://cloud.google.com/vertex-ai/pricing: Vertex AI adds a management fee. It follows from the prices of
  custom training on this page: 0.21849885 for n1-standard-4 (Compute Engine: 0.189999) and 0.4025 for a T4
  (0.35). One third-party price for A2 machines is 4 % higher.

Prices change, other regions cost more, and contracts differ. `GAUNTLET_PRICES` names a YAML file whose
entries, final prices in USD per hour, are added to the table or replace its entries:

    machines:
      g2-standard-8: {usd_per_hour: 0.98, accelerator_type: NVIDIA_L4, accelerator_count: 1}
    accelerators:
      NVIDIA_TESLA_T4: 0.40
    tuning:
      gemini-2.5-flash: 5.00     # USD per million tokens, in each epoch
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from gauntlet.manifests.errors import Fault, ManifestError, UsageError
from gauntlet.manifests.section import Section, faults_of
from gauntlet.manifests.training import Resources, require_accelerator_complete

PRICES_DATE = "2026-10-07"
PRICES_PAGE = "https://cloud.google.com/compute/all-pricing"
TUNING_PRICES_PAGE = "https://cloud.google.com/vertex-ai/generative-ai/pricing"
PRICES_VARIABLE = "GAUNTLET_PRICES"

MANAGEMENT_FEE = 1.15
"""The price of Vertex AI custom training over that of Compute Engine, for machines and accelerators."""

ATTACHES_ACCELERATORS = "n1-"
"""The only machine family that accelerators can be attached to. Others have them built in, or none."""

Usd = Annotated[float, Field(gt=0)]


class Machine(Section):
    """A machine type: its price, with its accelerators, and the accelerators that are built in."""

    usd_per_hour: Usd
    accelerator_type: str | None = None
    accelerator_count: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _accelerator_complete(self) -> Self:
        require_accelerator_complete(self.accelerator_type, self.accelerator_count)
        return self


class PriceTable(Section):
    """USD per hour of machines and of accelerators that can be attached, by type.

    `tuning` is USD per million training tokens, counted again in each epoch, by managed model.
    """

    machines: dict[str, Machine] = Field(default_factory=dict)
    accelerators: dict[str, Usd] = Field(default_factory=dict)
    tuning: dict[str, Usd] = Field(default_factory=dict)


# machine type → (Compute Engine USD per hour if known, accelerator built in, how many)
_MACHINES: dict[str, tuple[float | None, str | None, int]] = {
    "n1-standard-4": (0.189999, None, 0),
    "n1-standard-8": (0.379998, None, 0),
    "n1-standard-16": (0.759996, None, 0),
    "n1-standard-32": (1.519992, None, 0),
    "n1-highmem-4": (0.236606, None, 0),
    "n1-highmem-8": (0.473212, None, 0),
    "n1-highmem-16": (0.946424, None, 0),
    "e2-standard-4": (0.134023, None, 0),
    "e2-standard-8": (0.268046, None, 0),
    "e2-standard-16": (0.536091, None, 0),
    "g2-standard-4": (0.706830, "NVIDIA_L4", 1),
    "g2-standard-8": (0.853621, "NVIDIA_L4", 1),
    "g2-standard-12": (1.000411, "NVIDIA_L4", 1),
    "g2-standard-16": (1.147201, "NVIDIA_L4", 1),
    "g2-standard-24": (2.000822, "NVIDIA_L4", 2),
    "g2-standard-32": (1.734362, "NVIDIA_L4", 1),
    "g2-standard-48": (4.001645, "NVIDIA_L4", 4),
    "g2-standard-96": (8.003289, "NVIDIA_L4", 8),
    "a2-highgpu-1g": (3.673385, "NVIDIA_TESLA_A100", 1),
    "a2-highgpu-2g": (7.346770, "NVIDIA_TESLA_A100", 2),
    "a2-highgpu-4g": (14.693540, "NVIDIA_TESLA_A100", 4),
    "a2-highgpu-8g": (29.387080, "NVIDIA_TESLA_A100", 8),
    "a2-megagpu-16g": (None, "NVIDIA_TESLA_A100", 16),
    "a2-ultragpu-1g": (5.068798, "NVIDIA_A100_80GB", 1),
    "a2-ultragpu-2g": (10.137596, "NVIDIA_A100_80GB", 2),
    "a2-ultragpu-4g": (20.275192, "NVIDIA_A100_80GB", 4),
    "a2-ultragpu-8g": (40.550383, "NVIDIA_A100_80GB", 8),
    "a3-highgpu-1g": (11.061250, "NVIDIA_H100_80GB", 1),
    "a3-highgpu-2g": (22.122500, "NVIDIA_H100_80GB", 2),
    "a3-highgpu-4g": (44.245000, "NVIDIA_H100_80GB", 4),
    "a3-highgpu-8g": (88.490000, "NVIDIA_H100_80GB", 8),
    "a3-megagpu-8g": (None, "NVIDIA_H100_MEGA_80GB", 8),
    "a3-ultragpu-8g": (None, "NVIDIA_H200_141GB", 8),
    "a4-highgpu-8g": (None, "NVIDIA_B200", 8),
    "g4-standard-48": (None, "NVIDIA_RTX_PRO_6000", 1),
    "g4-standard-96": (None, "NVIDIA_RTX_PRO_6000", 2),
    "g4-standard-192": (None, "NVIDIA_RTX_PRO_6000", 4),
    "g4-standard-384": (None, "NVIDIA_RTX_PRO_6000", 8),
}

BUILT_IN = {name: (kind, count) for name, (_, kind, count) in _MACHINES.items() if kind is not None}
"""Machine types with accelerators. A job has to request exactly these, although they are built in."""

_COMPUTE_ENGINE_ACCELERATORS = {"NVIDIA_TESLA_T4": 0.35}

LIST_PRICES = PriceTable(
    machines={
        name: Machine(
            usd_per_hour=round(usd * MANAGEMENT_FEE, 6), accelerator_type=built_in, accelerator_count=count
        )
        for name, (usd, built_in, count) in _MACHINES.items()
        if usd is not None
    },
    accelerators={name: round(usd * MANAGEMENT_FEE, 6) for name, usd in _COMPUTE_ENGINE_ACCELERATORS.items()},
    tuning={"gemini-2.5-pro": 25.0, "gemini-2.5-flash": 5.0},
)


@dataclass(frozen=True)
class Estimate:
    """The most that a step can cost: every attempt runs until its deadline."""

    usd_per_hour: float
    hours: float
    replicas: int
    attempts: int

    @property
    def usd(self) -> float:
        """The product of the four."""
        return self.usd_per_hour * self.hours * self.replicas * self.attempts

    def __str__(self) -> str:
        factors = [f"{self.usd_per_hour:.4f} USD/h", f"{self.hours:g} h"]
        factors += [f"{self.replicas} replicas"] * (self.replicas > 1)
        factors += [f"{self.attempts} attempts"] * (self.attempts > 1)
        return f"{' × '.join(factors)} = {self.usd:.2f} USD"


def current_prices() -> PriceTable:
    """The list prices, with the additions and replacements of the file that `GAUNTLET_PRICES` names.

    Raises:
        ManifestError: That file has faults; the message lists all of them.
        UsageError: It cannot be read or is not YAML.
    """
    file = os.environ.get(PRICES_VARIABLE)
    if not file:
        return LIST_PRICES
    own = _read_prices(Path(file))
    return PriceTable(
        machines={**LIST_PRICES.machines, **own.machines},
        accelerators={**LIST_PRICES.accelerators, **own.accelerators},
        tuning={**LIST_PRICES.tuning, **own.tuning},
    )


def prices_source() -> str:
    """Where the current prices come from, and their date."""
    own = os.environ.get(PRICES_VARIABLE)
    changed = f", changed by {own}" if own else f"; a file named by {PRICES_VARIABLE} replaces them"
    return (
        f"List prices of {PRICES_DATE}, on demand, us-central1, with Vertex AI's fee of "
        f"{MANAGEMENT_FEE - 1:.0%}: {PRICES_PAGE}{changed}."
    )


def tuning_price_source(model: str) -> str:
    """Where the current price of tuning a model comes from."""
    own = os.environ.get(PRICES_VARIABLE)
    if own and model in _read_prices(Path(own)).tuning:
        return own
    return f"{TUNING_PRICES_PAGE}, as quoted elsewhere: check it"


def hourly_rate(resources: Resources) -> float:
    """USD per hour of one replica. The price of a machine includes its built-in accelerators.

    Raises:
        UsageError: The machine or the accelerator is unknown, or the two do not go together.
    """
    table = current_prices()
    machine = table.machines.get(resources.machine_type)
    if machine is None:
        raise UsageError(
            f"machine_type {resources.machine_type}: no price is known, so its cost cannot be limited. "
            f"Known are {', '.join(table.machines)}. Add others in a file named by {PRICES_VARIABLE}."
        )
    if resources.accelerator_type is None:
        return machine.usd_per_hour
    if machine.accelerator_type is not None:
        _require_built_in(resources, machine)
        return machine.usd_per_hour
    return machine.usd_per_hour + _attached_rate(resources, table)


def tuning_rate(model: str) -> float:
    """USD per million training tokens of a managed model, or a `UsageError` if its price is unknown."""
    known = current_prices().tuning
    if model not in known:
        raise UsageError(
            f"training.model {model}: no price of tuning it is known, so its cost cannot be limited. "
            f"Known are {', '.join(known)}. Add others under `tuning` in a file named by {PRICES_VARIABLE}."
        )
    return known[model]


def estimate(resources: Resources, retries: int = 0) -> Estimate:
    """The most that a step can cost; each retry may run for `max_hours` again. Raises as `hourly_rate`."""
    rate, replicas = hourly_rate(resources), resources.replica_count
    return Estimate(rate, resources.max_hours, replicas, attempts=1 + retries)


def over_budget(resources: Resources, file: str, retries: int = 0) -> Fault | None:
    """The fault of a training in `file` that may cost more than `max_cost_usd`. Raises as `hourly_rate`."""
    most = estimate(resources, retries)
    if most.usd <= resources.max_cost_usd:
        return None
    affordable_hours = math.floor(100 * resources.max_cost_usd * most.hours / most.usd) / 100
    enough_usd = math.ceil(100 * most.usd) / 100
    return Fault(
        file=file,
        key="training.resources.max_cost_usd",
        found=f"{resources.max_cost_usd:g}",
        expected=f"at least {enough_usd:.2f}, as {resources.machine_type} may cost {most}",
        action=f"Raise it, lower max_hours to {affordable_hours:g} at most, or take a cheaper machine. "
        f"Prices are of {PRICES_DATE}; a file named by {PRICES_VARIABLE} replaces them.",
    )


def _require_built_in(resources: Resources, machine: Machine) -> None:
    asked = (resources.accelerator_type, resources.accelerator_count)
    if asked != (machine.accelerator_type, machine.accelerator_count):
        raise UsageError(
            f"{resources.machine_type} has {machine.accelerator_count} × {machine.accelerator_type} built in "
            f"and cannot take {resources.accelerator_count} × {resources.accelerator_type}. "
            "Request the built-in ones, or use another machine_type."
        )


def _attached_rate(resources: Resources, table: PriceTable) -> float:
    wanted = str(resources.accelerator_type)
    with_it = [name for name, machine in table.machines.items() if machine.accelerator_type == wanted]
    if with_it:
        raise UsageError(
            f"accelerator_type {wanted} cannot be attached to {resources.machine_type}: "
            f"it is built into {', '.join(with_it)}. Choose one of these as machine_type."
        )
    if wanted not in table.accelerators:
        built_in = {m.accelerator_type: None for m in table.machines.values() if m.accelerator_type}
        raise UsageError(
            f"accelerator_type {wanted}: no price is known, so its cost cannot be limited. "
            f"Known are {', '.join([*table.accelerators, *built_in])}. "
            f"Add others in a file named by {PRICES_VARIABLE}."
        )
    if not resources.machine_type.startswith(ATTACHES_ACCELERATORS):
        raise UsageError(
            f"accelerator_type {wanted} cannot be attached to {resources.machine_type}: "
            f"only {ATTACHES_ACCELERATORS}* machines take accelerators. Choose one, such as n1-standard-8."
        )
    return table.accelerators[wanted] * resources.accelerator_count


def _read_prices(path: Path) -> PriceTable:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}. {PRICES_VARIABLE} names it: correct that, or unset it."
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        cause = " ".join(str(error).split())
        raise UsageError(f"{path}: not YAML: {cause}. {PRICES_VARIABLE} names it.") from None
    try:
        return PriceTable.model_validate(content)
    except ValidationError as error:
        action = f"Correct this price: {PRICES_VARIABLE} names the file."
        raise ManifestError(faults_of(str(path), error, action)) from None
