"""Checks on single values: encoding, empty values, unknown labels, text length."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial

import pandas as pd
import pandera.pandas as pandera

from gauntlet.components.validate_data.findings import SHOWN_EXAMPLES, CheckResult, Finding, judge_rows
from gauntlet.components.validate_data.text import excerpt
from gauntlet.tasks.text_classification.manifest import TextDataset

# A row without a text or a label of the set cannot be written as (text, class index), so it leaves the
# splits whatever the severity; the severity decides what else follows.
UNUSABLE = ("empty_values", "unknown_labels")
SHOWN_LABELS = 10
_NULL_CHECK = "not_nullable"


def check_values(table: pd.DataFrame, dataset: TextDataset) -> tuple[pd.DataFrame, list[CheckResult]]:
    """The rows that go on, and the results of the four checks in order.

    A row counts in the first check that removes it and in none after that.
    """
    failing = _failing_rows(table, dataset)
    results = []
    remaining = table
    for name in ("encoding", "empty_values", "unknown_labels", "text_length"):
        rule = getattr(dataset.checks, name)
        affected = remaining.index.intersection(failing[name])
        leaving = affected if rule.severity == "drop" or name in UNUSABLE else affected[:0]
        examples = _examples(name, remaining.loc[affected[:SHOWN_EXAMPLES]])
        if name == "unknown_labels" and len(affected):
            examples = [*_unknown(remaining.loc[affected, "label"], dataset.labels), *examples]
        column = "label" if name == "unknown_labels" else None
        finding = Finding(affected, leaving, examples, column, partial(_reasons, name))
        results.append(judge_rows(name, rule, finding, rows_read=len(table), dropped=len(leaving)))
        remaining = remaining.drop(leaving)
    return remaining, results


def _failing_rows(table: pd.DataFrame, dataset: TextDataset) -> dict[str, pd.Index[int]]:
    """Index of the rows that fail each check, by one lazy pandera validation.

    pandera puts failing values into its messages, so it is shown lengths in place of texts.
    """
    length = dataset.checks.text_length
    schema = pandera.DataFrameSchema(
        {
            "faulty": pandera.Column(bool, pandera.Check.eq(False, error="encoding")),
            "characters": pandera.Column(
                "Int64",
                pandera.Check.in_range(length.min_chars, length.max_chars, error="text_length"),
                nullable=False,
            ),
            "label": pandera.Column(
                "str", pandera.Check.isin(dataset.labels, error="unknown_labels"), nullable=False
            ),
        }
    )
    measured = pd.DataFrame(
        {
            "faulty": table["fault"].notna(),
            "characters": table["text"].str.len().astype("Int64"),
            "label": table["label"],
        }
    )
    try:
        schema.validate(measured, lazy=True)
        cases = pd.DataFrame({"check": [], "index": []})
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
    return {
        name: pd.Index(cases.loc[cases["check"] == reported, "index"].unique(), dtype="int64").sort_values()
        for name, reported in {
            "encoding": "encoding",
            "empty_values": _NULL_CHECK,
            "unknown_labels": "unknown_labels",
            "text_length": "text_length",
        }.items()
    }


def _unknown(found: pd.Series[str], labels: Sequence[str]) -> list[str]:
    """The labels that the manifest does not have, most frequent first, each with the nearest that it has."""
    counts = found.value_counts(sort=True)
    lines = []
    by_case = {label.casefold(): label for label in labels}
    for label, count in list(counts.items())[:SHOWN_LABELS]:
        nearest = get_close_matches(str(label).casefold(), by_case, n=1)
        meant = f", nearest: {by_case[nearest[0]]}" if nearest else ""
        lines.append(f"label {excerpt(str(label))}: {count:,} row{'' if count == 1 else 's'}{meant}")
    more = len(counts) - SHOWN_LABELS
    return lines + ([f"and {more} more labels"] if more > 0 else [])


def _examples(name: str, rows: pd.DataFrame) -> list[str]:
    return [f"{row.place}: {_describe(name, row)}" for row in rows.itertuples()]


def _reasons(name: str, table: pd.DataFrame, rows: pd.Index[int]) -> Sequence[str]:
    """`Reasons`."""
    return [_describe(name, row) for row in table.loc[rows].itertuples()]


def _describe(name: str, row: object) -> str:
    text, label, fault = (getattr(row, field) for field in ("text", "label", "fault"))
    if name == "encoding":
        return str(fault)
    if name == "empty_values":
        missing = [field for field in ("text", "label") if pd.isna(getattr(row, field))]
        return f"no {' and no '.join(missing)}" + ("" if pd.isna(text) else f" for {excerpt(text)}")
    if name == "unknown_labels":
        return f"label {excerpt(label)} of {excerpt(text)}"
    return f"{len(text):,} characters: {excerpt(text)}"
