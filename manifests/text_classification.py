"""The sections `dataset` and `training` of the task `text_classification`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from manifests.dataset import (
    ClassBalanceCheck,
    LabelledDataset,
    RowCheck,
    RowsPerClassCheck,
    SimilarityCheck,
    TableDataset,
)
from manifests.search import Dimension, Search
from manifests.section import Fraction, Section
from manifests.training import ClassTraining


class Columns(Section):
    """Where text and label are: a header name, or a position (from 0) in a file without a header.

    `label: null` means the only column beside the text. `time` is the column that says when a row was made,
    as ISO 8601 or as a number: the splits that no file provides are then by time, the newest rows the test
    split, and those before them validation.
    """

    text: str | Annotated[int, Field(ge=0)] = "text"
    label: str | Annotated[int, Field(ge=0)] | None = None
    time: str | Annotated[int, Field(ge=0)] | None = None


class TextLengthCheck(RowCheck):
    """Characters in a text, both bounds included."""

    min_chars: int = Field(1, ge=1)
    max_chars: int = Field(2_000, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is over max_chars {self.max_chars}")
        return self


class UnknownTokensCheck(RowCheck):
    """Tokens that the encoder's tokenizer does not know: of a language or of emoji that it never saw.

    A row is affected when more than `max_row_share` of its tokens are. More than `max_share` of the tokens of
    all rows triggers the severity too, and `drop` then fails.
    """

    max_fraction: Fraction = 0.05
    max_row_share: Fraction = 0.3
    max_share: Fraction = 0.1


class TextChecks(Section):
    """What is checked before a model is trained, with strict defaults.

    `context_length` is about texts of more than `dataset.max_tokens`: `fail` refuses them, `drop` leaves them
    out, and `warn` cuts them when the model is trained.
    """

    encoding: RowCheck = RowCheck()
    empty_values: RowCheck = RowCheck()
    unknown_labels: RowCheck = RowCheck()
    text_length: TextLengthCheck = TextLengthCheck()
    unknown_tokens: UnknownTokensCheck = UnknownTokensCheck()
    context_length: RowCheck = RowCheck(severity="warn")
    conflicting_labels: RowCheck = RowCheck()
    exact_duplicates: RowCheck = RowCheck()
    near_duplicates: SimilarityCheck = SimilarityCheck(severity="warn")
    leakage: SimilarityCheck = SimilarityCheck()
    rows_per_class: RowsPerClassCheck = RowsPerClassCheck()
    class_balance: ClassBalanceCheck = ClassBalanceCheck()


class TextDataset(TableDataset, LabelledDataset):
    """Section of validate-data: a table of texts and labels.

    `tokenizer` and `max_tokens` are what tokens are counted by: `training.encoder` and `training.max_length`,
    and never others. Without them, in a section that is no manifest's, none are counted.
    """

    format: Literal["auto", "csv", "tsv", "jsonl", "json", "parquet"] = "auto"
    columns: Columns = Columns()
    tokenizer: str | None = None
    max_tokens: int | None = None
    checks: TextChecks = TextChecks()

    balancing: ClassVar[Mapping[str, str]] = {"training.class_weights": "balanced"}


class TextSearch(Search):
    """What can be tuned of a text classifier."""

    max_length: Dimension | None = None


class Student(Section):
    """A smaller model that learns to score as the trained one does, for conversion to choose from.

    It begins as the trained model with these of its `layers`, counted from 0, and learns from that model's
    scores at `temperature`, with `teacher_weight` of the loss, and from the labels with the rest. Whatever
    has no key here is as in training.
    """

    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    epochs: int = Field(4, ge=1)
    learning_rate: float = Field(4e-4, gt=0, lt=1)
    temperature: float = Field(2.0, gt=0)
    teacher_weight: Fraction = 0.9

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if list(layers) != sorted(set(layers)):
            raise PydanticCustomError("layers", "layers of the encoder once each, in their order")
        return layers


class TextTraining(ClassTraining):
    """Section of train-model: a pretrained encoder; `dropout` is that of the encoder and of the head."""

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    max_length: int = Field(128, ge=8, le=8192)
    gradient_checkpointing: bool = False
    student: Student | None = None
    search: TextSearch | None = Field(None, exclude=True)

    memory_advice: ClassVar[str] = "Lower training.max_length, set training.gradient_checkpointing"

    @property
    def architecture(self) -> str:
        """The encoder's name without its folder."""
        return self.encoder.rstrip("/").rsplit("/", 1)[-1]
