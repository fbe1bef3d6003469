"""The condition `dataset.where`; what it is true of is what SQL says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from gauntlet.manifests.errors import DataError
from gauntlet.manifests.where import columns_of, holds


@pytest.mark.parametrize(
    ("condition", "columns"),
    [
        ("lang = 'en' AND year >= 2020", ("lang", "year")),
        ("a IN ('x', 'y') OR NOT b IS NULL", ("a", "b")),
        ("upper(a) LIKE 'B%' AND length(a) > 3", ("a",)),
        ('"two words" BETWEEN 1 AND 2', ("two words",)),
        ("a = 'Agg' AND \"Len\" > 1", ("a", "Len")),
    ],
)
def test_a_condition_names_its_columns(condition: str, columns: tuple[str, ...]) -> None:
    assert columns_of(condition) == columns


@pytest.mark.parametrize(
    ("condition", "cause"),
    [
        ("lang ==", "unable to parse"),
        ("lang = 'en'; DROP TABLE a", "unexpected token"),
        ("read_csv('/etc/passwd') = 1", "unsupported function"),
        ("1 = 1", "names no column"),
        ("sum(a) > 1", "other rows"),
        ("a = max(a)", "other rows"),
        ("count(*) > 1", "other rows"),
        ("row_number() OVER (ORDER BY a) < 9", "other rows"),
        ("a = (SELECT 1)", "other rows"),
        ("a IN (SELECT b FROM c)", "relation 'c' was not found"),
    ],
)
def test_what_is_no_condition_on_one_row_is_refused(condition: str, cause: str) -> None:
    with pytest.raises(
        ValueError, match=r"a condition on columns of each row, such as lang = 'en'"
    ) as caught:
        columns_of(condition)
    assert cause in str(caught.value)


@pytest.mark.parametrize(
    ("condition", "values", "expected"),
    [
        ("a >= '2020'", ["2019", "2021", None, ""], [False, True, False, False]),
        ("CAST(a AS DOUBLE) >= 2020", ["2019", "2021", None], [False, True, False]),
        ("TRY_CAST(a AS DOUBLE) > 9", ["10", "x"], [True, False]),
        ("a > 1", [1, 2, None, 2.5], [False, True, False, True]),
        ("a IS NULL", ["x", None], [False, True]),
        ("a = TRUE", [True, False], [True, False]),
        ("a <> 'x'", ["x", "y", None], [False, True, False]),
        ("a = 'y'", ["caf\udce9", "y"], [False, True]),
        ("a > 1", pa.array([1, 2], pa.int64()), [False, True]),
        ("a = 'x'", pa.array(["x", "y"]).dictionary_encode(), [True, False]),
        (
            "a >= TIMESTAMP '2024-01-01 00:00:00'",
            pa.array([datetime(2023, 12, 31, 23, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)]),
            [False, True],
        ),
    ],
)
def test_rows_of_which_a_condition_is_true(condition: str, values: Any, expected: list[bool]) -> None:
    assert holds(condition, {"a": values}, "a.csv").to_list() == expected


@pytest.mark.parametrize(
    ("condition", "cause"),
    [
        ("a >= 2020", "cannot compare string with numeric type"),
        ("CAST(a AS INT) > 1", "conversion from `str` to `i32` failed"),
        ("a", "found String, expected true or false"),
    ],
)
def test_columns_of_another_type_are_named_with_what_to_write(condition: str, cause: str) -> None:
    with pytest.raises(
        DataError, match=r"a.csv: dataset.where: .*The columns are a \(String\). .*CAST"
    ) as caught:
        holds(condition, {"a": ["x"]}, "a.csv")
    assert cause in str(caught.value)
