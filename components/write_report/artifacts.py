"""The JSON that the steps leave, as data: what the page shows of it.

`docs/artifacts.md` describes the whole. Every figure may be None: a figure that could not be computed is
absent, and the page says so instead of guessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Figure = float | None
Interval = tuple[Figure, Figure]

# --- train-model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Epoch:
    """One epoch of training and its validation, each with the task's metrics by name."""

    epoch: int
    training: Mapping[str, Figure] = field(default_factory=dict)
    validation: Mapping[str, Figure] = field(default_factory=dict)
    examples_per_second: Figure = None
    seconds: Figure = None


@dataclass(frozen=True)
class OptimizerStep:
    """One optimizer step: the mean loss of its rows and the learning rate it was taken with."""

    step: int
    loss: Figure = None
    learning_rate: Figure = None


@dataclass(frozen=True)
class Usage:
    """What training made of its machine: means over its time, and peaks in GB."""

    examples_per_second: Figure = None
    cpu_utilisation: Figure = None
    cpu_wait: Figure = None
    peak_memory_gb: Figure = None
    gpu_utilisation: Figure = None
    peak_gpu_memory_gb: Figure = None


@dataclass(frozen=True)
class History:
    """The content of `history`."""

    epochs: tuple[Epoch, ...] = ()
    steps: tuple[OptimizerStep, ...] = ()
    best_epoch: int | None = None
    stopped: str | None = None
    seconds: Figure = None
    device: str | None = None
    machine: str | None = None
    parameters: int | None = None
    cost_usd: Figure = None
    usd_per_hour: Figure = None
    max_hours: Figure = None
    max_cost_usd: Figure = None
    training_tokens: int | None = None
    usd_per_million_tokens: Figure = None
    host: str | None = None
    usage: Usage = Usage()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The task's validation metrics beside the loss, as the first epoch names them."""
        return tuple(name for name in (self.epochs[0].validation if self.epochs else ()) if name != "loss")


@dataclass(frozen=True)
class Training:
    """The content of `checkpoint/training.json`: what the checkpoint was made from."""

    encoder: str | None = None
    max_length: int | None = None
    seed: int | None = None
    epoch: int | None = None
    data_sha256: str | None = None
    training_sha256: str | None = None


# --- convert-to-onnx -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bundle:
    """What the page shows of `bundle/bundle.json`; `files` holds each file's sha256."""

    task: str | None = None
    candidate: str | None = None
    precision: str | None = None
    opset: int | None = None
    max_length: int | None = None
    format_version: int | None = None
    lineage: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


# --- gate-model, register-model --------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """One rule of the gate: `value operator bound` must hold; `verdict` is pass, fail or not applicable."""

    rule: str
    verdict: str
    operator: str = ""
    bound: bool | float | str | None = None
    value: bool | float | str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The content of `verdict`; `stages` has the decision about each promotion stage."""

    decision: str
    reasons: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    stages: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Version:
    """The content of `version`; not `registered`: an earlier run had registered the same bundle.

    `overruled` are the rules that the model failed, if a person promoted it anyway.
    """

    name: str
    version: str | int
    uri: str = ""
    registered: bool = True
    aliases: tuple[str, ...] = ()
    bundle_sha256: str | None = None
    overruled: tuple[str, ...] = ()
    approved_by: str = ""
    approved_at: str = ""
    reason: str = ""
