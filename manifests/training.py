"""What every section `training` has: the recipe, the machines to train on, and their limits."""

from __future__ import annotations

import string
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gauntlet.manifests.accelerators import accelerator_fault
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.own_code import Arguments, CodePath
from gauntlet.manifests.search import Search, require_fitting
from gauntlet.manifests.section import Fraction, Section


class EarlyStopping(Section):
    """Stop after `patience` epochs without a better validation metric; a kind says which metrics it has."""

    metric: str = "loss"
    patience: int = Field(2, ge=1)


class Plateau(Section):
    """Multiply the rate by `factor` when more than `patience` epochs bring no better validation metric."""

    factor: float = Field(0.5, gt=0, lt=1)
    patience: int = Field(0, ge=0)


class Resume(Section):
    """How often training writes a state from which it can resume: after every epoch at least.

    `every_steps` adds a state after every so many optimizer steps. The last two states are kept, the best
    epoch's and, with `keep_every_epochs: n`, every n-th epoch's.
    """

    every_steps: int | None = Field(None, ge=1)
    keep_every_epochs: int | None = Field(None, ge=1)


HOURS_OF_A_YEAR = 8_760
MOST_USD = 1e9
MOST_GB = 1e6
"""Bounds that no training comes near, and that times, sums and products of them are exact within."""


class Resources(Section):
    """The machines that training is bought on and the most it may use. Prices: `backends/prices.py`.

    `replica_count` machines train together, each with `accelerator_count` accelerators. Training warns when
    `notify_at` of its hours or its cost is used, and ends when all of it is. Memory is in millions of
    kilobytes, as vendors count; that of the training's process and all that it started.

    `strategy` selects the provisioning model of Vertex AI: `standard` (on demand), `spot` (cheaper, can be
    preempted) or `flex_start` (queued for up to `max_wait_hours`). `persistent_resource` is the id of an
    existing persistent resource to use instead; its machines must match the other keys.
    """

    machine_type: str = "n1-standard-4"
    accelerator_type: str | None = None
    accelerator_count: int = Field(0, ge=0)
    replica_count: int = Field(1, ge=1)
    max_hours: float = Field(4.0, gt=0, le=HOURS_OF_A_YEAR)
    max_cost_usd: float = Field(10.0, gt=0, le=MOST_USD)
    max_memory_gb: float | None = Field(None, gt=0, le=MOST_GB)
    max_gpu_memory_gb: float | None = Field(None, gt=0, le=MOST_GB)
    notify_at: float = Field(0.8, gt=0, le=1)
    strategy: Literal["standard", "spot", "flex_start"] = "standard"
    max_wait_hours: float = Field(24.0, gt=0, le=HOURS_OF_A_YEAR)
    boot_disk_gb: int = Field(100, ge=100, le=64_000)
    persistent_resource: str | None = Field(None, pattern=r"^[a-z][a-z0-9-]{0,62}$")

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        require_accelerator_complete(self.accelerator_type, self.accelerator_count)
        if self.accelerator_type is not None and (fault := accelerator_fault(self.accelerator_type)):
            raise ValueError(f"accelerator_type {fault}")
        if self.persistent_resource is not None and self.strategy != "standard":
            raise ValueError(
                f"persistent_resource has its machines already: leave strategy {self.strategy} out"
            )
        return self


def require_accelerator_complete(accelerator: str | None, count: int) -> None:
    """Raise a `ValueError` for a type without a count, or a count without a type."""
    if (accelerator is None) != (count == 0):
        raise ValueError("accelerator_type and accelerator_count go together: give both or neither")


RUN_NAME_PLACEHOLDERS = ("name", "arch", "seed", "timestamp")


class Tracking(Section):
    """What a tracked run is called, and whether Weights & Biases gets it too, as a run of project `wandb`.

    In `run_name`, `{arch}` is `Training.model_name` and `{timestamp}` the start in UTC.
    """

    run_name: str = Field("{name}-{arch}-{timestamp}", min_length=1)
    wandb: str | None = Field(None, min_length=1)

    @field_validator("run_name")
    @classmethod
    def _placeholders_known(cls, value: str) -> str:
        try:
            parts = list(string.Formatter().parse(value))
        except ValueError as error:
            raise _not_a_run_name(str(error)) from None
        for _, name, form, conversion in parts:
            if name is not None and name not in RUN_NAME_PLACEHOLDERS:
                raise _not_a_run_name(f"{{{name}}} is none of them")
            if form or conversion:
                raise _not_a_run_name(f"{{{name}}} takes no format")
        return value


