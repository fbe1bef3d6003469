"""Every check of a dataset of conversations, in order, on one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pandas as pd

from gauntlet.components.validate_data.carving import carve, group_names
from gauntlet.components.validate_data.duplicates import find_exact, find_leaks, outside_test
from gauntlet.components.validate_data.findings import SHOWN_EXAMPLES, CheckResult, Finding, Verdict
from gauntlet.components.validate_data.inspection import Inspecting, Inspection
from gauntlet.components.validate_data.text import excerpt, normalise, repair
from gauntlet.components.validate_data.times import with_times
from gauntlet.manifests.dataset import SPLITS, SplitName
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.language.manifest import ConversationDataset, UnusedColumnsCheck
from gauntlet.tasks.language.outputs import FEWEST_TESTED
from gauntlet.tasks.language.rendering import Renderer
from gauntlet.tasks.managed_causal_lm.data import ManagedRenderer
from gauntlet.tasks.texts.similarity import likeness_among


def inspect(
    table: pd.DataFrame, dataset: ConversationDataset, renderer: Renderer | ManagedRenderer
) -> Inspection:
    """Run every check, whatever the ones before it found, and carve the splits that no file provides.

    Answers to the same opening, or to one like it, are carved into one split. The table that is left has the
    columns `prompt`, `target`, `prompt_tokens` and `target_tokens` beside `source.COLUMNS`.
    """
    checks = dataset.checks
    missing = tuple(split for split in SPLITS if split not in set(table["split"]))
    inspecting = Inspecting(table, len(table))
    inspecting.check("empty_conversations", checks.empty_conversations, _told("empty"), unusable=True)
    inspecting.check("role_markers", checks.role_markers, _told("unmarked"), unusable=True)
    unread = inspecting.rows
    inspecting.check("message_keys", checks.message_keys, _told("unread_keys"))
    if inspecting.rows.empty:
        told = table["empty"].fillna(table["unmarked"]).fillna(table["unread_keys"])
        raise DataError(
            f"{dataset.uri}: found {len(table)} records, but no answer in any of them, first "
            f"{table['place'].iloc[0]}: {told.iloc[0]}"
        )
    inspecting.check(
        "tool_messages", checks.tool_messages, lambda rows: find_unrendered(rows, renderer), unusable=True
    )
    inspecting.rows = _prepared(inspecting.rows, renderer)
    if missing:
        inspecting.rows = with_times(inspecting.rows, dataset.uri)
    inspecting.check("encoding", checks.encoding, _told("fault"))
    tokens = renderer.special_tokens
    inspecting.check("special_tokens", checks.special_tokens, lambda rows: find_special(rows, tokens))
    most = dataset.max_tokens
    inspecting.check("context_length", checks.context_length, lambda rows: find_long(rows, most))
    inspecting.check("exact_duplicates", checks.exact_duplicates, find_exact)
    similarity = checks.leakage.similarity
    likeness = likeness_among(list(dict.fromkeys(inspecting.rows["key"])), similarity)
    inspecting.rows = inspecting.rows.assign(
        group=group_names(inspecting.rows["key"].tolist(), likeness, similarity)
    )
    inspecting.rows = _carved(inspecting.rows, missing, dataset)
    inspecting.check("leakage", checks.leakage, lambda rows: find_leaks(rows, likeness, similarity))
    inspecting.results.append(check_unread_columns(unread, checks.unused_columns, len(table)))
    groups = dict(zip(inspecting.rows["key"], inspecting.rows["group"], strict=True))
    return Inspection(inspecting.rows, tuple(inspecting.results), groups)


def _carved(rows: pd.DataFrame, missing: Sequence[SplitName], dataset: ConversationDataset) -> pd.DataFrame:
    """The rows in their splits. Shares are of conversations, and each split has a few of them."""
    fractions = {split: getattr(dataset.split, split) for split in SPLITS}
    oldest_first = rows.sort_values("time", kind="stable") if "time" in rows else rows
    openings = oldest_first.drop_duplicates(["split", "key"]).assign(label="")  # there are no classes
    carved = carve(openings, missing, fractions, FEWEST_TESTED, dataset.split.key)
    split_of = dict(zip(zip(openings["split"], openings["key"], strict=True), carved["split"], strict=True))
    return rows.assign(split=[split_of[row] for row in zip(rows["split"], rows["key"], strict=True)])


def find_unrendered(rows: pd.DataFrame, renderer: Renderer | ManagedRenderer) -> Finding:
    """Rows with tools that the model's chat template would leave out."""
    parts = zip(rows["context"], rows["answer"], rows["tools"], strict=True)
    return _finding(rows, [renderer.unrendered(*part) for part in parts])


def check_unread_columns(rows: pd.DataFrame, rule: UnusedColumnsCheck, rows_read: int) -> CheckResult:
    """Every column or key that holds text is read, or the manifest says that it need not be."""
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
    verdict: Verdict = rule.severity if counts else "pass"
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
    """Rows whose texts hold a token that means something to the model's template."""
    words = []
    for context, answer in zip(rows["context"], rows["answer"], strict=True):
        texts = [text for turn in (*context, answer) for text in (turn.text, turn.calls)]
        held = next((token for token in tokens for text in texts if token in text), None)
        words.append(None if held is None else f"holds {held}")
    return _finding(rows, words)


def find_long(rows: pd.DataFrame, most: int) -> Finding:
    """Rows of more than `most` tokens, prompt and answer together."""
    lengths = (rows["prompt_tokens"] + rows["target_tokens"]).tolist()
    shown = zip(lengths, rows["shown"], strict=True)
    return _finding(rows, [f"{length:,} tokens: {text}" if length > most else None for length, text in shown])


def _told(column: str) -> Callable[[pd.DataFrame], Finding]:
    """Rows of which reading said in a column what is wrong."""
    return lambda rows: _finding(rows, [None if pd.isna(words) else str(words) for words in rows[column]])


def _finding(rows: pd.DataFrame, faults: Sequence[str | None]) -> Finding:
    """The rows with a fault; each is identified by its place."""
    affected = rows.index[[fault is not None for fault in faults]]
    told = [
        f"{place}: {fault}" for place, fault in zip(rows["place"], faults, strict=True) if fault is not None
    ]
    reasons = {
        row: fault for row, fault in zip(rows.index.tolist(), faults, strict=True) if fault is not None
    }
    return Finding(
        affected,
        outside_test(rows, affected),
        told[:SHOWN_EXAMPLES],
        reasons=lambda _, some: [reasons[row] for row in some.tolist()],
    )


def _prepared(rows: pd.DataFrame, renderer: Renderer | ManagedRenderer) -> pd.DataFrame:
    """The rows, rendered, and with what the checks on pairs compare: opening and whole."""
    rendered = renderer.render(rows["context"].tolist(), rows["answer"].tolist(), rows["tools"].tolist())
    return rows.assign(
        response=[one.response for one in rendered],
        prompt=[one.prompt for one in rendered],
        target=[one.target for one in rendered],
        prompt_tokens=[one.prompt_tokens for one in rendered],
        target_tokens=[one.target_tokens for one in rendered],
        key=[normalise(text) for text in rows["opening"]],
        shown=[excerpt(text) for text in rows["opening"]],
        label=[normalise(one.prompt + one.target) for one in rendered],
    )
