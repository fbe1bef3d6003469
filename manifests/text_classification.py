"""The sections `dataset` and `training` of the task `text_classification`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from manifests.dataset import ClassBalanceCheck, Dataset, RowCheck, RowsPerClassCheck, Sha256
from manifests.search import Dimension, Search
from manifests.section import Fraction, Section
from manifests.training import OnePhaseTraining


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


class TextChecks(Section):
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


class TextDataset(Dataset):
    """Section of validate-data: a table of texts and labels.

    A folder without `files` is searched for files whose names start with train, validation (or val, dev) and
    test.
    """

    format: Literal["auto", "csv", "tsv", "jsonl", "parquet"] = "auto"
    files: SplitFiles | None = None
    sha256: Sha256 | dict[str, Sha256] | None = None
    columns: Columns = Columns()
    split: SplitFractions = SplitFractions()
    checks: TextChecks = TextChecks()

    @property
    def named_files(self) -> tuple[str, ...]:
        """The split files."""
        return () if self.files is None else tuple(name for _, name in self.files if name)


class TextSearch(Search):
    """What can be tuned of a text classifier."""

    max_length: Dimension | None = None


class TextTraining(OnePhaseTraining):
    """Section of train-model: a pretrained encoder; `dropout` is that of the encoder and of the head."""

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    max_length: int = Field(128, ge=8, le=8192)
    gradient_checkpointing: bool = False
    search: TextSearch | None = Field(None, exclude=True)

    memory_advice: ClassVar[str] = "Lower training.max_length, set training.gradient_checkpointing"

    @property
    def architecture(self) -> str:
        """The encoder's name without its folder."""
        return self.encoder.rstrip("/").rsplit("/", 1)[-1]
