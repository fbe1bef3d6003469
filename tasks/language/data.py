"""Datasets of conversations: read the files, check the answers, describe the splits. A row is one answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Any, Protocol

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from pydantic import SerializerFunctionWrapHandler, model_serializer

from gauntlet.backends import storage
from gauntlet.backends.memory import require_memory
from gauntlet.components.validate_data.carving import carve, with_groups
from gauntlet.components.validate_data.checks import (
    SHOWN_EXAMPLES,
    CheckedTable,
    Examination,
    Finding,
    json_line,
    origin,
)
from gauntlet.components.validate_data.columns import normalise_all
from gauntlet.components.validate_data.duplicates import find_exact, find_leaks, outside_test
from gauntlet.components.validate_data.packed import unpack
from gauntlet.components.validate_data.text import KEY_FORM, excerpt, find_fault, repair
from gauntlet.contracts import data as contracts
from gauntlet.contracts.data import CheckResult, CheckVerdict
from gauntlet.contracts.document import Document
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.manifests.errors import DataError
from gauntlet.manifests.where import holds
from gauntlet.tasks.language.manifest import ConversationDataset, UnusedColumnsCheck
from gauntlet.tasks.language.turns import (
    KNOWN_COLUMNS,
    MESSAGE_LISTS,
    Conversation,
    EmptyError,
    Example,
    RoleError,
    Turn,
    conversation_of,
    examples_of,
)
from gauntlet.tasks.texts.delimited import COMMA, names_of, split_rows, take_separator
from gauntlet.tasks.texts.files import (
    SourceFile,
    decode,
    find_sources,
    format_of,
    open_bigquery,
    read_objects,
    require_rows,
    source_uris,
    unknown_format,
    verified,
)
from gauntlet.tasks.texts.records import OPENED
from gauntlet.tasks.texts.similarity import TextLikeness
from gauntlet.tasks.texts.times import with_times

TOO_LARGE = "Conversations are held in memory: use fewer of them, or a machine with more memory"

SUFFIX_FORMATS = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
NOTED = ("empty", "unmarked", "unread_keys", "unread_columns", "fault")
COLUMNS = ("context", "answer", "response", "tools", "opening", *NOTED, "split", "place", "row")
SPLIT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("question", "asked", "response", "prompt", "target")]
    + [(name, pa.int64()) for name in ("conversation", "row")]
)
"""The last turn of the user and all turns of the user (`asked`), the answer, and both as they are rendered
(`prompt`, `target`).

Rows of one `conversation` answer the same opening, ignoring case and punctuation; `row` is the record.
"""

RENDERED_ROWS = 2_000  # at once

FEWEST_TESTED = 2
"""Conversations: the variance between conversations cannot be estimated from one."""

# Fixed, so that histograms of different data can be compared bin by bin. Tokens.
LENGTH_EDGES = (0, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)

Context = Sequence[Turn]
"""The turns before an answer."""


@dataclass(frozen=True)
class Rendered:
    """The prompt and the answer as the model sees them, and their tokens; `response` is as people read it."""

    prompt: str
    target: str
    prompt_tokens: int
    target_tokens: int
    response: str


class Renderer(Protocol):
    """Makes of a conversation what a model reads."""

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Tokens that no text may contain, because they mean something to the model."""

    def frame(self, system: str | None = None) -> tuple[str, str]:
        """The text before and after a single prompt, if `system` is the system message."""

    def unrendered(self, context: Context, answer: Turn, tools: str) -> str | None:
        """The parts about tools that the model would not see, in words, or None."""

    def render(
        self, contexts: Sequence[Context], answers: Sequence[Turn], tools: Sequence[str]
    ) -> list[Rendered]:
        """Each context with its answer."""


