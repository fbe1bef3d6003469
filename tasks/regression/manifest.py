"""The manifest of the task kind `regression`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gauntlet.manifests.dataset import BIGQUERY, RecordDataset, RowCheck, Severity
from gauntlet.manifests.gates import CommonEvaluation, CommonGates
from gauntlet.manifests.own_code import CodePath
from gauntlet.manifests.search import Dimension
from gauntlet.manifests.section import Fraction, Section
from gauntlet.manifests.training import EarlyStopping
from gauntlet.serving.interface import Resize
from gauntlet.tasks.images.manifest import Augmentation, Size, Width
from gauntlet.tasks.texts import manifest as texts

Column = str | Annotated[int, Field(ge=0)]

OF_IMAGES: Mapping[str, Any] = {
    "arch": "plain_cnn",
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "weight_decay": 1e-5,
    "dropout": 0.25,
}
"""The defaults of `training` for images; those of the classes are for texts."""

TEXT_KEYS = ("encoder", "max_length", "gradient_checkpointing", "student")
IMAGE_KEYS = ("filters", "depth", "units", "head_dropout", "augmentation")
"""The keys of `training` that only one input has."""


class Columns(Section):
    """Which column a row's input is in, and which one its number.

    The input is a `text`, or an `image`, the path of a PNG or JPEG file. A column is a name, or a position
    from 0 in a file without a header. With `time`, the newest rows are the test split and those before them
    validation.
    """

    text: Column | None = None
    image: Column | None = None
    target: Column = "target"
    time: Column | None = None

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError("columns has the column of the text or that of the image: set one of the two")
        if self.target == self.input:
            raise ValueError(f"columns.target and columns.{self.kind} are both {self.target}")
        return self

    @property
    def kind(self) -> Literal["text", "image"]:
        """What a row is."""
        return "image" if self.text is None else "text"

    @property
    def input(self) -> str | int:
        """The column of the text or of the image's path."""
        return getattr(self, self.kind)  # type: ignore[no-any-return]


class TargetRange(Section):
    """What the numbers can be. Answers are limited to this range too.

    Two rows with the same input conflict if their targets differ by more than `tolerance`.
    """

    min: float | None = None
    max: float | None = None
    tolerance: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError(f"target.min {self.min:g} is not under target.max {self.max:g}")
        return self


class OutlierCheck(RowCheck):
    """Targets whose distance from the median is more than `deviations` robust standard deviations.

    One of these is 1.4826 times the median distance from the median, as in a normal distribution.
    """

    severity: Literal["fail", "warn", "drop"] = "warn"
    deviations: float = Field(6.0, gt=0)


class RowsPerSplitCheck(Section):
    """The smallest number of rows of any split."""

    severity: Severity = "fail"
    min_rows: int = Field(30, ge=2)


class RegressionChecks(texts.TextChecks):
    """What is checked before a model is trained, with strict defaults.

    `unreadable_images` is for images; `encoding` and all checks on the length and the tokens of texts are for
    texts. `similarity` is that of a text's words, or the share of equal bits in an image's perceptual hash.
    """

    unreadable_images: RowCheck = RowCheck()
    invalid_targets: RowCheck = RowCheck()
    target_range: RowCheck = RowCheck()
    conflicting_targets: RowCheck = RowCheck()
    outliers: OutlierCheck = OutlierCheck()
    rows_per_split: RowsPerSplitCheck = RowsPerSplitCheck()


class TextColumns(texts.Columns):
    """A text and a number."""

    keys: ClassVar[Mapping[str, str]] = {"label": "target"}


class PathColumns(texts.Columns):
    """An image, or its path, and a number."""

    keys: ClassVar[Mapping[str, str]] = {"text": "image", "label": "target"}


class NumberTable(texts.TextTable):
    """A table of texts whose label is a number."""

    columns: TextColumns
    checks: RegressionChecks = RegressionChecks()


