"""Datasets of texts: read the table, check it, make its splits, and describe their texts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
from tokenizers import Tokenizer

from gauntlet.components.training_rows import HashedGroups
from gauntlet.components.validate_data.carving import Hashes, carve_rows, named_by
from gauntlet.components.validate_data.checks import (
    BOUND_STEPS,
    SHOWN_EXAMPLES,
    Alike,
    CheckedTable,
    Finding,
    Reasons,
    json_line,
    percent,
)
from gauntlet.components.validate_data.classes import each_label
from gauntlet.components.validate_data.columns import as_json
from gauntlet.components.validate_data.duplicates import (
    Doubles,
    Flags,
    Likeness,
    Numbers,
    conflicting_rows,
    equal_rows,
    leaking_rows,
    like,
    most_alike,
    near_rows,
    outside_test,
    pair_in_words,
    positions_in,
    split_codes,
    with_one_key,
)
from gauntlet.components.validate_data.memory import release_memory
from gauntlet.components.validate_data.text import excerpt
from gauntlet.contracts import data as contract
from gauntlet.contracts.document import Document
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.texts.encoder_files import READING_FILES, find_encoder, require_positions
from gauntlet.tasks.texts.files import (
    SourceFile,
    find_sources,
    format_of,
    require_rows,
    source_uris,
    verified,
)
from gauntlet.tasks.texts.manifest import TextTable, UnknownTokensCheck
from gauntlet.tasks.texts.pieces import readers
from gauntlet.tasks.texts.records import SUFFIX_FORMATS
from gauntlet.tasks.texts.rows import SPLIT, Keys, RowsCollector, Shelf, Targets, TextRows, number_keys
from gauntlet.tasks.texts.similarity import TextLikeness
from gauntlet.tasks.texts.threads import in_order
from gauntlet.tasks.texts.times import parse_times
from gauntlet.tasks.texts.vocabulary import open_pretrained
from gauntlet.tasks.texts.words import NumberedWords, Words, all_words

# Fixed, so that histograms of different data can be compared bin by bin. Characters.
LENGTH_EDGES = (0, 20, 40, 60, 80, 100, 125, 150, 200, 250, 300, 400, 500, 750, 1000, 2000)
TOP_WORDS = 200
REMEMBERED = 500_000  # words whose tokens are known
NOT_COUNTED = -1
COUNTED_AT_ONCE = 1_000  # texts at once: the tokens of all texts would need too much memory

Counts: TypeAlias = npt.NDArray[np.int32]
"""Tokens and unknown tokens of some texts or words, (2, N)."""

SPLITTING = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
CHARACTERWISE = ("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents")
"""Kinds of pre-tokenizers that split at every space, and of normalisers that do not look beyond one."""


def sources(dataset: TextTable) -> tuple[str, ...]:
    """The URIs of the files. Raises what `find_sources` does."""
    return source_uris(_files(dataset))


def _files(dataset: TextTable) -> tuple[SourceFile, ...]:
    return find_sources(dataset, lambda name: format_of(name, dataset.format, SUFFIX_FORMATS) is not None)


# --- reading -----------------------------------------------------------------------------------------


def read_table(dataset: TextTable, targets: Targets) -> TextRows:
    """Every row of every file.

    Raises:
        DataError: A file is missing, empty, altered (sha256), malformed or without a column; the faults of
            all files together.
        UsageError: The manifest asks for what cannot be read.
    """
    found = RowsCollector(targets, dataset.columns.key("label"))
    faults: list[str] = []
    with verified(dataset, _files(dataset)) as files:
        for file in files:
            try:
                found.add(file, readers(dataset, file))
            except DataError as error:
                faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    require_rows(dataset, found.empty_splits())
    return found.rows()


# --- checks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ValueCheck:
    """A check on one value of each row.

    Attributes:
        fails: Whether each row of the table fails it, by its number.
        describe: In words, what is wrong with a row, given as a named tuple.
        unusable: Whether failing rows leave the splits whatever the severity, because they cannot be written.
        column: The column whose value is at fault; None if it is the text.
        summary: Lines about the values of `column` in the failing rows, shown before single rows.
    """

    fails: Flags
    describe: Callable[[Any], str]
    unusable: bool = False
    column: str | None = None
    summary: Callable[[pd.Series[Any]], Sequence[str]] | None = None

    def find(self, rows: pd.DataFrame, table: TextRows | pd.DataFrame) -> Finding:
        """The rows that fail, of those that earlier checks left; `table` has all columns of all rows."""
        affected = rows.index[self.fails[rows.index]]
        examples = self._reasons(table, affected[:SHOWN_EXAMPLES], placed=True)
        if self.summary is not None and self.column is not None and len(affected):
            places = positions_in(rows.index, affected)
            examples = [*self.summary(rows[self.column].iloc[places]), *examples]
        return Finding(affected, affected, examples, self.column, self._reasons)

    def _reasons(self, table: Any, rows: pd.Index[int], placed: bool = False) -> list[str]:
        some = table.loc[rows].itertuples()
        return [f"{row.place}: {self.describe(row)}" if placed else self.describe(row) for row in some]


@dataclass
class CheckedTexts(CheckedTable):
    """A `CheckedTable` of texts.

    `rows` have the columns in memory, the `number` of their key and its `group`, the number of the key that
    names it.
    """

    table: TextRows = field(kw_only=True)
    keys: Keys = field(init=False)


def check_texts(
    table: TextRows,
    dataset: TextTable,
    of_targets: Mapping[str, ValueCheck],
    conflicts: tuple[str, Callable[[TextFindings, pd.DataFrame], Finding]],
    least: int,
) -> CheckedTexts:
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
    missing = tuple(split for split in SPLITS if not (table.small["split"] == split).any())
    checked = CheckedTexts(table.small, len(table), table=table)
    before, after = _checks_before(table.small, dataset), _checks_after(table.small, dataset)
    for name, check in {**before, **of_targets, **after}.items():
        checked.check(name, getattr(checks, name), partial(check.find, table=table), unusable=check.unusable)
    check_tokens(checked, table, dataset)
    rows = checked.rows.assign(label=checked.rows["label"].cat.remove_unused_categories())
    if missing and "time" in rows:
        times = parse_times(rows["time"].tolist(), table.places(rows.index), dataset.uri)
        rows = rows.assign(time=times)
    release_memory()
    checked.keys = keys = number_keys(table, rows.index)
    near, leaking = checks.near_duplicates.similarity, checks.leakage.similarity
    release_memory()
    likeness = TextLikeness(keys.distinct, min(near, leaking))
    release_memory()
    hashes = keys.hashes()
    names = named_by(likeness.groups(leaking), hashes)
    checked.groups = HashedGroups(hashes, names)
    checked.rows = rows.assign(number=keys.numbers, group=names[keys.numbers])
    found = TextFindings(table)
    name, find_conflicts = conflicts
    checked.check(name, getattr(checks, name), lambda left: find_conflicts(found, left))
    checked.check("exact_duplicates", checks.exact_duplicates, found.exact)
    checked.check("near_duplicates", checks.near_duplicates, lambda left: found.near(left, likeness, near))
    checked.rows = _carved(checked.rows, hashes, missing, dataset, least)
    checked.check("leakage", checks.leakage, lambda left: found.leaks(left, likeness, leaking))
    return checked


def _checks_before(table: pd.DataFrame, dataset: TextTable) -> dict[str, ValueCheck]:
    """A row counts only in the first check that removes it, so missing values come before the targets."""
    missing = ~table["has_text"] | table["label"].isna()
    return {
        "encoding": ValueCheck(table["faulty"].to_numpy(), lambda row: str(row.fault)),
        # A row without a text or a target cannot be written; the severity says what else happens.
        "empty_values": ValueCheck(
            missing.to_numpy(), partial(_what_is_missing, dataset.columns.keys), unusable=True
        ),
    }


def _checks_after(table: pd.DataFrame, dataset: TextTable) -> dict[str, ValueCheck]:
    bounds = dataset.checks.text_length
    fails = table["has_text"] & ~table["length"].between(bounds.min_chars, bounds.max_chars)
    return {
        "text_length": ValueCheck(
            fails.to_numpy(), lambda row: f"{len(row.text):,} characters: {excerpt(row.text)}"
        )
    }


def _carved(
    rows: pd.DataFrame, hashes: Hashes, missing: Sequence[SplitName], dataset: TextTable, least: int
) -> pd.DataFrame:
    """The rows with the splits that no file provides."""
    labels: Numbers
    positions: Numbers
    if "labels" in rows:
        labelled = each_label(rows[["label", "labels"]].reset_index(drop=True))
        labels, positions = pd.factorize(labelled["label"], sort=True)[0], labelled.index.to_numpy()
    else:
        found = rows["label"].cat
        ranks = found.categories.argsort().argsort().astype(np.int32)
        labels, positions = ranks[found.codes], np.arange(len(rows), dtype=np.int32)
    codes = carve_rows(
        split_codes(rows),
        rows["group"].to_numpy(),
        hashes,
        labels,
        positions,
        missing,
        {split: getattr(dataset.split, split) for split in SPLITS},
        least,
        dataset.split.key,
        rarest_first="labels" in rows,
        times=rows["time"].to_numpy(np.float64) if "time" in rows and missing else None,
    )
    return rows.assign(split=pd.Categorical.from_codes(codes, dtype=SPLIT))


def _what_is_missing(keys: Mapping[str, str], row: Any) -> str:
    missing = [keys.get(field, field) for field in ("text", "label") if pd.isna(getattr(row, field))]
    return f"no {' and no '.join(missing)}" + ("" if pd.isna(row.text) else f" for {excerpt(row.text)}")


@dataclass(frozen=True)
class TextFindings:
    """The checks on pairs of rows, as in `duplicates.py`, of rows that have the `number` of their key."""

    table: TextRows

    def conflicts(self, rows: pd.DataFrame) -> Finding:
        """Rows whose text also has another label, in any split. None of these labels can be trusted."""
        conflicting = conflicting_rows(rows["number"].to_numpy(), rows["label"].cat.codes.to_numpy())
        found = rows[["number", "label"]][conflicting]

        def reasons(_: Any, some: pd.Index[int]) -> list[str]:
            numbers = found.loc[some, "number"]
            labels = found[found["number"].isin(numbers)].groupby("number")["label"].unique()
            words = {key: f"labelled {', '.join(of_key[:SHOWN_EXAMPLES])}" for key, of_key in labels.items()}
            return [words[key] for key in numbers.tolist()]

        return self.conflicting(rows, found.index, lambda row: str(row.label), reasons)

    def conflicting(
        self,
        rows: pd.DataFrame,
        affected: pd.Index[int],
        given: Callable[[Any], str],
        reasons: Reasons,
        column: str | None = None,
    ) -> Finding:
        """What was found of rows with an equal key; `given` is the target of a row in words."""
        numbers = rows["number"].iloc[positions_in(rows.index, affected)]
        examples, alike = [], []
        for one in with_one_key(affected, numbers.to_numpy()):
            shown = self._shown(rows, pd.Index(one.rows))
            labels = tuple(given(row) for row in shown.itertuples())
            targets = ", ".join(
                f"{label} ({place})" for label, place in zip(labels, shown["place"], strict=True)
            )
            examples.append(f"{shown['shown'].iat[0]}: {targets}")
            alike.append(replace(one, labels=labels))
        return Finding(
            affected,
            outside_test(rows, affected),
            examples[:SHOWN_EXAMPLES],
            column,
            reasons,
            alike=tuple(alike),
        )

    def _shown(self, rows: pd.DataFrame, some: pd.Index[int]) -> pd.DataFrame:
        """Some of the rows that are left, each in its split, with an excerpt of the text and the key."""
        shown = self.table.read(some)
        left = rows[["split", "label", "number"]].iloc[positions_in(rows.index, some)]
        return shown.assign(
            split=left["split"],
            label=left["label"],
            key=left["number"],
            shown=[excerpt(text) for text in shown["text"]],
        )

    def exact(self, rows: pd.DataFrame) -> Finding:
        """Rows with the key and the label of an earlier row of their split."""
        splits, numbers = split_codes(rows), rows["number"].to_numpy()
        doubles = equal_rows(splits, numbers, rows["label"].cat.codes.to_numpy())
        examples = []
        for at in doubles.rows[:SHOWN_EXAMPLES].tolist():
            same = (splits == splits[at]) & (numbers == numbers[at])
            shown = self._shown(rows, rows.index[same][:SHOWN_EXAMPLES])
            examples.append(f"{shown['shown'].iat[0]}: {', '.join(shown['place'])}")
        return self._doubles(rows, doubles, list(dict.fromkeys(examples)))

    def near(self, rows: pd.DataFrame, likeness: Likeness, similarity: float) -> Finding:
        """Rows that are near-duplicates of an earlier row of their split that is itself kept."""
        return self._alike(
            rows, near_rows(split_codes(rows), rows["number"].to_numpy(), likeness, similarity)
        )

    def leaks(self, rows: pd.DataFrame, likeness: Likeness, similarity: float) -> Finding:
        """Training rows similar to validation or test rows, and validation rows similar to test rows."""
        return self._alike(
            rows, leaking_rows(split_codes(rows), rows["number"].to_numpy(), likeness, similarity)
        )

    def _alike(self, rows: pd.DataFrame, doubles: Doubles) -> Finding:
        first = slice(0, SHOWN_EXAMPLES)
        pairs = rows.index[doubles.rows[first]], rows.index[doubles.others[first]]
        shown = self._shown(rows, pairs[0].append(pairs[1]).unique())
        found = zip(*(pair.tolist() for pair in pairs), doubles.similarities[first].tolist(), strict=True)
        examples = [pair_in_words(shown, *pair) for pair in found]
        return self._doubles(rows, doubles, examples, most_alike(rows.index, doubles))

    def _doubles(
        self, rows: pd.DataFrame, doubles: Doubles, examples: Sequence[str], alike: tuple[Alike, ...] = ()
    ) -> Finding:
        affected, others = rows.index[doubles.rows], rows.index[doubles.others]

        def reasons(_: Any, some: pd.Index[int]) -> Sequence[str]:
            at = affected.get_indexer(some)
            like_these = others[at]
            places = pd.DataFrame({"place": self.table.places(like_these)}, index=like_these)
            pairs = zip(like_these.tolist(), doubles.similarities[at].tolist(), strict=True)
            return like(
                dict(zip(some.tolist(), pairs, strict=True)), places[~places.index.duplicated()], some
            )

        return Finding(affected, outside_test(rows, affected), examples, reasons=reasons, alike=alike)


# --- tokens ------------------------------------------------------------------------------------------


def check_tokens(checked: CheckedTable, table: TextRows, dataset: TextTable) -> None:
    """Run `unknown_tokens` and `context_length`, if the dataset names an encoder.

    Raises:
        UsageError: The encoder cannot be found or read, or reads fewer tokens than `dataset.max_tokens`.
    """
    name, most = dataset.tokenizer, dataset.max_tokens
    if name is None or most is None:
        return
    files = find_encoder(name, READING_FILES)
    require_positions(files, name, most)
    counter = TokenCounter(files.tokenizer)
    rows = checked.rows.index
    pieces = table.shelf.pieces_of(rows.to_numpy())
    counts = in_order(lambda piece: counter.count(piece[1]["text"]), pieces)
    tokens, unknown = np.concatenate([np.zeros((2, 0), dtype=np.int32), *counts], axis=1)
    checked.rows = checked.rows.assign(tokens=tokens, unknown=unknown)
    checks, framing = dataset.checks, counter.framing
    rule = checks.unknown_tokens
    before = checked.rows
    checked.check(
        "unknown_tokens", rule, lambda rows: find_unknown(rows, table, framing, rule.max_row_share, name)
    )
    kept = before if rule.severity != "drop" else checked.rows
    checked.results.append(_with_share(checked.results.pop(), kept, framing, rule))
    checked.check(
        "context_length",
        checks.context_length,
        lambda rows: find_cut(rows, table, framing, most, files.positions),
    )
    checked.rows = checked.rows.drop(columns=["tokens", "unknown"])


class TokenCounter:
    """Counts tokens as a tokenizer makes them of whole texts.

    If it makes the tokens of each word alone (`_splits_at_spaces`), it reads each different word once.
    """

    def __init__(self, path: Path) -> None:
        """Read the file of a tokenizer.

        Raises:
            UsageError: It is not one.
        """
        self._tokenizer = open_pretrained(path, "training.encoder").tokenizer
        content = json.loads(path.read_bytes())
        self._unknown = _unknown_id(self._tokenizer, content["model"])
        self._by_word = _splits_at_spaces(content)
        self._words = _CountedWords(self._count)
        self.framing = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        """The tokens that frame a text."""

    def count(self, texts: pl.Series) -> Counts:
        """The tokens of each text, with those that frame it, and the unknown ones among them, (2, N)."""
        if not self._by_word:
            counts = self._count(texts.to_list())
        else:
            if self._words.known > REMEMBERED:
                self._words = _CountedWords(self._count)
            counts = self._words.summed(texts)
        return counts + np.array([[self.framing], [0]], dtype=np.int32)

    def _count(self, texts: Sequence[str]) -> Counts:
        """Tokens and unknown tokens, without framing, (2, N)."""
        counts = np.zeros((2, len(texts)), dtype=np.int32)
        for start in range(0, len(texts), COUNTED_AT_ONCE):
            chunk = texts[start : start + COUNTED_AT_ONCE]
            encodings = self._tokenizer.encode_batch_fast(chunk, add_special_tokens=False)
            for at, encoding in enumerate(encodings, start):
                ids = encoding.ids
                counts[:, at] = len(ids), 0 if self._unknown is None else ids.count(self._unknown)
        return counts


class _CountedWords:
    """The counts of the tokens of words, each counted when it is first met."""

    def __init__(self, count: Callable[[Sequence[str]], Counts]) -> None:
        self._count = count
        self._numbered = NumberedWords()
        self._counts = np.zeros((2, 0), dtype=np.int32)
        self._lock = Lock()

    @property
    def known(self) -> int:
        return self._counts.shape[1]

    def summed(self, texts: pl.Series) -> Counts:
        """The counts of texts, each the sum of those of its words, (2, N)."""
        split = texts.str.split(" ")
        sizes, words = split.list.len().to_numpy().astype(np.int64), self._numbered.of(split.explode())
        with self._lock:
            counts = self._with(words)
        starts = np.cumsum(sizes) - sizes
        return np.add.reduceat(counts[:, words], starts, axis=1, dtype=np.int32)

    def _with(self, words: Words) -> Counts:
        """The counts by number, with those of these words; `NOT_COUNTED` for words that only others have."""
        added = max(0, int(words.max(initial=0)) + 1 - self.known)
        counts = np.pad(self._counts, ((0, 0), (0, added)), constant_values=NOT_COUNTED)
        new = np.unique(words[counts[0, words] == NOT_COUNTED])
        counts[:, new] = self._count(self._numbered.words(new).to_list())
        self._counts = counts
        return counts


def _splits_at_spaces(content: Any) -> bool:
    """Whether a tokenizer, the content of its file, makes the tokens of what spaces separate on its own.

    No part of BERT's normaliser looks beyond a space, nor do Unicode's normal forms, for a space combines
    with nothing.
    """

    def of_kind(part: Any, kinds: Collection[str]) -> bool:
        if part is None:
            return True
        if part["type"] == "Sequence":
            return all(of_kind(one, kinds) for one in part.get("normalizers", part.get("pretokenizers", [])))
        return part["type"] in kinds

    added = content.get("added_tokens") or []
    return (
        content["pre_tokenizer"] is not None
        and of_kind(content["pre_tokenizer"], SPLITTING)
        and of_kind(content["normalizer"], CHARACTERWISE)
        and not any(
            one["lstrip"] or one["rstrip"] or one["single_word"] or " " in one["content"] for one in added
        )
    )


def find_unknown(
    rows: pd.DataFrame, table: TextRows, framing: int, max_share: float, encoder: str
) -> Finding:
    """Rows in which the share of unknown tokens is too high."""
    own = (rows["tokens"] - framing).clip(lower=1)
    shares = rows["unknown"] / own
    affected = rows.index[shares > max_share]
    shown = affected[:SHOWN_EXAMPLES]
    some = table.read(shown)
    examples = [
        f"{place}: {percent(share)} of {tokens} tokens unknown: {excerpt(text)}"
        for place, share, tokens, text in zip(
            some["place"], shares[shown], own[shown], some["text"], strict=True
        )
    ]
    if rows["unknown"].any():
        examples.insert(0, f"{percent(_share(rows, framing))} of all tokens are unknown to {encoder}")
    shares, own = shares[affected], own[affected]

    def reasons(_: Any, some: pd.Index[int]) -> list[str]:
        known = zip(shares[some].tolist(), own[some].tolist(), strict=True)
        return [f"{percent(share)} of {tokens:,} tokens unknown" for share, tokens in known]

    return Finding(affected, outside_test(rows, affected), examples, reasons=reasons)


def find_cut(rows: pd.DataFrame, table: TextRows, framing: int, most: int, positions: int | None) -> Finding:
    """Rows with more than `most` tokens; the encoder itself could read `positions`."""
    tokens = rows["tokens"]
    affected = rows.index[tokens > most]
    if affected.empty:
        return Finding(affected, affected, ())
    share = (tokens - most).clip(lower=0).sum() / (tokens - framing).sum()
    number = f"{len(affected):,} {'text is' if len(affected) == 1 else 'texts are'}"
    reads = "any number" if positions is None else f"up to {positions:,}"
    examples = [
        f"{number} cut at {most} tokens (training.max_length; the encoder reads {reads}): "
        f"{percent(share)} of all tokens are never read, and the longest text has {tokens.max():,}"
    ]
    shown = affected[:SHOWN_EXAMPLES]
    some = table.read(shown)
    examples += [
        f"{place}: {count:,} tokens: {excerpt(text)}"
        for place, count, text in zip(some["place"], tokens[shown], some["text"], strict=True)
    ]
    cut = tokens[affected]
    return Finding(
        affected,
        outside_test(rows, affected),
        examples,
        reasons=lambda _, some: [f"{count:,} tokens" for count in cut[some].tolist()],
    )


def _with_share(
    result: contract.CheckResult, rows: pd.DataFrame, framing: int, rule: UnknownTokensCheck
) -> contract.CheckResult:
    """The result, judged also by the bound on the share of all rows' tokens."""
    share = _share(rows, framing)
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


