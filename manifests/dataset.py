"""What every section `dataset` has: where the rows are, and the kinds of checks that they pass."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Mapping
from datetime import date
from pathlib import PurePosixPath
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from gauntlet.manifests.section import Fraction, Name, Section
from gauntlet.manifests.where import columns_of

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
BIGQUERY = "bq://"
Severity = Literal["fail", "warn"]
RowSeverity = Literal["fail", "warn", "drop"]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class RowCheck(Section):
    """A check on single rows. More than `max_fraction` of the rows affected triggers `severity`.

    `drop` removes the affected rows, and fails only if they are more than `max_fraction`.
    """

    severity: RowSeverity = "fail"
    max_fraction: Fraction = 0.0


class ClassBalanceCheck(Section):
    """Bounds the rows of the largest class over those of the smallest, in the training split."""

    severity: Severity = "fail"
    max_ratio: float = Field(20.0, ge=1.0)


class RowsPerClassCheck(Section):
    """The smallest number of rows of any class, in every split."""

    severity: Severity = "fail"
    min_rows: int = Field(10, ge=1)


class SimilarityCheck(RowCheck):
    """Near-duplicates: Jaccard similarity of word sets of at least `similarity`.

    In scripts without spaces between words, neighbouring signs stand for words: docs/reference/text_data.md.
    """

    similarity: float = Field(0.9, gt=0.5, le=1.0)


MaxExpansion = Annotated[int | None, Field(ge=1)]
"""How many times its own size a compressed file may unpack to."""

FileNames = str | Annotated[tuple[str, ...], Field(min_length=1)]


class SplitFiles(Section):
    """Explicit split files, relative to `dataset.uri`. A split that is not named is carved from train.

    A split is one name, a pattern such as `2024-*.parquet`, or a list of both.
    """

    train: FileNames
    validation: FileNames | None = None
    test: FileNames | None = None

    def of(self, split: SplitName) -> tuple[str, ...]:
        """The names and patterns of one split."""
        names: FileNames | None = getattr(self, split)
        return (names,) if isinstance(names, str) else names or ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names and patterns of all splits."""
        return tuple(name for split in SPLITS for name in self.of(split))


class SplitFractions(Section):
    """Fractions of rows for the splits that no file provides.

    A hash of each row's group of near-duplicates decides its split, so the fractions hold on average, and
    rows keep their split when data are added or the manifest's `seed` changes. Another `key` gives other
    splits; a champion may then have been trained on rows of the new test split. With
    `dataset.columns.time` the newest rows are the test split.
    """

    train: Fraction = 0.70
    validation: Fraction = 0.15
    test: Fraction = 0.15
    key: str = ""

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-9 or min(self.train, self.validation, self.test) <= 0:
            raise ValueError(f"train + validation + test must be positive and sum to 1, not {total:g}")
        return self


class Dataset(Section):
    """What the section of validate-data has for every task; a task's own section adds what its rows are.

    `uri` is a file or a folder: a path, `gs://`, `https://`, `hf://`, `s3://` or `az://`, or
    `package://PACKAGE/PATH` for data inside an installed package. `roots` are more folders in which the data,
    or an event, may name files; without it only files under `uri` are opened. `commit_hash` and `created` say
    where and when it was made; with `size` any other number of rows than that is refused.
    """

    name: Name
    version: str = Field(min_length=1)
    uri: str = Field(min_length=1)
    roots: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    commit_hash: str | None = None
    created: date | None = None
    size: int | None = Field(None, ge=1)

    @property
    def named_files(self) -> tuple[str, ...]:
        """The files that the manifest names, relative to `uri`; none: what `uri` leads to is searched."""
        raise NotImplementedError

    @property
    def expected_test_rows(self) -> int | None:
        """About how many rows the test split will have, if the manifest tells."""
        return None


class LabelledDataset(Dataset):
    """A dataset for a classifier."""

    labels: tuple[str, ...] = Field(min_length=2)

    balancing: ClassVar[Mapping[str, str]] = {}
    """Keys of the manifest with which training corrects for classes of different sizes."""

    @model_validator(mode="after")
    def _labels_distinct(self) -> Self:
        composed = [unicodedata.normalize("NFC", label) for label in self.labels]  # as they are compared
        repeated = sorted({label for label in composed if composed.count(label) > 1})
        if repeated:
            raise ValueError(f"labels must be distinct, but {', '.join(repeated)} is repeated")
        padded = [label for label in self.labels if label != label.strip() or not label]
        if padded:  # the values of the label column are stripped, so no row would have these
            raise ValueError(f"labels without spaces around them, but {padded[0]!r} has them or is empty")
        return self