class RegressionDataset(RecordDataset):
    """Section of validate-data: a table of texts, or of the paths of images, with a number for each.

    Paths are relative to the table's folder. `uri` may be a zip or tar archive of a table and its images.
    Every image is brought to `shape`, height and width, as `resize` says: stretched, cropped or padded.
    `tokenizer` and `max_tokens` always equal `training.encoder` and `training.max_length`.
    """

    format: Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "arrow"] = "auto"
    columns: Columns
    target: TargetRange = TargetRange()
    shape: tuple[Size, Size] | None = None
    channels: Literal[1, 3] = 3
    resize: Resize = "stretch"
    tokenizer: str | None = None
    max_tokens: int | None = None
    checks: RegressionChecks = RegressionChecks()

    @property
    def as_texts(self) -> NumberTable:
        """The section in the form in which tables of texts are read and checked."""
        names = set(NumberTable.model_fields) - {"columns"}
        columns = TextColumns(text=self.columns.input, label=self.columns.target, time=self.columns.time)
        return NumberTable.model_validate(self.model_dump(include=names) | {"columns": columns})

    @property
    def expected_test_rows(self) -> None:
        """Not told: the difference that so many rows can show is in the unit of the target."""
        return

    @model_validator(mode="after")
    def _shape_of_images(self) -> Self:
        if self.columns.kind == "image" and self.shape is None:
            raise ValueError("shape: found nothing, expected the height and width that images are brought to")
        of_texts = {
            "columns.time": self.columns.time,
            "encoding": self.encoding,
            "where": self.where,
            f"uri: {BIGQUERY}": self.uri.startswith(BIGQUERY) or None,
        }
        if found := [key for key, value in of_texts.items() if value is not None and self.shape is not None]:
            raise ValueError(
                f"{found[0]} is for texts, and columns.image says that rows are images: leave it out"
            )
        if self.columns.kind == "text" and self.shape is not None:
            raise ValueError("shape is for images, and columns.text says that rows are texts: leave it out")
        return self


class RegressionSearch(texts.TextSearch):
    """What can be tuned."""

    depth: Dimension | None = None
    units: Dimension | None = None
    head_dropout: Dimension | None = None


class NumberEarlyStopping(EarlyStopping):
    """By a metric of numbers."""

    metric: Literal["mae", "rmse", "r2", "loss"] = "mae"


class RegressionTraining(texts.EncoderTraining):
    """Section of train-model: a network with one output.

    It learns targets that are standardised by the mean and the standard deviation of the training split; both
    are part of the model, so that it answers in the unit of the target. `loss` is that of standardised
    targets; `huber` is quadratic up to an error of one standard deviation and linear above. With
    `interval_coverage` each answer has an interval that holds this share of the true numbers.

    Texts are read by a pretrained encoder (`arch: encoder`), images by a convolutional network that begins
    from random weights; its `filters`, `depth`, `units`, `head_dropout` and `augmentation` are as in
    `image_classification`.
    """

    loss: Literal["mse", "mae", "huber"] | CodePath = "huber"
    interval_coverage: float | None = Field(0.9, ge=0.5, lt=1)
    arch: Literal["encoder", "plain_cnn", "resnet"] = "encoder"
    filters: tuple[Width, ...] = Field((32, 64, 128), min_length=1)
    depth: int = Field(1, ge=1, le=16)
    units: int = Field(512, ge=0, le=4096)
    head_dropout: float = Field(0.5, ge=0, lt=1)
    augmentation: Augmentation = Augmentation()
    early_stopping: NumberEarlyStopping = NumberEarlyStopping()
    search: RegressionSearch | None = Field(None, exclude=True)

    memory_advice: ClassVar[str] = "Lower training.max_length or training.filters"
    takes_network: ClassVar[bool] = True
    takes_loss: ClassVar[bool] = True
    built_in_losses: ClassVar[tuple[str, ...]] = ("mse", "mae", "huber")

    @property
    def architecture(self) -> str:
        """The encoder's name without its folder, or the network and its sizes."""
        if self.arch == "encoder":
            return super().architecture
        return "-".join([self.arch, *(f"{size:g}" for size in (*self.filters, self.units))])

    @model_validator(mode="after")
    def _of_numbers(self) -> Self:
        if self.label_smoothing:
            raise ValueError("label_smoothing is for classes, and a number has none: leave it out")
        return self