def examine_conversations(
    dataset: ConversationDataset, renderer: Renderer, resolution: Callable[[int], str]
) -> Examination:
    """Read and check a dataset. `resolution` describes what a number of test conversations can show.

    Raises:
        DataError: The data cannot be read, or no record of it can be used.
        UsageError: `dataset` asks for what cannot be read.
        GauntletError: The store that holds the data is unavailable.
    """
    table = read_table(dataset)
    checked = check_table(table, dataset, renderer)
    rows = checked.rows
    tested = int(rows.loc[rows["split"] == "test", "key"].nunique())
    return Examination(
        table=table,
        checked=checked,
        statistics=describe(rows, dataset, renderer.frame(shared_system(rows["context"].tolist()))),
        content=lambda split: _content(rows[rows["split"] == split]),
        fingerprints=KEY_FORM,
        resolution=resolution(tested),
        fault=_too_few(rows, tested, dataset.uri),
    )


def sources(dataset: ConversationDataset) -> tuple[str, ...]:
    """The URIs of the files. Raises what `find_sources` does."""
    return source_uris(_files(dataset))


def _files(dataset: ConversationDataset) -> tuple[SourceFile, ...]:
    return find_sources(dataset, lambda name: format_of(name, dataset.format, SUFFIX_FORMATS) is not None)


# --- reading -----------------------------------------------------------------------------------------


def read_table(dataset: ConversationDataset) -> pd.DataFrame:
    """Every answer of every file, and a row without an answer for each record that has a fault.

    Columns: `context` (a tuple of turns), `answer` (the turn that is learned), `response`, `tools`,
    `opening`; the faults `NOTED` in words or None; `split`, `place` (file and line), `row` (position of the
    record in its split); `time` if the manifest names its key. Invalid characters are replaced by U+FFFD.

    Raises:
        DataError: A file is missing, empty, altered (sha256) or malformed, the faults of all together; or
            none holds a conversation.
        UsageError: The manifest asks for what cannot be read.
    """
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    size = 0
    with verified(dataset, _files(dataset)) as files:
        for file in files:
            try:
                first = max((row["row"] + 1 for row in rows if row["split"] == file.split), default=0)
                if not file.is_table:
                    size += storage.size_of(file.uri)
                    require_memory(file.name, size, TOO_LARGE)
                content = b"" if file.is_table else storage.read_bytes(file.uri)
                rows += _rows(content, file, dataset, first)
            except DataError as error:
                faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    require_rows(dataset, {file.split for file in files} - {row["split"] for row in rows})
    if not rows:
        raise DataError(f"{dataset.uri}: found no conversations, expected at least one. Correct dataset.uri")
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"row": "int64"})
    if dataset.time_column is None:
        return table
    return table.assign(time=pd.Series([row["time"] for row in rows], dtype="object"))


def _rows(
    data: bytes, file: SourceFile, dataset: ConversationDataset, first: int
) -> Iterator[dict[str, Any]]:
    of_path = dict(file.partition)
    records = _kept(_records(data, file, dataset), of_path, file, dataset)
    for number, (place, record) in enumerate(records, first):
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= {"split": file.split, "place": repair(f"{file.name} {place}"), "row": number}
        if dataset.time_column is not None:
            row["time"] = of_path.get(dataset.time_column, record.get(dataset.time_column))
        try:
            said = {key: value for key, value in record.items() if key != dataset.time_column}
            conversation = conversation_of(said, dataset.text_columns, dataset.roles)
            examples = list(examples_of(conversation.turns))
        except EmptyError as error:
            yield row | {"empty": repair(str(error))}
        except RoleError as error:
            yield row | {"unmarked": repair(str(error))}
        else:
            yield from (row | columns for columns in _columns(examples, conversation))


def _kept(
    records: list[tuple[str, Mapping[str, Any]]],
    of_path: Mapping[str, str | None],
    file: SourceFile,
    dataset: ConversationDataset,
) -> list[tuple[str, Mapping[str, Any]]]:
    """The records for which `dataset.where` is true."""
    if dataset.where is None:
        return records
    names = {*of_path}.union(*(record.keys() for _, record in records))
    if absent := [column for column in dataset.where_columns if column not in names]:
        raise DataError(
            f"{file.name}: no key {' and '.join(absent)}: dataset.where names it, and the keys found are: "
            f"{', '.join(sorted(names))}"
        )
    columns = {
        column: [of_path.get(column, record.get(column)) for _, record in records]
        for column in dataset.where_columns
    }
    return list(compress(records, holds(dataset.where, columns, file.name)))


