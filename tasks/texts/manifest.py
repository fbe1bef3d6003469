"""What the manifests of kinds that read texts share: tables of texts, their checks, and encoders."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gauntlet.manifests.dataset import (
    ClassBalanceCheck,
    LabelledDataset,
    RecordDataset,
    RowCheck,
    RowsPerClassCheck,
    SimilarityCheck,
)
from gauntlet.manifests.schema import Manifest
from gauntlet.manifests.search import Dimension, Search
from gauntlet.manifests.section import Fraction, Section
from gauntlet.manifests.training import OnePhaseTraining


def _text_columns(value: Any) -> Any:
    """Refuse, with one message, a value that is not a name, a position or several names."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a pipeline's section holds floats alone
    names = value if isinstance(value, list | tuple) else [value]
    of_names = all(isinstance(name, str) and name for name in names)
    # KFP hands whole numbers over as floats.
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    is_position = whole and not isinstance(value, bool) and value >= 0
    if is_position or (of_names and len(names) == len(set(names)) > 0):
        return value
    expected = "a column's name, its position from 0, or several names, each once"
    raise PydanticCustomError("text_columns", "{words}", {"words": expected})


class Columns(Section):
    """Where text and label are: a header name, or a position (from 0) in a file without a header.

    `text` may be several names, whose values are joined: see `TextTable`. `label: null` means the only
    column beside the text; several names are columns of 0 and 1, one for each label. `time` is the column
    that says when a row was made, as ISO 8601 or as a number. The splits that no file provides are then made
    by time: the newest rows are the test split, and the rows before them validation.
    """

    text: Annotated[str | int | tuple[str, ...], BeforeValidator(_text_columns)] = "text"
    label: str | Annotated[int, Field(ge=0)] | tuple[str, ...] | None = None
    time: str | Annotated[int, Field(ge=0)] | None = None

    keys: ClassVar[Mapping[str, str]] = {}
    """What the manifest calls `text` and `label`, if a kind has other names for them."""

    def named(self, column: str) -> str:
        """The manifest's name of a column."""
        return self.keys.get(column, column)

    def key(self, column: str) -> str:
        """The key of a column in the manifest."""
        return f"dataset.columns.{self.named(column)}"


SEVERAL_LABELS = "If a row can have several labels, set task: multi_label_text_classification"


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
    """What is checked of texts before a model is trained, with strict defaults.

    `context_length` is about texts of more than `dataset.max_tokens`: `fail` refuses them, `drop` leaves them
    out, and `warn` cuts them when the model is trained.
    """

    encoding: RowCheck = RowCheck()
    empty_values: RowCheck = RowCheck()
    text_length: TextLengthCheck = TextLengthCheck()
    unknown_tokens: UnknownTokensCheck = UnknownTokensCheck()
    context_length: RowCheck = RowCheck(severity="warn")
    exact_duplicates: RowCheck = RowCheck()
    near_duplicates: SimilarityCheck = SimilarityCheck(severity="warn")
    leakage: SimilarityCheck = SimilarityCheck()


class LabelledTextChecks(TextChecks):
    """What is checked of texts with labels."""

    unknown_labels: RowCheck = RowCheck()
    conflicting_labels: RowCheck = RowCheck()
    rows_per_class: RowsPerClassCheck = RowsPerClassCheck()
    class_balance: ClassBalanceCheck = ClassBalanceCheck()


