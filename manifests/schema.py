"""The manifest: one section per DAG step, and nothing else reaches that step.

Every model forbids unknown keys, so a misspelt key is a fault instead of a silent default.
`Manifest.sha256` identifies a manifest by its content: the same settings written as YAML, as JSON,
or with a default spelt out have the same hash.
"""

from __future__ import annotations

import hashlib
import json
import string
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from manifests.search import Search, require_fitting
from manifests.section import Section

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Pipelines are named with hyphens for underscores, so no two names may differ in that alone, or end in one.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*([_-][a-z0-9]+)*$", max_length=63)]
Severity = Literal["fail", "warn"]
RowSeverity = Literal["fail", "warn", "drop"]
SplitName = Literal["train", "validation", "test"]


# --- dataset ---------------------------------------------------------------------------------------


class Columns(Section):
    """Where text and label are: a header name, or a position (from 0) in a file without a header.

    `label: null` means the only column beside the text.
    """

    text: str | Annotated[int, Field(ge=0)] = "text"
    label: str | Annotated[int, Field(ge=0)] | None = None


class SplitFiles(Section):
    """Explicit split files, relative to `dataset.uri`. A split that is not named is carved from train."""

    train: str
    validation: str | None = None
    test: str | None = None


class SplitFractions(Section):
    """Stratified fractions of rows for the splits that no file provides."""

    train: Fraction = 0.70
    validation: Fraction = 0.15
    test: Fraction = 0.15

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-9 or min(self.train, self.validation, self.test) <= 0:
            raise ValueError(f"train + validation + test must be positive and sum to 1, not {total:g}")
        return self


class RowCheck(Section):
    """A check on single rows. More than `max_fraction` of the rows affected triggers `severity`.

    `drop` removes the affected rows, and fails only when they are more than `max_fraction`.
    """

    severity: RowSeverity = "fail"
    max_fraction: Fraction = 0.0