def _columns(examples: Sequence[Example], conversation: Conversation) -> Iterator[dict[str, Any]]:
    unread = ", ".join(conversation.unread_keys)
    of_all = {
        "tools": repair(conversation.tools),
        "unread_keys": repair(f"nothing reads {unread}") if unread else None,
        "unread_columns": tuple(map(repair, conversation.unread_columns)),
    }
    in_tools = find_fault(conversation.tools)
    turns = {id(turn): turn for one in examples for turn in (*one.context, one.answer)}  # examples share them
    repaired = {key: _repaired(turn) for key, turn in turns.items()}
    faults = {key: find_fault(turn.text) or find_fault(turn.calls) for key, turn in turns.items()}
    for example in examples:
        keys = [*map(id, example.context), id(example.answer)]
        fault = next(filter(None, map(faults.__getitem__, keys)), in_tools)
        yield of_all | {
            "context": tuple(repaired[key] for key in keys[:-1]),
            "answer": repaired[keys[-1]],
            "response": repair(example.response),
            "opening": repair(example.opening),
            "fault": fault and repair(fault),
        }


def _repaired(turn: Turn) -> Turn:
    text, calls = repair(turn.text), repair(turn.calls)
    return turn if (text, calls) == (turn.text, turn.calls) else replace(turn, text=text, calls=calls)


def _records(
    data: bytes, file: SourceFile, dataset: ConversationDataset
) -> list[tuple[str, Mapping[str, Any]]]:
    name = file.name
    if file.is_table:
        rows = open_bigquery(file, dataset)
        return _numbered(rows.read(list(rows.columns), dataset.max_cost_usd))
    data, inner = unpack(data, name, dataset.max_expansion)
    require_memory(name, len(data), TOO_LARGE)
    file_format = format_of(inner, dataset.format, SUFFIX_FORMATS)
    if file_format is None:
        raise unknown_format(name, inner, "csv, jsonl, json, parquet or arrow")
    if file_format in OPENED:
        return _of_columns(data, name, file_format)
    content = decode(data, name, dataset.encoding)
    if not content.strip():
        raise DataError(
            f"{name}: found an empty file, expected conversations. Add rows to it, or correct dataset.uri"
        )
    if file_format == "csv":
        return _csv(content, name, dataset)
    if file_format == "jsonl":
        objects, places = read_objects(content, name)
        return list(zip(places, objects, strict=True))
    return _json(content, name)


def _csv(content: str, name: str, dataset: ConversationDataset) -> list[tuple[str, Mapping[str, Any]]]:
    separator, content = take_separator(content, name)
    header, *rows = split_rows(content, separator or COMMA, name)
    names = names_of(header)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{name}: found the column {twice[0]} twice, expected it once. Rename one of them")
    wanted = KNOWN_COLUMNS if dataset.text_columns is None else (dataset.text_columns,)
    if not any({columns.prompt, columns.response} <= set(names) for columns in wanted):
        pairs = " or ".join(f"{columns.prompt} and {columns.response}" for columns in wanted)
        raise DataError(
            f"{name}: found the columns {', '.join(names)}, expected {pairs}. Set dataset.columns.prompt and "
            "dataset.columns.response"
        )
    return [(f"line {row.line}", dict(zip(names, row.fields, strict=True))) for row in rows]


def _json(content: str, name: str) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not JSON: {error}. Write it again") from None
    items = document
    if isinstance(document, Mapping):
        listed = document.get("conversations")
        is_record = any(
            isinstance(document.get(key), list) for key in MESSAGE_LISTS if key != "conversations"
        )
        is_record = is_record or (isinstance(listed, list) and any(map(_is_message, listed)))
        items = [document] if is_record else listed
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise DataError(
            f'{name}: expected {{"conversations": [{{"text": …}}, …]}}, or a list of objects. Write it so, '
            "or one object a line as .jsonl"
        )
    return [(f"conversation {number}", item) for number, item in enumerate(items, start=1)]


