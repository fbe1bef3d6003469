"""Checks on the tokens that an encoder reads: unknown tokens, and texts that are truncated."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer

from gauntlet.components.validate_data.checks import (
    BOUND_STEPS,
    SHOWN_EXAMPLES,
    CheckedTable,
    Finding,
    Reasons,
    percent,
)
from gauntlet.components.validate_data.duplicates import outside_test
from gauntlet.components.validate_data.text import excerpt
from gauntlet.contracts.data import CheckResult
from gauntlet.tasks.texts.encoder_files import READING_FILES, find_encoder, require_positions
from gauntlet.tasks.texts.manifest import TextTable, UnknownTokensCheck
from gauntlet.tasks.texts.vocabulary import open_pretrained

COUNTED_AT_ONCE = 1_000  # texts at once: the tokens of all texts would need too much memory


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


def _with_share(result: CheckResult, rows: pd.DataFrame, rule: UnknownTokensCheck) -> CheckResult:
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