class TableDataset(Dataset):
    """A dataset whose rows are in text files, one for each split or one for all.

    A folder without `files` is searched for files whose names start with train, validation (or val, dev) and
    test. `uri` may also be a pattern, such as `gs://bucket/data/*.parquet`, whose files together have all
    rows. Folders named COLUMN=VALUE, as Hive makes them, give the rows in them that column. `encoding` is
    that of the text, by a name that Python knows (`cp1252`, `utf-16`, `shift_jis`); by default a byte order
    mark decides, else it is UTF-8.
    """

    files: SplitFiles | None = None
    encoding: str | None = None
    sha256: Sha256 | dict[str, Sha256] | None = None
    split: SplitFractions = SplitFractions()

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str | None) -> str | None:
        if encoding is None:
            return None
        try:
            "".encode(encoding)  # codecs.lookup also finds what makes bytes of bytes, such as zip
            return codecs.lookup(encoding).name
        except (LookupError, ValueError):
            raise PydanticCustomError("encoding", "an encoding that Python knows, such as cp1252") from None

    @property
    def named_files(self) -> tuple[str, ...]:
        """The split files."""
        return () if self.files is None else self.files.names

    @property
    def expected_test_rows(self) -> int | None:
        """A share of `size`, where one file has all rows."""
        files = self.files
        is_one_file = not (files.validation or files.test) if files else bool(PurePosixPath(self.uri).suffix)
        return round(self.size * self.split.test) if self.size and is_one_file else None


class RecordDataset(TableDataset):
    """A dataset whose rows have named columns, in files or in BigQuery.

    Of all rows those count for which `where` is true, a condition on columns in the words of SQL. A
    compressed file may unpack to 1 GiB, or to `max_expansion` (100) times its own size if that is more.

    A table of BigQuery is `uri: bq://PROJECT.DATASET.TABLE`, or `bq://PROJECT.DATASET` with a table for each
    split in `files`. `query` is a SELECT instead, whose cost `uri: bq://PROJECT` pays. Neither is read if its
    list price is over `max_cost_usd`. The rows are those of the time `snapshot`; by default of that at which
    fingerprint-data saw the table.
    """

    where: str | None = None
    max_expansion: MaxExpansion = None
    query: str | None = Field(None, min_length=1)
    snapshot: AwareDatetime | None = None
    max_cost_usd: float | None = Field(None, ge=0)

    @field_validator("where")
    @classmethod
    def _condition(cls, where: str | None) -> str | None:
        try:
            if where is not None:
                columns_of(where)
        except ValueError as error:
            raise PydanticCustomError("where", "{words}", {"words": str(error)}) from None
        return where

    @property
    def where_columns(self) -> tuple[str, ...]:
        """The columns that `where` names."""
        return () if self.where is None else columns_of(self.where)

    @model_validator(mode="after")
    def _bigquery_is_whole(self) -> Self:
        if not self.uri.startswith(BIGQUERY):
            if unread := [
                key for key in ("query", "snapshot", "max_cost_usd") if getattr(self, key) is not None
            ]:
                raise ValueError(
                    f"{', '.join(unread)}: of BigQuery alone: set uri: {BIGQUERY}PROJECT, or remove"
                )
            return self
        parts = 1 if self.query else 3 if self.files is None else 2
        if not re.fullmatch(rf"{BIGQUERY}(?:[^/:]+:)?[^./:]+(?:\.[^./]+){{{parts - 1}}}", self.uri):
            expected = {1: "PROJECT", 2: "PROJECT.DATASET", 3: "PROJECT.DATASET.TABLE"}[parts]
            why = {1: " with query", 2: " with files", 3: ""}[parts]
            raise ValueError(f"uri: found {self.uri}, expected {BIGQUERY}{expected}{why}")
        if unread := [key for key in ("encoding", "sha256") if getattr(self, key) is not None]:
            raise ValueError(f"{', '.join(unread)}: of files alone: remove it for BigQuery")
        return self