def _is_message(item: object) -> bool:
    return isinstance(item, Mapping) and bool({"from", "role"} & item.keys())


def _of_columns(data: bytes, name: str, form: str) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        schema, read = OPENED[form](data)
        return _numbered(read(schema.names))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: not a whole {form} file of valid text: {error}. Write it again") from None


def _numbered(table: pa.Table) -> list[tuple[str, Mapping[str, Any]]]:
    return [(f"row {number}", record) for number, record in enumerate(table.to_pylist())]


# --- checks ------------------------------------------------------------------------------------------


def check_table(table: pd.DataFrame, dataset: ConversationDataset, renderer: Renderer) -> CheckedTable:
    """Run every check and carve missing splits. Rows get `prompt`, `target` and their numbers of tokens."""
    checks = dataset.checks
    missing = tuple(split for split in SPLITS if split not in set(table["split"]))
    checked = CheckedTable(table, len(table))
    checked.check("empty_conversations", checks.empty_conversations, _noted("empty"), unusable=True)
    checked.check("role_markers", checks.role_markers, _noted("unmarked"), unusable=True)
    unread = checked.rows
    checked.check("message_keys", checks.message_keys, _noted("unread_keys"))
    if checked.rows.empty:
        told = table["empty"].fillna(table["unmarked"]).fillna(table["unread_keys"])
        raise DataError(
            f"{dataset.uri}: found {len(table)} records, but no answer in any of them, first "
            f"{table['place'].iloc[0]}: {told.iloc[0]}"
        )
    checked.check(
        "tool_messages", checks.tool_messages, lambda rows: find_unrendered(rows, renderer), unusable=True
    )
    checked.rows = _prepared(checked.rows, renderer)
    if missing:
        checked.rows = with_times(checked.rows, dataset.uri)
    checked.check("encoding", checks.encoding, _noted("fault"))
    tokens = renderer.special_tokens
    checked.check("special_tokens", checks.special_tokens, lambda rows: find_special(rows, tokens))
    most = dataset.max_tokens
    checked.check("context_length", checks.context_length, lambda rows: find_long(rows, most))
    checked.check("exact_duplicates", checks.exact_duplicates, find_exact)
    similarity = checks.leakage.similarity
    numbers, distinct = pd.factorize(checked.rows["key"])
    likeness = TextLikeness(distinct.tolist(), similarity)
    checked.rows = with_groups(checked.rows.assign(number=numbers), likeness, similarity)
    checked.rows = _carved(checked.rows, missing, dataset)
    checked.check("leakage", checks.leakage, lambda rows: find_leaks(rows, likeness, similarity))
    checked.results.append(check_unread_columns(unread, checks.unused_columns, len(table)))
    checked.groups = dict(zip(checked.rows["key"], checked.rows["group"], strict=True))
    return checked


def _carved(rows: pd.DataFrame, missing: Sequence[SplitName], dataset: ConversationDataset) -> pd.DataFrame:
    """The rows in their splits. Shares are of conversations, and each split has a few of them."""
    fractions = {split: getattr(dataset.split, split) for split in SPLITS}
    oldest_first = rows.sort_values("time", kind="stable") if "time" in rows else rows
    openings = oldest_first.drop_duplicates(["split", "key"]).assign(label="")  # there are no classes
    carved = carve(openings, missing, fractions, FEWEST_TESTED, dataset.split.key)
    split_of = dict(zip(zip(openings["split"], openings["key"], strict=True), carved["split"], strict=True))
    return rows.assign(split=[split_of[row] for row in zip(rows["split"], rows["key"], strict=True)])


def find_unrendered(rows: pd.DataFrame, renderer: Renderer) -> Finding:
    """Rows with tools that the model's chat template would leave out."""
    parts = zip(rows["context"], rows["answer"], rows["tools"], strict=True)
    return _finding(rows, pd.Series([renderer.unrendered(*part) for part in parts], rows.index, dtype=object))


