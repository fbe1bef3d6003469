"""Sentences in CoNLL files: read them, check them, and describe their splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd
import pyarrow as pa

from gauntlet.backends import storage
from gauntlet.components.validate_data.carving import carve, with_groups
from gauntlet.components.validate_data.checks import (
    SHOWN_EXAMPLES,
    CheckedTable,
    Examination,
    Finding,
    json_line,
    origin,
)
from gauntlet.components.validate_data.duplicates import NothingAlike, find_exact, find_leaks
from gauntlet.components.validate_data.text import find_fault
from gauntlet.contracts.data import Statistics as CommonStatistics
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.manifests.errors import DataError
from gauntlet.manifests.gates import default_margin
from gauntlet.tasks.texts.files import SourceFile, decode, find_files, verified
from gauntlet_token_classification.entities import is_broken, spans
from gauntlet_token_classification.manifest import TokenDataset

SUFFIXES = (".conll", ".conll2003", ".bio", ".iob", ".iob2", ".tsv", ".txt")
DOCUMENT_START = "-DOCSTART-"
EQUAL = 1.0
"""Two sentences are alike only if they have the same words."""

LEAST_ROWS = 1


class Statistics(CommonStatistics):
    """The content of `statistics.json`. `words` and `entities` are counts by split; `labels` are the tags."""

    words: Mapping[str, int]
    entities: Mapping[str, Mapping[str, int]]


def sources(dataset: TokenDataset) -> tuple[str, ...]:
    """The URIs of the files."""
    return tuple(file.uri for file in _files(dataset))


def _files(dataset: TokenDataset) -> tuple[SourceFile, ...]:
    return find_files(dataset, lambda name: name.lower().endswith(SUFFIXES))


def examine(dataset: TokenDataset) -> Examination:
    """Read and check a dataset.

    Raises:
        DataError: A file is missing, altered or malformed.
        UsageError: There is nothing at the URI.
    """
    with verified(dataset, _files(dataset)) as files:
        contents = {file: storage.read_bytes(file.uri) for file in files}
    table = pd.concat(
        [_read(file, _decoded(data, file, dataset)) for file, data in contents.items()],
        ignore_index=True,
    )
    checked = _check(table, dataset)
    statistics = _describe(checked.rows, dataset)
    return Examination(
        table=table,
        checked=checked,
        statistics=statistics,
        content=lambda split: _content(checked.rows[checked.rows["split"] == split], dataset.tags),
        fingerprints="words",
        resolution=_resolution(statistics.rows.get("test", 0)),
    )


def _resolution(rows: int) -> str:
    return f"With {rows:,} test sentences a comparison can show a difference of {default_margin([rows]):.2g}"


def _decoded(data: bytes, file: SourceFile, dataset: TokenDataset) -> str:
    text = decode(data, file.name, dataset.encoding)
    if (fault := find_fault(text)) is not None:
        raise DataError(f"{file.name}: {fault}. Set dataset.encoding, or correct the file")
    return text


def _read(file: SourceFile, text: str) -> pd.DataFrame:
    """One row for each sentence: `words`, `tags`, `split`, `place`, `key`, `shown`.

    Raises:
        DataError: A line has a word and no tag, or there are no sentences.
    """
    rows: list[dict[str, object]] = []
    words: list[str] = []
    tags: list[str] = []
    begin = 1
    for number, line in enumerate((*text.splitlines(), ""), start=1):
        columns = line.split()
        if columns and columns[0] != DOCUMENT_START:
            if len(columns) < 2:
                raise DataError(
                    f"{file.name} line {number}: found {columns[0]!r} alone, expected a word and its tag. "
                    "Put the tag into the last column"
                )
            begin = begin if words else number
            words.append(columns[0])
            tags.append(columns[-1])
        elif words:
            place = f"{file.name} line {begin}"
            key = " ".join(words)
            rows.append({"words": words, "tags": tags, "place": place, "key": key, "shown": key[:80]})
            words, tags = [], []
    if not rows:
        raise DataError(f"{file.name}: found no sentences, expected lines with a word and its tag")
    return pd.DataFrame(rows).assign(split=file.split, row=range(len(rows)), label="sentence")


def _check(table: pd.DataFrame, dataset: TokenDataset) -> CheckedTable:
    checks = dataset.checks
    numbers, distinct = pd.factorize(table["key"])
    equal_only = NothingAlike(len(distinct))
    rows = with_groups(table.assign(number=numbers), equal_only, EQUAL)
    checked = CheckedTable(rows, len(rows), groups=dict(zip(rows["key"], rows["group"], strict=True)))
    known = frozenset(dataset.tags)
    checked.check("unknown_tags", checks.unknown_tags, lambda left: _unknown(left, known), unusable=True)
    checked.check("broken_spans", checks.broken_spans, _broken)
    checked.check("sentence_length", checks.sentence_length, lambda left: _long(left, dataset.max_words))
    checked.check("exact_duplicates", checks.exact_duplicates, find_exact)
    missing = [split for split in SPLITS[1:] if split not in set(table["split"])]
    fractions = {split: getattr(dataset.split, split) for split in SPLITS}
    checked.rows = carve(checked.rows, missing, fractions, LEAST_ROWS, dataset.split.key)
    checked.check("leakage", checks.leakage, lambda left: find_leaks(left, equal_only, EQUAL))
    return checked


def _unknown(rows: pd.DataFrame, known: frozenset[str]) -> Finding:
    strange = [sorted(set(tags) - known) for tags in rows["tags"]]
    found = rows.assign(strange=strange)[[bool(tags) for tags in strange]]
    examples = [
        f"{row.place}: {', '.join(row.strange)}, which dataset.entities does not name"
        for row in found.head(SHOWN_EXAMPLES).itertuples()
    ]
    return Finding(found.index, found.index, examples)


def _broken(rows: pd.DataFrame) -> Finding:
    return _where(rows, [is_broken(tags) for tags in rows["tags"]], "an I- tag continues no span")


def _long(rows: pd.DataFrame, most: int) -> Finding:
    return _where(rows, [len(words) > most for words in rows["words"]], f"over {most} words")


def _where(rows: pd.DataFrame, affected: Sequence[bool], why: str) -> Finding:
    found = rows[list(affected)]
    examples = [f"{row.place}: {why}: {row.shown}" for row in found.head(SHOWN_EXAMPLES).itertuples()]
    return Finding(found.index, found.index, examples)


def _content(rows: pd.DataFrame, tags: Sequence[str]) -> pa.Table:
    """The columns `words`, `tags` (indices into `dataset.tags`) and `row` of a split."""
    index = {tag: at for at, tag in enumerate(tags)}
    return pa.table(
        {
            "words": pa.array(rows["words"].tolist(), pa.list_(pa.string())),
            "tags": pa.array([[index[tag] for tag in row] for row in rows["tags"]], pa.list_(pa.int64())),
            "row": pa.array(rows["row"].tolist(), pa.int64()),
        }
    )


def _describe(rows: pd.DataFrame, dataset: TokenDataset) -> Statistics:
    digest = hashlib.sha256()
    words: dict[str, int] = {}
    entities: dict[str, Mapping[str, int]] = {}
    counts: dict[SplitName, int] = {}
    for split in SPLITS:
        of_split = rows[rows["split"] == split]
        for row in of_split.itertuples():
            digest.update(json_line([split, row.words, row.tags]))
        counts[split] = len(of_split)
        words[split] = int(of_split["words"].map(len).sum())
        kinds = Counter(kind for tags in of_split["tags"] for _, _, kind in spans(tags))
        entities[split] = {entity: kinds[entity] for entity in dataset.entities}
    return Statistics(
        **origin(dataset),
        labels=dataset.tags,
        sha256=digest.hexdigest(),
        rows=counts,
        words=words,
        entities=entities,
    )