def _share(rows: pd.DataFrame, framing: int) -> float:
    return float(rows["unknown"].sum() / max(1, (rows["tokens"] - framing).sum()))


def _unknown_id(tokenizer: Tokenizer, model: Any) -> int | None:
    """The id of the unknown token; None for a tokenizer that knows every byte."""
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
        words: All words of the training texts, in normal form (`all_words`).
        top_words: The 200 most frequent of them with their counts, most frequent first.
    """

    text_length: Mapping[str, LengthStatistics]
    words: int
    top_words: Mapping[str, int]


class LabelledTextStatistics(TextStatistics, contract.ClassStatistics):
    """What `statistics.json` has for texts with labels."""


def describe_texts(checked: CheckedTexts) -> dict[str, Any]:
    """`rows` and the fields of `TextStatistics`, of the rows that the checks left."""
    rows = checked.rows
    codes, lengths, numbers = split_codes(rows), rows["length"].to_numpy(), rows["number"].to_numpy()
    release_memory()
    words = count_words(checked.keys.distinct, numbers[codes == SPLITS.index("train")])
    release_memory()
    return {
        "rows": {split: int((codes == code).sum()) for code, split in enumerate(SPLITS)},
        "text_length": {split: describe_lengths(lengths[codes == code]) for code, split in enumerate(SPLITS)},
        "words": int(words["count"].sum()),
        "top_words": dict(words.sort("count", "word", descending=[True, False])[:TOP_WORDS].iter_rows()),
    }


def count_words(keys: Shelf, numbers: Numbers) -> pl.DataFrame:
    """Each `word` (`all_words`) of the keys of some rows, by the numbers of their keys, and its `count`."""
    weights = np.zeros(len(keys), dtype=np.int32)
    np.add.at(weights, numbers, 1)
    numbered = NumberedWords()
    counts = np.zeros(0)

    def counted(piece: tuple[int, pl.DataFrame]) -> npt.NDArray[np.float64]:
        start, table = piece
        of_keys = weights[start : start + len(table)]
        split = table["key"].filter(pl.Series(of_keys > 0)).str.split(" ")
        of_words = np.repeat(of_keys[of_keys > 0], split.list.len().to_numpy())
        return np.bincount(numbered.of(split.explode()), of_words).astype(np.float64)

    for of_piece in in_order(counted, keys.pieces()):
        fewer, counts = sorted((counts, of_piece), key=len)
        counts[: len(fewer)] += fewer
    found = np.flatnonzero(counts).astype(np.uint32)
    words = pl.DataFrame({"word": numbered.words(found), "count": counts[found].astype(np.int64)})
    at, units = all_words(words["word"])
    whole = pl.DataFrame({"word": units, "count": words["count"].to_numpy()[at]}).filter(pl.col("word") != "")
    return whole.group_by("word").agg(pl.col("count").sum())


def describe_lengths(lengths: Numbers) -> LengthStatistics:
    """Mean, percentiles (linear interpolation) and histogram of the lengths of texts (N,)."""
    counts, _ = np.histogram(lengths, bins=[*LENGTH_EDGES, np.inf])
    histogram = tuple(int(count) for count in counts)
    if not len(lengths):
        return LengthStatistics(count=0, edges=LENGTH_EDGES, counts=histogram)
    p5, p50, p95 = (float(value) for value in np.percentile(lengths, (5, 50, 95)))
    return LengthStatistics(
        count=len(lengths),
        edges=LENGTH_EDGES,
        counts=histogram,
        mean=float(lengths.mean()),
        p5=p5,
        p50=p50,
        p95=p95,
        max=int(lengths.max()),
    )


# --- splits ------------------------------------------------------------------------------------------


def split_pieces(checked: CheckedTexts, split: SplitName) -> Iterator[tuple[pl.Series, pd.DataFrame]]:
    """The texts of a split, piece by piece, and its rows in memory."""
    of_split = split_codes(checked.rows) == SPLITS.index(split)
    for places, piece in checked.table.shelf.pieces_of(checked.rows.index.to_numpy(), of_split):
        yield piece["text"], checked.rows.iloc[places]


def split_content(
    checked: CheckedTexts, split: SplitName, schema: pa.Schema, targets: Callable[[pd.DataFrame], pa.Array]
) -> pa.RecordBatchReader:
    """The rows of a split as they are written: `text`, target, and `row`, the place in the split's files."""

    def batches() -> Iterator[pa.RecordBatch]:
        for texts, rows in split_pieces(checked, split):
            columns = [
                texts.to_arrow().cast(schema.types[0]),
                targets(rows),
                checked.table.positions(rows.index),
            ]
            yield pa.record_batch(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def hash_splits(
    checked: CheckedTexts, head: bytes, lines: Callable[[pl.Series, pd.DataFrame], pl.Series]
) -> str:
    """Hash of `head`, and of the lines of each split: its name in JSON, and its rows in their order.

    `lines` makes the line of each row, given the texts in JSON and the rows.
    """
    digest = hashlib.sha256(head)
    for split in SPLITS:
        digest.update(json_line(split))
        for texts, rows in split_pieces(checked, split):
            digest.update(lines(as_json(texts), rows).str.join("").item().encode())
    return digest.hexdigest()
