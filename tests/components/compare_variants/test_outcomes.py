"""Outcomes are joined with assigned requests, and what does not count is counted and named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from gauntlet.components.compare_variants.analysis import analyse
from gauntlet.components.compare_variants.outcomes import (
    no_outcomes,
    observe,
    read_assigned,
    read_outcomes,
)
from gauntlet.contracts.experiment import Analysis, Experiment, Variant
from gauntlet.manifests.errors import DataError, GauntletError, UsageError

START = datetime(2026, 12, 1, 12, tzinfo=UTC)
NOW = START + timedelta(hours=9)


def experiment(**changes: Any) -> Experiment:
    plan = {
        "key_header": "X-Gauntlet-Key", "without_key": "random", "metric": "clicked", "type": "binary",
        "better": "higher", "alpha": 0.05, "minimal_effect": 0.05, "maximum_n": 10_000,
        "started": START.isoformat(), "state": "running",
    }  # fmt: skip
    variants = tuple(
        Variant(name=name, version=version, revision=revision, bundle_sha256=revision * 8, share=50)
        for name, version, revision in (("A", "1", "aaaa"), ("B", "2", "bbbb"))
    )
    return Experiment.model_validate({"id": "t", "salt": "s", "variants": variants, **plan, **changes})


def assigned_file(folder: Path, rows: list[tuple[str, float, str, str]]) -> Path:
    """Assignments as the gateway writes them: request id, minutes after the start, revision, unit."""
    lines = [
        f"{request},{(START + timedelta(minutes=minutes)).isoformat()},{revision},{unit}"
        for request, minutes, revision, unit in rows
    ]
    path = folder / "t.csv"
    path.write_text("\n".join(("request_id,time,revision,unit", *lines)) + "\n")
    return path


def seen(folder: Path, rows: list[tuple[str, float, str, str]], outcomes: str, **changes: Any) -> Analysis:
    test = experiment(**changes)
    assigned = read_assigned(assigned_file(folder, rows), test)
    (folder / "outcomes.csv").write_text(outcomes)
    found = read_outcomes(folder / "outcomes.csv", test)
    return analyse(test, assigned, observe(assigned, found, test, NOW), NOW)


FEW = [
    ("r1", 0, "aaaa", "ann"),
    ("r2", 1, "aaaa", "ann"),
    ("r3", 2, "bbbb", "bob"),
    ("r4", 3, "bbbb", ""),
    ("r5", 4, "aaaa", "cid"),
    ("r3", 5, "aaaa", "cid"),  # a client gave an id twice: the first request has it
]


def test_a_key_counts_once_with_the_mean_of_its_outcomes_and_a_request_without_a_key_for_itself(
    tmp_path: Path,
) -> None:
    found = seen(tmp_path, FEW, "request_id,value\nr1,1\nr2,0\nr3,1\nr4,0\n")
    first, second = found.arms
    assert (first.requests, first.units, first.observed, first.mean) == (3, 2, 1, 0.5)
    assert (second.requests, second.units, second.observed, second.mean) == (2, 2, 2, 0.5)
    assert found.faults == ()
    assert found.path[-1].units == 3


def test_late_repeated_and_unknown_outcomes_are_counted_and_named(tmp_path: Path) -> None:
    hour = (START + timedelta(hours=1)).isoformat()
    rows = [
        f"r1-0,1,{hour}",
        f"r1-1,0,{hour}",  # another instance of the request
        f"r1-0,0,{hour}",
        f"r3-0,1,{(START + timedelta(hours=3)).isoformat()}",
        f"r4-0,1,{START.isoformat()}",  # before its request
        f"zed-0,1,{hour}",
        "r5-0,1,",
    ]
    found = seen(tmp_path, FEW, "event_id,clicked,time\n" + "\n".join(rows) + "\n", window_hours=2.0)
    assert {fault.why: (fault.rows, fault.examples) for fault in found.faults} == {
        "unknown": (1, ("zed-0",)),
        "duplicate": (1, ("r1-0",)),
        "outside the window": (2, ("r3-0", "r4-0")),
    }
    assert [(arm.observed, arm.mean) for arm in found.arms] == [(2, 0.75), (0, None)]


def test_a_unit_counts_once_its_window_is_over(tmp_path: Path) -> None:
    rows = [("r1", 0.0, "aaaa", ""), ("r2", 500.0, "bbbb", "")]
    found = seen(tmp_path, rows, "request_id,value\nr1,1\nr2,1\n", window_hours=8.0)
    assert [arm.observed for arm in found.arms] == [1, 0]
    assert found.waiting == 1


def many(units: int, second: str = "bbbb") -> list[tuple[str, float, str, str]]:
    random = np.random.default_rng(5)
    return [(f"r{n}", n / 100, second if random.random() < 0.5 else "aaaa", f"u{n}") for n in range(units)]


def outcomes_of(rows: list[tuple[str, float, str, str]], first: float, second: float) -> str:
    random = np.random.default_rng(6)
    lines = [f"{one[0]},{int(random.random() < (second if one[2] == 'bbbb' else first))}" for one in rows]
    return "request_id,value\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("rates", "changes", "decision", "winner"),
    [
        ((0.3, 0.5), {}, "winner", "B"),
        ((0.3, 0.5), {"better": "lower"}, "winner", "A"),
        ((0.3, 0.3), {"minimal_effect": 0.2}, "no difference", ""),
        ((0.3, 0.3), {"maximum_n": 1500}, "inconclusive", ""),
        ((0.3, 0.3), {}, "go on", ""),
    ],
)
def test_the_rule_that_was_fixed_before_the_start_decides(
    rates: tuple[float, float], changes: dict[str, Any], decision: str, winner: str, tmp_path: Path
) -> None:
    rows = many(2000)
    found = seen(tmp_path, rows, outcomes_of(rows, *rates), **changes)
    assert (found.decision, found.winner) == (decision, winner)
    assert found.path[-1].units == min(2000, changes.get("maximum_n", 2000))
    assert found.path[-1].low < rates[1] - rates[0] < found.path[-1].high


def test_a_metric_without_bounds_has_an_interval_from_a_hundred_units_in_each_arm(tmp_path: Path) -> None:
    rows = many(190)
    values = "request_id,value\n" + "\n".join(f"{one[0]},{900 + n % 7}" for n, one in enumerate(rows)) + "\n"
    assert seen(tmp_path, rows, values, type="real").path == ()
    rows = many(400)
    values = "request_id,value\n" + "\n".join(f"{one[0]},{900 + n % 7}" for n, one in enumerate(rows)) + "\n"
    last = seen(tmp_path, rows, values, type="real").path[-1]
    assert last.low < 0 < last.high
    assert last.high - last.low < 2


def test_no_winner_is_declared_while_the_units_are_not_split_as_asked(tmp_path: Path) -> None:
    rows = [one for n, one in enumerate(many(3000)) if one[2] == "aaaa" or n % 4]  # a quarter of B is lost
    found = seen(tmp_path, rows, outcomes_of(rows, 0.3, 0.6))
    assert (found.decision, found.winner) == ("mismatch", "")
    assert min(found.ratio_evidence.values()) > 10_000
    # Also if only the outcomes of an arm are lost.
    rows = many(3000)
    kept = [one for n, one in enumerate(rows) if one[2] == "aaaa" or n % 4]
    found = seen(tmp_path, rows, outcomes_of(kept, 0.3, 0.6))
    assert found.decision == "mismatch"
    assert found.ratio_evidence["all units"] < 10_000 < found.ratio_evidence["with outcomes"]


def test_requests_that_are_left_to_the_control_are_counted_and_not_in_the_test(tmp_path: Path) -> None:
    test = experiment(without_key="control")
    assigned = read_assigned(assigned_file(tmp_path, [*FEW, ("r9", 9, "", "")]), test)
    found = analyse(test, assigned, no_outcomes(), NOW)
    assert found.without_key == 1
    assert sum(arm.requests for arm in found.arms) == 5
    empty = read_assigned(tmp_path / "none yet.csv", test)
    assert analyse(test, empty, no_outcomes(), NOW).why == "too few units have an outcome for an interval"


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    times = pa.array([START, START], pa.timestamp("ns", tz="UTC"))
    table = pa.table({"request_id": ["r1", "r2"], "clicked": [True, False], "time": times})
    parquet.write_table(table, tmp_path / "o.parquet")
    found = read_outcomes(tmp_path / "o.parquet", experiment())
    assert found.values.tolist() == [1.0, 0.0]
    assert found.times.tolist() == [START.timestamp()] * 2


@pytest.mark.parametrize(
    ("content", "changes", "said"),
    [
        ("request_id,value\n", {}, "found no row, expected an outcome in each"),
        ("", {}, "cannot be read: Empty CSV file"),
        ("id,value\nr1,1\n", {}, "found the columns id, value, expected a column request_id or event_id"),
        ("request_id,bought\nr1,1\n", {}, "expected a column clicked, the test's metric, or value"),
        ("request_id,value\nr1,2\nr2,1\n", {}, r"found 2 in row 1 \(1 rows\), expected 0 or 1"),
        ("request_id,value\nr1,yes\n", {}, "value: .*Expected numbers"),
        ("request_id,value\nr1,\n", {"type": "real"}, "found nan in row 1"),
        (
            "request_id,value\nr1,5\nr2,11\n",
            {"type": "bounded", "low": 0, "high": 10},
            "found 11 in row 2 .*expected numbers from 0 to 10",
        ),
        ("request_id,value,time\nr1,1,noon\n", {}, "Expected times such as 2026-12-01T09:30:00Z"),
    ],
)
def test_bad_outcomes_are_refused_in_one_message(
    content: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    (tmp_path / "o.csv").write_text(content)
    with pytest.raises(DataError, match=said):
        read_outcomes(tmp_path / "o.csv", experiment(**changes))


def test_a_missing_file_and_another_suffix_are_refused(tmp_path: Path) -> None:
    for name in ("none.csv", "o.xlsx"):
        (tmp_path / "o.xlsx").write_text("")
        with pytest.raises(UsageError, match=name):
            read_outcomes(tmp_path / name, experiment())
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(GauntletError, match="The gateway writes this file"):
        read_assigned(tmp_path / "t.csv", experiment())