def check_unread_columns(rows: pd.DataFrame, rule: UnusedColumnsCheck, rows_read: int) -> CheckResult:
    """Every column or key with text must be read, or be ignored by the manifest."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    affected = 0
    for place, columns in zip(rows["place"], rows["unread_columns"], strict=True):
        unread = [column for column in columns or () if column not in rule.ignore]
        affected += bool(unread)
        counts.update(unread)
        for column in unread:
            first.setdefault(column, place)
    key = "dataset.checks.unused_columns.ignore"
    verdict: CheckVerdict = rule.severity if counts else "pass"
    named = ", ".join(f"{column} in {count:,} rows" for column, count in counts.most_common())
    return CheckResult(
        check="unused_columns",
        severity=rule.severity,
        bound=0,
        rows_affected=affected,
        rows_dropped=0,
        fraction=affected / rows_read,
        verdict=verdict,
        found=repair(named) or "every column with text is read",
        expected="every column with text to be read (dataset.columns), or to be named under ignore",
        key=key,
        examples=tuple(
            repair(f"{column}: text in {counts[column]:,} rows that nothing reads, first {place}")
            for column, place in list(first.items())[:SHOWN_EXAMPLES]
        ),
        settings={key: [*rule.ignore, *map(repair, counts)]} if verdict == "fail" else {},
    )


def find_special(rows: pd.DataFrame, tokens: Sequence[str]) -> Finding:
    """Rows whose texts contain a token that has a meaning in the model's template."""
    any_token = re.compile("|".join(map(re.escape, tokens)) or "(?!)")
    words: dict[int, str] = {}
    for row, context, answer in zip(rows.index.tolist(), rows["context"], rows["answer"], strict=True):
        texts = [text for turn in (*context, answer) for text in (turn.text, turn.calls)]
        if any(map(any_token.search, texts)):
            words[row] = f"holds {next(token for token in tokens for text in texts if token in text)}"
    return _finding(rows, pd.Series(words, dtype=object))


def find_long(rows: pd.DataFrame, most: int) -> Finding:
    """Rows of more than `most` tokens, prompt and answer together."""
    lengths = rows["prompt_tokens"] + rows["target_tokens"]
    long = lengths[lengths > most]
    shown = zip(long.tolist(), rows.loc[long.index, "shown"], strict=True)
    words = [f"{length:,} tokens: {text}" for length, text in shown]
    return _finding(rows, pd.Series(words, long.index, dtype=object))


def _noted(column: str) -> Callable[[pd.DataFrame], Finding]:
    return lambda rows: _finding(rows, rows[column])


def _finding(rows: pd.DataFrame, words: pd.Series[Any]) -> Finding:
    """The rows with words about their fault; `words` are by row, and missing for rows without a fault."""
    words = words.dropna()
    places = rows.loc[words.index[:SHOWN_EXAMPLES], "place"]
    return Finding(
        words.index,
        outside_test(rows, words.index),
        [f"{place}: {fault}" for place, fault in zip(places, words, strict=False)],
        reasons=lambda _, some: [str(fault) for fault in words[some]],
    )


def _prepared(rows: pd.DataFrame, renderer: Renderer) -> pd.DataFrame:
    """The rows, rendered a few at a time, and with the columns that the checks on pairs compare."""
    pieces = [rows.iloc[start : start + RENDERED_ROWS] for start in range(0, len(rows), RENDERED_ROWS)]
    return pd.concat([_rendered(piece, renderer) for piece in pieces or [rows]])


def _rendered(rows: pd.DataFrame, renderer: Renderer) -> pd.DataFrame:
    rendered = renderer.render(rows["context"].tolist(), rows["answer"].tolist(), rows["tools"].tolist())
    return rows.assign(
        response=[one.response for one in rendered],
        prompt=[one.prompt for one in rendered],
        target=[one.target for one in rendered],
        prompt_tokens=[one.prompt_tokens for one in rendered],
        target_tokens=[one.target_tokens for one in rendered],
        key=normalised([str(text) for text in rows["opening"]]),
        shown=[excerpt(text) for text in rows["opening"]],
        label=normalised([one.prompt + one.target for one in rendered]),
    )