def _not_a_run_name(cause: str) -> PydanticCustomError:
    allowed = ", ".join(f"{{{name}}}" for name in RUN_NAME_PLACEHOLDERS)
    # The words are a value of the template, since they hold braces themselves.
    return PydanticCustomError("run_name", "{words}", {"words": f"text with {allowed} ({cause})"})


@dataclass(frozen=True)
class Phase:
    """Epochs in a row with a schedule of their own, whose peak is `learning_rate`.

    `number` counts from 1, and `before` is the epochs of the phases before.
    """

    number: int
    before: int
    epochs: int
    learning_rate: float


@dataclass(frozen=True)
class ServiceTuning:
    """A tuning by a service, whose price is per token: the service's name for the model, and the epochs."""

    model: str
    epochs: int


class CommonTraining(Section):
    """What the section of train-model has for every training, by this project's loop or by a service."""

    resources: Resources = Resources()

    @property
    def by_service(self) -> ServiceTuning | None:
        """What a service is asked for; None where this project trains."""
        return None


class Training(CommonTraining):
    """What the section of train-model has for every task; a task's own section adds its model.

    `batch_size` is the rows of one optimizer step on all devices together. Every `schedule` begins with a
    warm-up over `warmup_fraction` of its phase's steps. `precision: auto` is bf16 on what has it, else fp32.
    `distribution` is how several devices hold the model: a copy on each (`ddp`) or a shard on each (`fsdp2`).
    `prefetch_batches` are prepared ahead on a thread: by default 2 for a GPU and none for the CPU.
    `compute_target: auto` is as many GPUs as `resources` asks for and the machine has, else the CPU. On a
    machine that was bought for the training it is all that was bought, and never a CPU in their place;
    `cloud_gpu` is that on every machine.
    `network` and `loss` are the user's own, in place of the kind's: `module:name` of a class. It is made with
    `network_args` or `loss_args` (docs/how-to/use_your_own_network.md).
    `search` is what `gauntlet tune` tries; no training depends on it, so no dump, hash or step holds it.
    """

    batch_size: int = Field(32, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    schedule: Literal["linear", "cosine", "one_cycle", "reduce_on_plateau", "constant"] = "linear"
    warmup_fraction: Fraction = 0.1
    plateau: Plateau | None = None
    weight_decay: float = Field(0.01, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    compile: bool = False
    prefetch_batches: int | None = Field(None, ge=0)
    distribution: Literal["ddp", "fsdp2"] = "ddp"
    early_stopping: EarlyStopping = EarlyStopping()
    resume: Resume = Resume()
    compute_target: Literal["auto", "cpu", "gpu_single", "gpu_multi", "cloud_gpu"] = "auto"
    tracking: Tracking = Tracking()
    network: CodePath | None = None
    network_args: Arguments | None = None
    loss: CodePath | None = None
    loss_args: Arguments | None = None
    search: Search | None = Field(None, exclude=True)

    memory_advice: ClassVar[str] = "Make the model smaller"
    takes_network: ClassVar[bool] = False
    takes_loss: ClassVar[bool] = False
    built_in_losses: ClassVar[tuple[str, ...]] = ()
    """Names that `loss` may have in a kind that offers several."""

    @property
    def architecture(self) -> str:
        """A short name of the kind's own network, for people."""
        raise NotImplementedError

    @property
    def model_name(self) -> str:
        """A short name of the model, for people."""
        return self.network.rpartition(":")[2] if self.network else self.architecture

    @property
    def plan(self) -> tuple[tuple[int, float], ...]:
        """Epochs and peak learning rate of each phase, in order."""
        raise NotImplementedError

    @property
    def leaves_weights_idle(self) -> bool:
        """Whether some steps give some weights no gradient."""
        return False

    @property
    def unread_dimensions(self) -> tuple[str, ...]:
        """Keys of `search` that no trial would read, because of the section's other keys."""
        return ()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """What training consists of."""
        ends = [*accumulate(epochs for epochs, _ in self.plan)]
        return tuple(
            Phase(number, end - epochs, epochs, rate)
            for number, (end, (epochs, rate)) in enumerate(zip(ends, self.plan, strict=True), start=1)
        )

    @property
    def total_epochs(self) -> int:
        """Epochs of all phases."""
        return sum(epochs for epochs, _ in self.plan)

    def phase_of(self, epoch: int) -> Phase:
        """The phase that an epoch, counted from 1, belongs to."""
        return next(phase for phase in reversed(self.phases) if epoch > phase.before)

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of "
                f"gradient_accumulation {self.gradient_accumulation}: it is the size of one optimizer step"
            )
        return self

    @property
    def network_code(self) -> tuple[str, str] | None:
        """The key that names code of the user's own for the network or a part of it, and its path."""
        return ("training.network", self.network) if self.network else None

    @property
    def own_loss(self) -> str | None:
        """The path of the user's own loss."""
        return None if self.loss in self.built_in_losses else self.loss

    @model_validator(mode="after")
    def _own_code_fits(self) -> Self:
        own = {"network": (self.network, self.takes_network), "loss": (self.own_loss, self.takes_loss)}
        for key, (path, takes) in own.items():
            arguments = getattr(self, f"{key}_args")
            if path is not None and not takes:
                raise ValueError(f"{key} {path}: this task kind takes no {key} of your own: leave it out")
            if path is None and arguments is not None:
                raise ValueError(f"{key}_args without {key}: name the {key}, or leave both out")
        if self.own_loss is not None and self.label_smoothing:
            raise ValueError(f"label_smoothing is of the loss that {self.own_loss} replaces: leave it out")
        return self

    @model_validator(mode="after")
    def _plateau_acts(self) -> Self:
        if self.schedule != "reduce_on_plateau":
            if self.plateau is not None:
                raise ValueError(
                    f"plateau is for schedule reduce_on_plateau, but schedule is {self.schedule}"
                )
            return self
        patience = (self.plateau or Plateau()).patience
        if patience + 1 >= self.early_stopping.patience:
            raise ValueError(
                f"with plateau.patience {patience}, early_stopping.patience must be at least {patience + 2}, "
                f"not {self.early_stopping.patience}: training would stop before a reduced rate is used"
            )
        return self

    @model_validator(mode="after")
    def _target_fits_resources(self) -> Self:
        devices = self.resources.accelerator_count * self.resources.replica_count
        needed = {
            "gpu_single": ("one accelerator", devices == 1),
            "gpu_multi": ("several accelerators", devices > 1),
        }
        expected, fits = needed.get(self.compute_target, ("", True))
        if not fits:
            raise ValueError(
                f"compute_target {self.compute_target} needs {expected} in resources "
                f"(accelerator_count × replica_count), not {devices}"
            )
        if self.compute_target == "cloud_gpu" and not devices:
            raise ValueError(
                "compute_target cloud_gpu needs resources.accelerator_type: what is to be bought"
            )
        if self.compute_target == "cpu" and self.resources.accelerator_count:
            raise ValueError("compute_target cpu would pay for resources.accelerator_type without using it")
        return self

    @model_validator(mode="after")
    def _scale_is_shared(self) -> Self:
        if self.distribution == "fsdp2" and self.precision == "fp16":
            raise ValueError(
                "precision fp16 does not go with distribution fsdp2, as each shard would scale its loss by "
                "itself: use bf16, or ddp"
            )
        return self

    @model_validator(mode="after")
    def _search_fits(self) -> Self:
        if self.search is not None:
            settings, section = self.model_dump(), type(self)
            require_fitting(
                self.search, lambda key, value: getattr(section.model_validate(settings | {key: value}), key)
            )
        return self


class OnePhaseTraining(Training):
    """A section of one phase: `learning_rate` is AdamW's peak rate."""

    epochs: int = Field(4, ge=1)
    learning_rate: float = Field(1e-4, gt=0, lt=1)

    @property
    def plan(self) -> tuple[tuple[int, float], ...]:
        """The only phase."""
        return ((self.epochs, self.learning_rate),)


def trained_here(training: CommonTraining) -> Training:
    """The section of a model that this project trains, or a `UsageError` if a service trains it."""
    if isinstance(training, Training):
        return training
    model = training.by_service.model if training.by_service else type(training).__name__
    raise UsageError(
        f"training.model: found {model}, which a service tunes; this needs a model that is trained by "
        "this project. Use `gauntlet run` or `gauntlet submit`."
    )
