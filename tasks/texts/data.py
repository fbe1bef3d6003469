"""Datasets of texts: read the table, check it, make its splits, and describe their texts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from gauntlet.backends import storage
from gauntlet.components.validate_data.carving import carve, with_groups
from gauntlet.components.validate_data.checks import (
    BOUND_STEPS,
    SHOWN_EXAMPLES,
    CheckedTable,
    Finding,
    Reasons,
    percent,
)
from gauntlet.components.validate_data.duplicates import find_exact, find_leaks, find_near, outside_test
from gauntlet.components.validate_data.text import excerpt, find_fault, is_blank, normalise, repair
from gauntlet.contracts import data as contract
from gauntlet.contracts.document import Document
from gauntlet.manifests.dataset import SPLITS
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.texts.encoder_files import READING_FILES, find_encoder, require_positions
from gauntlet.tasks.texts.files import SourceFile, find_files, format_of, verify
from gauntlet.tasks.texts.manifest import TextTable, UnknownTokensCheck
from gauntlet.tasks.texts.records import SUFFIX_FORMATS, Records, parse, read_joined
from gauntlet.tasks.texts.similarity import TextLikeness, words_of
from gauntlet.tasks.texts.times import with_times
from gauntlet.tasks.texts.vocabulary import open_pretrained

# Fixed, so that histograms of different data can be compared bin by bin. Characters.
LENGTH_EDGES = (0, 20, 40, 60, 80, 100, 125, 150, 200, 250, 300, 400, 500, 750, 1000, 2000)
TOP_WORDS = 200
COUNTED_AT_ONCE = 1_000  # texts at once: the tokens of all texts would need too much memory

Targets = Callable[[Sequence[Any]], Mapping[str, Sequence[Any]]]
"""The columns that a kind makes of the values of the label column. One of them is `label`: in words, what a
row is to be answered with, or None if that is missing."""


def sources(dataset: TextTable) -> tuple[str, ...]:
    """The URIs of the files. Raises what `find_files` does."""
    return tuple(file.uri for file in _files(dataset))


def _files(dataset: TextTable) -> tuple[SourceFile, ...]:
    return find_files(dataset, lambda name: format_of(name, dataset.format, SUFFIX_FORMATS) is not None)


# --- reading -----------------------------------------------------------------------------------------


def read_table(dataset: TextTable, targets: Targets) -> pd.DataFrame:
    """Every row of every file.

    Columns: `text` (None if missing), those of `targets`, `fault` (the first encoding fault in words, or
    None), `split` (of the file), `place` (file and line) and `row` (position in the split's files, from 0);
    `time` as it was found, if the manifest names its column. Texts and labels are valid Unicode: invalid
    characters are replaced by U+FFFD.

    Raises:
        DataError: A file is missing, empty, altered (sha256), malformed or without a column; the faults of
            all files together.
        UsageError: The manifest asks for what cannot be read.
    """
    contents = {file: storage.read_bytes(file.uri) for file in _files(dataset)}
    verify(dataset, contents)
    frames: list[pd.DataFrame] = []
    faults: list[str] = []
    for file, data in contents.items():
        try:
            read = partial(
                parse,
                data,
                file.name,
                dataset.format,
                encoding=dataset.encoding,
                partition=file.partition,
                max_expansion=dataset.max_expansion,
            )
            records = read_joined(dataset, read)
            before = sum(len(frame) for frame in frames if frame["split"].iat[0] == file.split)
            frames.append(_frame(records, file, targets, before, dataset.columns.key("text")))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return pd.concat(frames, ignore_index=True)


def _frame(records: Records, file: SourceFile, targets: Targets, before: int, key: str) -> pd.DataFrame:
    """The file's rows; `before` are in earlier files of its split, `key` is that of the text column."""
    texts = [
        _text(value, f"{file.name} {place}", key)
        for value, place in zip(records.texts, records.places, strict=True)
    ]
    columns = dict(targets(records.labels))
    labels: Sequence[str | None] = columns.pop("label")
    faults = [_row_fault(text, label) for text, label in zip(texts, labels, strict=True)]
    times = {} if records.times is None else {"time": pd.Series(list(records.times), dtype="object")}
    return pd.DataFrame(
        {
            **times,
            "text": pd.Series([text and repair(text) for text in texts], dtype="str"),
            "label": pd.Series([label and repair(label) for label in labels], dtype="str"),
            **{name: pd.Series(list(values)) for name, values in columns.items()},
            "fault": pd.Series(faults, dtype="str"),
            "split": file.split,
            "place": [f"{file.name} {place}" for place in records.places],
            "row": range(before, before + len(texts)),
        }
    )


def _text(value: Any, place: str, key: str) -> str | None:
    if is_missing(value):
        return None
    if not isinstance(value, str):
        raise DataError(
            f"{place}: found {excerpt(str(value))} ({type(value).__name__}) in the text column, "
            f"expected a string. Set {key} to the column that holds the text"
        )
    return None if is_blank(value) else value


def is_missing(value: Any) -> bool:
    """Whether a file has no value there: None, or NaN as parquet has it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _row_fault(text: str | None, label: str | None) -> str | None:
    return (text and find_fault(text)) or (label and find_fault(label)) or None


# --- checks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ValueCheck:
    """A check on one value of each row.

    Attributes:
        fails: Whether each row of the table fails it.
        describe: In words, what is wrong with a row, given as a named tuple.
        unusable: Whether failing rows leave the splits whatever the severity, because they cannot be written.
        column: The column whose value is at fault; None if it is the text.
        summary: Lines about the values of `column` in the failing rows, shown before single rows.
    """

    fails: pd.Series[bool]
    describe: Callable[[Any], str]
    unusable: bool = False
    column: str | None = None
    summary: Callable[[pd.Series[Any]], Sequence[str]] | None = None

    def find(self, rows: pd.DataFrame) -> Finding:
        """The rows that fail, of those that earlier checks left."""
        affected = rows.index.intersection(self.fails.index[self.fails])
        shown = rows.loc[affected[:SHOWN_EXAMPLES]].itertuples()
        examples = [f"{row.place}: {self.describe(row)}" for row in shown]
        if self.summary is not None and self.column is not None and len(affected):
            examples = [*self.summary(rows.loc[affected, self.column]), *examples]
        return Finding(affected, affected, examples, self.column, self._reasons)

    def _reasons(self, table: pd.DataFrame, rows: pd.Index[int]) -> Sequence[str]:
        return [self.describe(row) for row in table.loc[rows].itertuples()]


def check_texts(
    table: pd.DataFrame,
    dataset: TextTable,
    of_targets: Mapping[str, ValueCheck],
    conflicts: tuple[str, Callable[[pd.DataFrame], Finding]],
    least: int,
) -> CheckedTable:
    """Run the checks on texts and targets, whatever the ones before found, and carve the missing splits.

    Splits that no file provides are carved after the checks within a split and before the one across splits,
    so that the rows that `drop` removes are gone by then.

    Args:
        table: As `read_table` returns it.
        dataset: The manifest's section; its `checks` has a rule for each check.
        of_targets: The kind's checks on single targets, by name.
        conflicts: The name of the check on equal texts with different targets, and what finds them.
        least: See `carve`.
    """
    checks = dataset.checks
    missing = tuple(split for split in SPLITS if split not in set(table["split"]))
    checked = CheckedTable(table, len(table))
    before, after = _checks_before(table, dataset), _checks_after(table, dataset)
    for name, check in {**before, **of_targets, **after}.items():
        checked.check(name, getattr(checks, name), check.find, unusable=check.unusable)
    check_tokens(checked, dataset)
    rows = checked.rows.assign(
        key=[normalise(text) for text in checked.rows["text"]],
        shown=[excerpt(text) for text in checked.rows["text"]],
    )
    numbers, distinct = pd.factorize(rows["key"])
    rows = with_times(rows, dataset.uri) if missing else rows
    near, leaking = checks.near_duplicates.similarity, checks.leakage.similarity
    likeness = TextLikeness(distinct.tolist(), min(near, leaking))
    checked.rows = with_groups(rows.assign(number=numbers), likeness, leaking)
    checked.groups = dict(zip(rows["key"], checked.rows["group"], strict=True))
    name, find_conflicts = conflicts
    checked.check(name, getattr(checks, name), find_conflicts)
    checked.check("exact_duplicates", checks.exact_duplicates, find_exact)
    checked.check("near_duplicates", checks.near_duplicates, lambda left: find_near(left, likeness, near))
    fractions = {split: getattr(dataset.split, split) for split in SPLITS}
    checked.rows = carve(checked.rows, missing, fractions, least, dataset.split.key)
    checked.check("leakage", checks.leakage, lambda left: find_leaks(left, likeness, leaking))
    return checked


def _checks_before(table: pd.DataFrame, dataset: TextTable) -> dict[str, ValueCheck]:
    """A row counts only in the first check that removes it, so missing values come before the targets."""
    missing = table["text"].isna() | table["label"].isna()
    return {
        "encoding": ValueCheck(table["fault"].notna(), lambda row: str(row.fault)),
        # A row without a text or a target cannot be written; the severity says what else happens.
        "empty_values": ValueCheck(missing, partial(_what_is_missing, dataset.columns.keys), unusable=True),
    }


def _checks_after(table: pd.DataFrame, dataset: TextTable) -> dict[str, ValueCheck]:
    text, bounds = table["text"], dataset.checks.text_length
    fails = text.notna() & ~text.str.len().between(bounds.min_chars, bounds.max_chars)
    return {
        "text_length": ValueCheck(fails, lambda row: f"{len(row.text):,} characters: {excerpt(row.text)}")
    }


def _what_is_missing(keys: Mapping[str, str], row: Any) -> str:
    missing = [keys.get(field, field) for field in ("text", "label") if pd.isna(getattr(row, field))]
    return f"no {' and no '.join(missing)}" + ("" if pd.isna(row.text) else f" for {excerpt(row.text)}")


# --- tokens ------------------------------------------------------------------------------------------


def check_tokens(checked: CheckedTable, dataset: TextTable) -> None:
    """Run `unknown_tokens` and `context_length`, if the dataset names an encoder.

    Raises:
        UsageError: The encoder cannot be found or read, or reads fewer tokens than `dataset.max_tokens`.
    """
    name, most = dataset.tokenizer, dataset.max_tokens
    if name is None or most is None:
        return
    files = find_encoder(name, READING_FILES)
    require_positions(files, name, most)
    checked.rows = checked.rows.join(count_tokens(checked.rows["text"], files.tokenizer))
    checks = dataset.checks
    rule = checks.unknown_tokens
    before = checked.rows
    checked.check("unknown_tokens", rule, lambda rows: find_unknown(rows, rule, name))
    kept = before if rule.severity != "drop" else checked.rows
    checked.results.append(_with_share(checked.results.pop(), kept, rule))
    positions = files.positions
    checked.check("context_length", checks.context_length, lambda rows: find_cut(rows, most, positions))


def count_tokens(texts: pd.Series[str], path: Path) -> pd.DataFrame:
    """For each text, by its index: `tokens`, including those that frame a text, and the `unknown` among them.

    Raises:
        UsageError: The file is not a tokenizer.
    """
    tokenizer = open_pretrained(path, "training.encoder").tokenizer
    framing = tokenizer.num_special_tokens_to_add(is_pair=False)
    unknown = _unknown_id(tokenizer, path)
    counts: list[tuple[int, int]] = []
    for start in range(0, len(texts), COUNTED_AT_ONCE):
        chunk = texts.iloc[start : start + COUNTED_AT_ONCE].tolist()
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            ids = encoding.ids
            counts.append((len(ids) + framing, 0 if unknown is None else ids.count(unknown)))
    columns = pd.Index(["tokens", "unknown"])
    return pd.DataFrame(counts, index=texts.index, columns=columns, dtype="int64").assign(framing=framing)


def find_unknown(rows: pd.DataFrame, rule: UnknownTokensCheck, encoder: str) -> Finding:
    """Rows in which the share of unknown tokens is too high."""
    own = (rows["tokens"] - rows["framing"]).clip(lower=1)
    shares = rows["unknown"] / own
    affected = rows.index[shares > rule.max_row_share]
    examples = [
        f"{place}: {percent(share)} of {tokens} tokens unknown: {excerpt(text)}"
        for place, share, tokens, text in zip(
            *(column.loc[affected[:SHOWN_EXAMPLES]] for column in (rows["place"], shares, own, rows["text"])),
            strict=True,
        )
    ]
    if rows["unknown"].any():
        examples.insert(0, f"{percent(_share(rows))} of all tokens are unknown to {encoder}")
    known = zip(affected, shares[affected].tolist(), own[affected].tolist(), strict=True)
    words = {row: f"{percent(share)} of {tokens:,} tokens unknown" for row, share, tokens in known}
    return Finding(affected, outside_test(rows, affected), examples, reasons=_worded(words))


def find_cut(rows: pd.DataFrame, most: int, positions: int | None) -> Finding:
    """Rows with more than `most` tokens; the encoder itself could read `positions`."""
    lost = (rows["tokens"] - most).clip(lower=0)
    affected = rows.index[lost > 0]
    if affected.empty:
        return Finding(affected, affected, ())
    share = lost.sum() / (rows["tokens"] - rows["framing"]).sum()
    number = f"{len(affected):,} {'text is' if len(affected) == 1 else 'texts are'}"
    reads = "any number" if positions is None else f"up to {positions:,}"
    examples = [
        f"{number} cut at {most} tokens (training.max_length; the encoder reads {reads}): "
        f"{percent(share)} of all tokens are never read, and the longest text has {rows['tokens'].max():,}"
    ]
    shown = affected[:SHOWN_EXAMPLES]
    places, tokens, texts = (rows.loc[shown, name].tolist() for name in ("place", "tokens", "text"))
    examples += [
        f"{place}: {count:,} tokens: {excerpt(text)}"
        for place, count, text in zip(places, tokens, texts, strict=True)
    ]
    words = {row: f"{count:,} tokens" for row, count in rows.loc[affected, "tokens"].items()}
    return Finding(affected, outside_test(rows, affected), examples, reasons=_worded(words))


def _worded(words: Mapping[int, str]) -> Reasons:
    return lambda _, rows: [words[row] for row in rows.tolist()]


def _with_share(
    result: contract.CheckResult, rows: pd.DataFrame, rule: UnknownTokensCheck
) -> contract.CheckResult:
    """The result, judged also by the bound on the share of all rows' tokens."""
    share = _share(rows)
    if share <= rule.max_share:
        return result
    failed = rule.severity != "warn"
    key = "dataset.checks.unknown_tokens.max_share"
    bound = math.ceil(share * BOUND_STEPS) / BOUND_STEPS
    return result.model_copy(
        update={
            "verdict": "fail" if failed else "warn",
            "found": f"{percent(share)} of all tokens unknown",
            "expected": f"at most {percent(rule.max_share)}: "
            "an encoder that knows the language (training.encoder)",
            "bound": rule.max_share,
            "key": key,
            "settings": {**result.settings, key: bound} if failed else {},
        }
    )


def _share(rows: pd.DataFrame) -> float:
    return float(rows["unknown"].sum() / max(1, (rows["tokens"] - rows["framing"]).sum()))


def _unknown_id(tokenizer: Tokenizer, path: Path) -> int | None:
    """The id of the unknown token; None for a tokenizer that knows every byte."""
    model = json.loads(path.read_bytes())["model"]
    if (number := model.get("unk_id")) is not None:
        return int(number)
    token = model.get("unk_token")
    return None if token is None else tokenizer.token_to_id(token)


# --- statistics --------------------------------------------------------------------------------------


class LengthStatistics(Document):
    """Characters per text of one split.

    Attributes:
        count: Texts. The figures after it are absent if there are none.
        edges: Lower bounds of the bins; a bin ends below the next edge, and the last one has no end.
        counts: Texts in each bin.
    """

    count: int
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    mean: float | None = None
    p5: float | None = None
    p50: float | None = None
    p95: float | None = None
    max: int | None = None


class TextStatistics(contract.Statistics):
    """What `statistics.json` has for every dataset of texts.

    Attributes:
        words: All words of the training texts, in normal form (`words_of`).
        top_words: The 200 most frequent of them with their counts, most frequent first.
    """

    text_length: Mapping[str, LengthStatistics]
    words: int
    top_words: Mapping[str, int]


class LabelledTextStatistics(TextStatistics, contract.ClassStatistics):
    """What `statistics.json` has for texts with labels."""


def describe_texts(table: pd.DataFrame) -> dict[str, Any]:
    """`rows` and the fields of `TextStatistics`, of a table of `text`, `key` (normal form) and `split`."""
    by_split = {split: table[table["split"] == split] for split in SPLITS}
    words = Counter(word for key in by_split["train"]["key"] for word in words_of(key))
    frequent = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:TOP_WORDS]
    return {
        "rows": {split: len(rows) for split, rows in by_split.items()},
        "text_length": {split: describe_lengths(rows["text"].tolist()) for split, rows in by_split.items()},
        "words": sum(words.values()),
        "top_words": dict(frequent),
    }


def describe_lengths(texts: Sequence[str]) -> LengthStatistics:
    """Mean, percentiles (linear interpolation) and histogram of the texts' lengths."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    counts, _ = np.histogram(lengths, bins=[*LENGTH_EDGES, np.inf])
    histogram = tuple(int(count) for count in counts)
    if not texts:
        return LengthStatistics(count=0, edges=LENGTH_EDGES, counts=histogram)
    p5, p50, p95 = (float(value) for value in np.percentile(lengths, (5, 50, 95)))
    return LengthStatistics(
        count=len(texts),
        edges=LENGTH_EDGES,
        counts=histogram,
        mean=float(lengths.mean()),
        p5=p5,
        p50=p50,
        p95=p95,
        max=int(lengths.max()),
    )