def normalised(texts: Sequence[str]) -> list[str]:
    """`normalise` of each text."""
    return normalise_all(pl.Series(texts, dtype=pl.String)).to_list()


def shared_system(contexts: Sequence[Context]) -> str | None:
    """What the system says at the start of all conversations, if it is the same in all."""
    first = {context[0] for context in contexts}
    shared = first.pop() if len(first) == 1 else None
    return shared.text if shared is not None and shared.role == "system" else None


# --- splits and their statistics ---------------------------------------------------------------------


class TokenStatistics(Document):
    """Tokens per row of one split, prompt and answer together.

    `counts` are rows in bins that begin at `edges`, `answers` tokens of all answers, `truncated` rows over
    `max_tokens`.
    """

    edges: tuple[int, ...]
    counts: tuple[int, ...]
    p50: float
    p95: float
    max: int
    answers: int
    truncated: int


class Statistics(contracts.Statistics):
    """The content of `statistics.json`; `sha256` is of rendered rows, `frame` is around a single prompt."""

    tokenizer: str
    max_tokens: int
    frame: tuple[str, str]
    token_length: Mapping[str, TokenStatistics]

    @model_serializer(mode="wrap")
    def _labels_last(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        return {**{key: value for key, value in content.items() if key != "labels"}, "labels": []}


def describe(table: pd.DataFrame, dataset: ConversationDataset, frame: tuple[str, str]) -> Statistics:
    """The statistics of the rows that `check_table` leaves."""
    by_split = {split: table[table["split"] == split] for split in SPLITS}
    digest = hashlib.sha256()
    for split, rows in by_split.items():
        digest.update(json_line(split))
        for row in zip(rows["prompt"], rows["target"], strict=True):
            digest.update(json_line(row))
    return Statistics(
        **origin(dataset),
        sha256=digest.hexdigest(),
        rows={split: len(rows) for split, rows in by_split.items()},
        tokenizer=dataset.tokenizer,
        max_tokens=dataset.max_tokens,
        frame=frame,
        token_length={
            split: describe_tokens(
                rows["prompt_tokens"].tolist(), rows["target_tokens"].tolist(), dataset.max_tokens
            )
            for split, rows in by_split.items()
        },
    )


def describe_tokens(prompts: Sequence[int], targets: Sequence[int], most: int) -> TokenStatistics:
    """Percentiles (linear interpolation; 0 of no rows) and histogram of rows' lengths."""
    lengths = np.array(prompts, dtype=np.int64) + np.array(targets, dtype=np.int64)
    counts, _ = np.histogram(lengths, bins=[*LENGTH_EDGES, np.inf])
    p50, p95 = np.percentile(lengths, (50, 95)) if len(lengths) else (0.0, 0.0)
    return TokenStatistics(
        edges=LENGTH_EDGES,
        counts=tuple(int(count) for count in counts),
        p50=float(p50),
        p95=float(p95),
        max=int(lengths.max(initial=0)),
        answers=sum(targets),
        truncated=int((lengths > most).sum()),
    )


def _content(rows: pd.DataFrame) -> pa.Table:
    asked = [[turn.text for turn in context if turn.role == "user"] for context in rows["context"]]
    content = rows.assign(
        question=[turns[-1] for turns in asked],
        asked=["\n".join(turns) for turns in asked],
        conversation=pd.factorize(rows["key"])[0],
    )
    return pa.table({name: content[name].tolist() for name in SPLIT_SCHEMA.names}, schema=SPLIT_SCHEMA)


def _too_few(rows: pd.DataFrame, tested: int, uri: str) -> str | None:
    kept = Counter(rows["split"])
    if all(kept[split] for split in SPLITS) and tested >= FEWEST_TESTED:
        return None
    counts = ", ".join(f"{kept[split]} {split}" for split in SPLITS)
    return (
        f"{uri}: kept {counts} rows, the last of {tested} conversations; expected some for training and "
        f"validation, and test rows of at least {FEWEST_TESTED} conversations. Add data, or change "
        "dataset.split."
    )