class TextLengthCheck(RowCheck):
    """Characters in a text, both bounds included."""

    min_chars: int = Field(1, ge=1)
    max_chars: int = Field(2_000, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is over max_chars {self.max_chars}")
        return self


class SimilarityCheck(RowCheck):
    """Near-duplicates: Jaccard similarity of word sets of at least `similarity`."""

    similarity: float = Field(0.9, gt=0.5, le=1.0)


class ClassBalanceCheck(Section):
    """Rows of the largest class over rows of the smallest, in the training split."""

    severity: Severity = "fail"
    max_ratio: float = Field(20.0, ge=1.0)


class RowsPerClassCheck(Section):
    """The smallest number of rows of any class, in every split."""

    severity: Severity = "fail"
    min_rows: int = Field(10, ge=1)


class Checks(Section):
    """What is checked before a model is trained, with strict defaults."""

    encoding: RowCheck = RowCheck()
    empty_values: RowCheck = RowCheck()
    unknown_labels: RowCheck = RowCheck()
    text_length: TextLengthCheck = TextLengthCheck()
    conflicting_labels: RowCheck = RowCheck()
    exact_duplicates: RowCheck = RowCheck()
    near_duplicates: SimilarityCheck = SimilarityCheck(severity="warn")
    leakage: SimilarityCheck = SimilarityCheck()
    rows_per_class: RowsPerClassCheck = RowsPerClassCheck()
    class_balance: ClassBalanceCheck = ClassBalanceCheck()


class Dataset(Section):
    """Section of validate-data.

    `uri` is a file or a folder: a path, or anything fsspec opens (`gs://`, `https://`, `hf://`), or
    `package://PACKAGE/PATH` for data inside an installed package. A folder without `files` is searched
    for files whose names start with train, validation (or val, dev) and test.
    """

    name: Name
    version: str = Field(min_length=1)
    uri: str = Field(min_length=1)
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet"] = "auto"
    files: SplitFiles | None = None
    sha256: Sha256 | dict[str, Sha256] | None = None
    commit_hash: str | None = None
    columns: Columns = Columns()
    labels: tuple[str, ...] = Field(min_length=2)
    split: SplitFractions = SplitFractions()
    checks: Checks = Checks()

    @model_validator(mode="after")
    def _labels_distinct(self) -> Self:
        repeated = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if repeated:
            raise ValueError(f"labels must be distinct, but {', '.join(repeated)} is repeated")
        padded = [label for label in self.labels if label != label.strip() or not label]
        if padded:  # the values of the label column are stripped, so these would never be met
            raise ValueError(f"labels without spaces around them, but {padded[0]!r} has them or is empty")
        return self


# --- training --------------------------------------------------------------------------------------


class EarlyStopping(Section):
    """Stop after `patience` epochs without a better validation metric."""

    metric: Literal["macro_f1", "weighted_f1", "accuracy", "loss"] = "macro_f1"
    patience: int = Field(2, ge=1)


class Plateau(Section):
    """Multiply the rate by `factor` when more than `patience` epochs bring no better validation metric."""

    factor: float = Field(0.5, gt=0, lt=1)
    patience: int = Field(0, ge=0)


class Checkpoints(Section):
    """How often training writes down where it stands, which is after every epoch at least.

    `every_steps` adds one after so many optimizer steps. Kept are the last two, the best epoch's and, with
    `keep_every_epochs: n`, every n-th epoch's.
    """

    every_steps: int | None = Field(None, ge=1)
    keep_every_epochs: int | None = Field(None, ge=1)


class Resources(Section):
    """The machines that training is bought on and the most it may use. Prices: `backends/prices.py`.

    `replica_count` machines train together, each with `accelerator_count` accelerators. Training warns when
    `notify_at` of its hours or its cost is used, and ends when all of it is. Memory is in millions of
    kilobytes, as vendors count; that of the training's process and all that it started.
    """

    machine_type: str = "n1-standard-4"
    accelerator_type: str | None = None
    accelerator_count: int = Field(0, ge=0)
    replica_count: int = Field(1, ge=1)
    max_hours: float = Field(4.0, gt=0)
    max_cost_usd: float = Field(10.0, gt=0)
    max_memory_gb: float | None = Field(None, gt=0)
    max_gpu_memory_gb: float | None = Field(None, gt=0)
    notify_at: float = Field(0.8, gt=0, le=1)

    @model_validator(mode="after")
    def _accelerator_complete(self) -> Self:
        if (self.accelerator_type is None) != (self.accelerator_count == 0):
            raise ValueError("accelerator_type and accelerator_count go together: give both or neither")
        return self


RUN_NAME_PLACEHOLDERS = ("name", "arch", "seed", "timestamp")


class Tracking(Section):
    """What a tracked run is called, and whether Weights & Biases gets it too, as a run of project `wandb`.

    In `run_name`, `{arch}` is the encoder's name without its folder and `{timestamp}` the start in UTC.
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


class Training(Section):
    """Section of train-model.

    `batch_size` is the rows of one optimizer step on all devices together, `learning_rate` AdamW's peak
    rate, `dropout` that of the encoder and of the head. Every `schedule` begins with a warm-up over
    `warmup_fraction` of all steps. `precision: auto` is bf16 on a GPU that has it, else fp32. `distribution`
    is how several devices hold the model: a copy on each (`ddp`) or a shard on each (`fsdp2`).
    `prefetch_batches` are prepared ahead on a thread: by default 2 for a GPU and none for the CPU.
    `search` is what `gauntlet tune` tries; no training depends on it, so no dump, hash or step holds it.
    """

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    max_length: int = Field(128, ge=8, le=8192)
    epochs: int = Field(4, ge=1)
    batch_size: int = Field(32, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    learning_rate: float = Field(1e-4, gt=0, lt=1)
    schedule: Literal["linear", "cosine", "one_cycle", "reduce_on_plateau", "constant"] = "linear"
    warmup_fraction: Fraction = 0.1
    plateau: Plateau | None = None
    weight_decay: float = Field(0.01, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    prefetch_batches: int | None = Field(None, ge=0)
    distribution: Literal["ddp", "fsdp2"] = "ddp"
    early_stopping: EarlyStopping = EarlyStopping()
    checkpoints: Checkpoints = Checkpoints()
    compute_target: Literal["auto", "cpu", "gpu_single", "gpu_multi"] = "auto"
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    search: Search | None = Field(None, exclude=True)

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of "
                f"gradient_accumulation {self.gradient_accumulation}: it is the size of one optimizer step"
            )
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
        if self.compute_target == "gpu_single" and devices != 1:
            raise ValueError(
                f"compute_target gpu_single needs one accelerator in resources "
                f"(accelerator_count × replica_count), not {devices}"
            )
        if self.compute_target == "gpu_multi" and devices < 2:
            raise ValueError(
                f"compute_target gpu_multi needs several accelerators in resources "
                f"(accelerator_count × replica_count), not {devices}"
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
            settings = self.model_dump()
            require_fitting(
                self.search, lambda key, value: getattr(Training.model_validate(settings | {key: value}), key)
            )
        return self


# --- conversion, evaluation, gates, registration ---------------------------------------------------

CandidateName = Literal["plain", "fused", "fused_int8"]


class Conversion(Section):
    """Section of convert-to-onnx. Bounds are for a candidate against the PyTorch model on real rows."""

    opset: int = Field(17, ge=14, le=21)
    candidates: tuple[CandidateName, ...] = Field(("plain", "fused", "fused_int8"), min_length=1)
    max_abs_logit_difference: float = Field(1e-4, gt=0)
    min_label_agreement: Fraction = 0.98
    max_metric_drop: Fraction = 0.01
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 8, 32), min_length=1)
    objective_batch_size: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _objective_is_timed(self) -> Self:
        if self.objective_batch_size not in self.batch_sizes:
            raise ValueError(
                f"objective_batch_size {self.objective_batch_size} is not one of "
                f"batch_sizes {self.batch_sizes}"
            )
        return self


class Evaluation(Section):
    """Section of evaluate-model."""

    bootstrap_resamples: int = Field(2_000, ge=200)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    worst_mistakes: int = Field(20, ge=0)


class Gates(Section):
    """Section of gate-model. A bound on a sampled metric holds for its bootstrap lower limit.

    `max_timing_contention` is the share of its time that a timed model may have waited for a CPU: a speed-up
    taken on a busier machine is no measurement.
    """

    min_macro_f1: Fraction
    min_accuracy: Fraction = 0.0
    min_speedup: float = Field(2.3, gt=0)
    max_timing_contention: Fraction = 0.5
    max_model_mb: float = Field(100.0, gt=0)
    non_inferiority_margin: Fraction = 0.01
    max_class_f1_drop: Fraction = 0.05
    max_cost_usd: float = Field(10.0, gt=0)


class Registration(Section):
    """Section of register-model. `manual` stops at the alias challenger; `gauntlet promote` goes on."""

    promotion: Literal["automatic", "manual"] = "automatic"


# --- the manifest ----------------------------------------------------------------------------------


class Manifest(Section):
    """A system that is retrained: what to run, on what, and what it must prove.

    `name` is also the name of the pipeline and of the model in the registry.
    """

    name: Name
    description: str = Field(min_length=1)
    task: Literal["text_classification"]
    seed: int = Field(0, ge=0, lt=2**32)
    dataset: Dataset
    training: Training = Training()
    conversion: Conversion = Conversion()
    evaluation: Evaluation = Evaluation()
    gates: Gates
    registration: Registration = Registration()

    @property
    def sha256(self) -> str:
        """Hash of the content, defaults included."""
        return hashlib.sha256(canonical_json(self).encode()).hexdigest()


SECTIONS = ("dataset", "training", "conversion", "evaluation", "gates", "registration")


def as_parameter(section: Section) -> dict[str, Any]:
    """The section as a KFP struct parameter: plain JSON types and no nulls, which kfp refuses."""
    return section.model_dump(mode="json", exclude_none=True)


def canonical_json(section: Section) -> str:
    """One spelling per content: sorted keys, no spaces, no nulls."""
    return json.dumps(as_parameter(section), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