class RegressionEvaluation(CommonEvaluation):
    """Section of evaluate-model. `slices` are ranges of the target with about equally many rows."""

    worst_rows: int = Field(20, ge=0)
    slices: int = Field(5, ge=2, le=20)


class RegressionGates(CommonGates):
    """Section of gate-model, in the unit of the target. Bounds are for confidence limits.

    `max_slice_mae` is for the worst slice of the target, `min_interval_coverage` for the share of test rows
    whose number is in its interval. `non_inferiority_margin` is how much larger than the champion's the mean
    absolute error may be, and `min_improvement` how much smaller it must be.
    """

    max_mae: float | None = Field(None, gt=0)
    max_rmse: float | None = Field(None, gt=0)
    min_r2: float | None = Field(None, le=1)
    max_slice_mae: float | None = Field(None, gt=0)
    min_interval_coverage: Fraction | None = None
    non_inferiority_margin: float | None = Field(None, ge=0)
    min_improvement: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _floor(self) -> Self:
        if self.max_mae is None and self.max_rmse is None and self.min_r2 is None:
            raise ValueError("found none of max_mae, max_rmse and min_r2, expected at least one bound")
        return self


class RegressionManifest(texts.EncoderManifest):
    """The manifest of a model that answers with a number."""

    task: Literal["regression"]
    dataset: RegressionDataset
    training: RegressionTraining = RegressionTraining()
    evaluation: RegressionEvaluation = RegressionEvaluation()
    gates: RegressionGates

    @property
    def conversion_keys(self) -> Collection[str]:
        """A model of texts can have a student."""
        return super().conversion_keys if self.dataset.columns.kind == "text" else ()

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_images(cls, content: Any) -> Any:
        """Add the defaults of `training` for images, if rows are images."""
        if not isinstance(content, Mapping):
            return content
        dataset, training = content.get("dataset"), content.get("training", {})
        columns = dataset.get("columns") if isinstance(dataset, Mapping) else None
        if not isinstance(columns, Mapping) or not isinstance(training, Mapping) or "image" not in columns:
            return content
        return {**content, "training": {**OF_IMAGES, **training}}

    @model_validator(mode="after")
    def _keys_of_the_input(self) -> Self:
        kind, training = self.dataset.columns.kind, self.training
        if (training.arch == "encoder") != (kind == "text"):
            expected = "encoder" if kind == "text" else "plain_cnn or resnet"
            raise ValueError(f"training.arch: found {training.arch}, expected {expected} for rows of {kind}s")
        fields = RegressionTraining.model_fields
        others = IMAGE_KEYS if kind == "text" else TEXT_KEYS
        found = [key for key in others if getattr(training, key) != fields[key].default]
        if found:
            raise ValueError(
                f"training.{found[0]} is not for rows of {kind}s (dataset.columns): leave it out"
            )
        return self

    @model_validator(mode="after")
    def _coverage_can_be_met(self) -> Self:
        asked, given = self.gates.min_interval_coverage, self.training.interval_coverage
        if asked is not None and (given is None or asked >= given):
            raise ValueError(
                f"gates.min_interval_coverage: found {asked:g}, which the lower confidence limit must reach, "
                f"expected less than training.interval_coverage, {'none' if given is None else f'{given:g}'}"
            )
        return self

    def require_model(self, file: str) -> None:
        """The encoder of texts exists, and reads texts of `training.max_length`."""
        if self.training.arch == "encoder":
            super().require_model(file)

    def require_vocabulary(self, file: str) -> None:
        """The encoder's embedding has every token of its tokenizer."""
        if self.training.arch == "encoder":
            super().require_vocabulary(file)
