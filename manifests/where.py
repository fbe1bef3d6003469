"""The condition `dataset.where`: which rows of the sources are read, in the words of SQL.

A condition compares columns of one row with each other and with constants, as polars reads SQL. It can read
nothing else: https://docs.pola.rs/api/python/stable/reference/sql/.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gauntlet.manifests.errors import DataError

if TYPE_CHECKING:  # it is imported only where a manifest has a condition
    import polars as pl

SEVERAL_ROWS = {"Agg", "Gather", "Len", "Over", "Rolling", "Slice", "Sort", "SortBy", "SubPlan"}
"""What polars calls the parts of an expression that look at more than one row."""

EXPECTED = "a condition on columns of each row, such as lang = 'en' AND year >= 2020"


def columns_of(condition: str) -> tuple[str, ...]:
    """The columns that a condition names, each once.

    Raises:
        ValueError: It is no condition on the columns of one row. The message says what is expected.
    """
    import polars as pl

    try:
        expression = pl.sql_expr(condition)
        parts = set(_parts(json.loads(expression.meta.serialize(format="json"))))
        columns = tuple(dict.fromkeys(expression.meta.root_names()))
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise ValueError(f"{EXPECTED} ({_said(error)})") from None
    if parts & SEVERAL_ROWS:
        raise ValueError(f"{EXPECTED} (aggregates, windows and subqueries look at other rows)")
    if not columns:
        raise ValueError(f"{EXPECTED} (it names no column)")
    return columns


def holds(condition: str, columns: Mapping[str, Any], name: str) -> pl.Series:
    """Whether a condition is true of each row. Where a value that decides is missing, it is not.

    Args:
        condition: Its columns are among `columns`.
        columns: The values of each, (N,): a sequence, or an array of Arrow. A time with an offset is UTC.
        name: The source, which messages name.

    Raises:
        DataError: Its columns cannot be compared as it says.
    """
    import polars as pl
    from polars import selectors

    rows = pl.DataFrame([_series(column, values) for column, values in columns.items()])
    offset = selectors.datetime(time_zone="*")
    rows = rows.with_columns(offset.dt.convert_time_zone("UTC").dt.replace_time_zone(None))
    types = ", ".join(f"{column} ({kind})" for column, kind in rows.schema.items())
    advice = (
        f"The columns are {types}. Compare String with 'text', and write CAST(column AS DOUBLE) where text "
        "holds numbers"
    )
    try:
        found = rows.select(pl.sql_expr(condition).alias("holds")).to_series()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{name}: dataset.where: {condition}: {_said(error)}. {advice}") from None
    if found.dtype not in (pl.Boolean, pl.Null):
        raise DataError(
            f"{name}: dataset.where: {condition}: found {found.dtype}, expected true or false. {advice}"
        )
    return found.cast(pl.Boolean).fill_null(value=False)


def _series(name: str, values: Any) -> pl.Series:
    import polars as pl

    try:
        return pl.Series(name, values, strict=False)
    except UnicodeEncodeError:  # bytes that are no UTF-8 stand in the text as surrogates
        return pl.Series(name, [str(value).encode("utf-8", "replace").decode() for value in values])


def _said(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _parts(content: Any) -> Iterator[str]:
    """The names of the parts of an expression, without its constants and columns."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key
            if key not in ("Literal", "Column"):
                yield from _parts(value)
    elif isinstance(content, list):
        for value in content:
            yield from _parts(value)
    elif isinstance(content, str):
        yield content