class TextTable(RecordDataset):
    """Section of validate-data: a table of texts, each with a label or another target.

    Several columns can be one text: `columns.text: [subject, body]` joins those that are not empty with a
    line end, and `text_template: "{subject}: {body}"` says how, where `{{` and `}}` are braces. Texts that
    are sent to the model later must be joined in the same way.

    `tokenizer` and `max_tokens` are used to count tokens. They always equal `training.encoder` and
    `training.max_length`. A section outside a manifest may lack them; then no tokens are counted.
    """

    format: Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "arrow"] = "auto"
    columns: Columns = Columns()
    tokenizer: str | None = None
    max_tokens: int | None = None
    text_template: str | None = Field(None, min_length=1)
    checks: TextChecks = TextChecks()

    has_several_labels: ClassVar[bool] = False

    @property
    def label_columns(self) -> tuple[str | int, ...]:
        """The columns of labels that the manifest names."""
        label = self.columns.label
        return label if isinstance(label, tuple) else () if label is None else (label,)

    @property
    def template(self) -> tuple[tuple[str, str | None], ...]:
        """The literal texts of `text_template`, each with the column that follows it, if one does."""
        return tuple((text, name) for text, name, *_ in string.Formatter().parse(self.text_template or ""))

    @property
    def joined_columns(self) -> tuple[str, ...]:
        """The columns that are joined; none if the text is one column."""
        if self.text_template:
            return tuple(dict.fromkeys(name for _, name in self.template if name is not None))
        return self.columns.text if isinstance(self.columns.text, tuple) else ()

    @field_validator("text_template")
    @classmethod
    def _template_names_columns(cls, value: str | None) -> str | None:
        try:
            fields = [parts[1:] for parts in string.Formatter().parse(value or "") if parts[1] is not None]
        except ValueError as error:
            raise _not_a_template(str(error)) from None
        if value is not None and not any(name for name, *_ in fields):
            raise _not_a_template("it names none")
        for name, form, conversion in fields:
            if not name or form or conversion:
                raise _not_a_template(f"{{{name}}} has no name, or a format, which nothing reads")
        return value

    @model_validator(mode="after")
    def _columns_agree(self) -> Self:
        if not self.joined_columns:
            return self
        given = self.columns.text
        wanted = given if isinstance(given, tuple) else self.joined_columns if given == "text" else (given,)
        if set(wanted) != set(self.joined_columns):
            raise ValueError(
                f"columns.text has {', '.join(map(str, wanted))} and text_template "
                f"{', '.join(self.joined_columns)}: name the same columns in both, or leave columns.text out"
            )
        if self.columns.label is None:
            raise ValueError("columns.label must be set where several columns are joined into the text")
        if twice := [name for name in self.joined_columns if name in self.label_columns]:
            raise ValueError(f"columns.label {twice[0]} is part of the text too")
        return self

    @model_validator(mode="after")
    def _one_label_column(self) -> Self:
        if isinstance(self.columns.label, tuple) and not self.has_several_labels:
            raise ValueError(
                f"columns.label: found {len(self.columns.label)} columns, expected one: a row of this task "
                f"has one label. {SEVERAL_LABELS}"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _labels_per_row(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and "labels_per_row" in content:
            fits = content["labels_per_row"] == ("many" if cls.has_several_labels else "one")
            advice = "Remove the key: the task says it." if fits else SEVERAL_LABELS
            raise ValueError(
                f"labels_per_row: found {content['labels_per_row']}, expected no such key. {advice}"
            )
        return content


class LabelledTextTable(TextTable, LabelledDataset):
    """Section of validate-data: texts with labels."""

    checks: LabelledTextChecks = LabelledTextChecks()


def _not_a_template(cause: str) -> PydanticCustomError:
    words = f"a text with the names of columns in braces, such as {{subject}} ({cause})"
    return PydanticCustomError("text_template", "{words}", {"words": words})


class TextSearch(Search):
    """What can be tuned of a model with a pretrained encoder."""

    max_length: Dimension | None = None


class Student(Section):
    """A smaller model that learns to score as the trained one does, for conversion to choose from.

    It begins as the trained model with these of its `layers`, counted from 0, and learns from that model's
    scores at `temperature`, with `teacher_weight` of the loss, and from the labels with the rest. All other
    settings are those of the training.
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


class EncoderTraining(OnePhaseTraining):
    """Section of train-model: a pretrained encoder; `dropout` is that of the encoder and of the head."""

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    max_length: int = Field(128, ge=8, le=8192)
    gradient_checkpointing: bool = False
    student: Student | None = None
    search: TextSearch | None = Field(None, exclude=True)

    memory_advice: ClassVar[str] = "Lower training.max_length, set training.gradient_checkpointing"
    takes_network: ClassVar[bool] = True

    @model_validator(mode="after")
    def _student_is_of_the_encoder(self) -> Self:
        if self.student is not None and self.network is not None:
            raise ValueError(
                "either `student` or `network`, because a student is made of the built-in network's layers"
            )
        return self

    @property
    def architecture(self) -> str:
        """The encoder's name without its folder."""
        return self.encoder.rstrip("/").rsplit("/", 1)[-1]


class EncoderManifest(Manifest):
    """The manifest of a model of texts with a pretrained encoder."""

    training: EncoderTraining

    shared_keys: ClassVar[Mapping[str, str]] = {"tokenizer": "encoder", "max_tokens": "max_length"}

    @property
    def conversion_keys(self) -> Collection[str]:
        """A model can have a student."""
        return ("student",)

    def require_model(self, file: str) -> None:
        """The encoder exists, and reads texts of `training.max_length`."""
        from gauntlet.tasks.texts.encoder_files import require_text_length

        require_text_length(self.training, file)

    def require_vocabulary(self, file: str) -> None:
        """The encoder's embedding has every token of its tokenizer."""
        from gauntlet.tasks.texts.vocabulary import require_own_vocabulary

        require_own_vocabulary(self.training.encoder, "training.encoder", file)
