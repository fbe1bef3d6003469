"""Tables and queries of BigQuery, by Google's own clients against the fake of its two APIs."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from pydantic import ValidationError

from gauntlet.components.fingerprint_data.run import run as fingerprint_of
from gauntlet.components.validate_data.run import at_fingerprint
from gauntlet.manifests.errors import DataError, GauntletError, UsageError
from gauntlet.tasks.language.data import read_table as read_conversations
from gauntlet.tasks.language.manifest import ConversationDataset
from gauntlet.tasks.multi_label_text.data import read_table as read_several
from gauntlet.tasks.multi_label_text.manifest import MultiLabelDataset
from gauntlet.tasks.text_classification.data import read_table, sources
from gauntlet.tasks.text_classification.manifest import TextDataset
from tests.fakes.bigquery import CHANGED, Query, Table
from tests.fakes.cloud import FakeCloud
from tests.text_tables import rows_of_test

LABELS = ("joy", "fear")
TABLE = "shop.crm.tickets"
ROWS = pa.table({"label": ["joy", "fear", "joy"], "text": ["c", "a", "b"], "more": [1.5, 2.5, 3.5]})
SQL = "SELECT text, label FROM crm.tickets"


def dataset(uri: str = f"bq://{TABLE}", **settings: Any) -> TextDataset:
    content = {"name": "d", "version": "1", "uri": uri, "labels": LABELS, "columns": {"label": "label"}}
    return TextDataset.model_validate(content | settings)


def pairs(found: TextDataset) -> list[tuple[str, str]]:
    table = read_table(found)
    return list(zip(table["text"], table["label"], strict=True))


@pytest.fixture
def tickets(cloud: FakeCloud) -> Table:
    cloud.bigquery.tables[TABLE] = Table(ROWS)
    return cloud.bigquery.tables[TABLE]


def test_a_table_is_read_with_its_named_columns_alone_and_its_price_is_said_before(
    cloud: FakeCloud, tickets: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two columns of three rows of 1 MB each, at 1.10 USD for 2**40 bytes."""
    assert pairs(dataset()) == [("a", "fear"), ("b", "joy"), ("c", "joy")]
    (session,) = cloud.bigquery.sessions
    assert sorted(session.read_options.selected_fields) == ["label", "text"]
    assert f"bq://{TABLE}: reads 0.006 GB, 0.0000 USD at 1.10 USD per TiB" in capsys.readouterr().out
    assert cloud.api.requests("CreateReadSession")[0].parent == "projects/demo"


def test_the_order_of_the_rows_depends_on_the_rows_alone(cloud: FakeCloud, tickets: Table) -> None:
    tickets.rows = ROWS.take([2, 0, 1])
    assert pairs(dataset()) == [("a", "fear"), ("b", "joy"), ("c", "joy")]
    assert read_table(dataset())["place"].tolist() == [f"{TABLE} row {at}" for at in range(3)]


def test_a_stream_that_breaks_off_is_resumed(cloud: FakeCloud, tickets: Table) -> None:
    cloud.bigquery.losses = 1
    assert len(pairs(dataset())) == 3
    assert [request.offset for request in cloud.api.requests("ReadRows")] == [0, 2]


def test_a_table_for_each_split(cloud: FakeCloud, tickets: Table) -> None:
    cloud.bigquery.tables["shop.crm.held_out"] = Table(ROWS.slice(0, 1))
    found = dataset("bq://shop.crm", files={"train": "tickets", "test": "held_out"})
    assert read_table(found)["split"].tolist() == ["train"] * 3 + ["test"]
    assert sources(found) == ("bq://shop.crm.tickets", "bq://shop.crm.held_out")


def test_several_text_columns_are_of_the_same_rows(cloud: FakeCloud) -> None:
    rows = pa.table({"subject": ["z", "y"], "body": ["a", "b"], "label": ["joy", "fear"]})
    cloud.bigquery.tables[TABLE] = Table(rows)
    found = dataset(columns={"text": ["subject", "body"], "label": "label"})
    assert sorted(pairs(found)) == [("y\nb", "fear"), ("z\na", "joy")]
    assert len(cloud.bigquery.sessions) == 1


def test_the_newest_rows_by_a_timestamp_are_the_test_split(cloud: FakeCloud) -> None:
    times = [CHANGED - timedelta(days=day) for day in range(10)]
    texts = [f"text of number {day}" for day in range(10)]
    rows = pa.table({"text": texts, "label": ["joy"] * 10, "at": pa.array(times, pa.timestamp("us", "UTC"))})
    cloud.bigquery.tables[TABLE] = Table(rows)
    checks = {"rows_per_class": {"min_rows": 1, "severity": "warn"}, "near_duplicates": {"severity": "warn"}}
    split = {"train": 0.7, "validation": 0.1, "test": 0.2}
    found = dataset(columns={"label": "label", "time": "at"}, checks=checks, split=split)
    assert rows_of_test(found) == ["text of number 0", "text of number 1"]


def test_labels_in_an_array_are_several_labels(cloud: FakeCloud) -> None:
    cloud.bigquery.tables[TABLE] = Table(pa.table({"text": ["a"], "label": [["joy", "fear"]]}))
    content = {"name": "d", "version": "1", "uri": f"bq://{TABLE}", "labels": LABELS}
    table = read_several(MultiLabelDataset.model_validate(content | {"columns": {"label": "label"}}))
    assert table["labels"].tolist() == [("joy", "fear")]


def test_conversations_are_arrays_of_messages(cloud: FakeCloud) -> None:
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
    cloud.bigquery.tables[TABLE] = Table(pa.table({"messages": [messages]}))
    found = ConversationDataset(name="d", version="1", uri=f"bq://{TABLE}", tokenizer="none")
    assert read_conversations(found)["response"].tolist() == ["Good day"]


# --- queries -----------------------------------------------------------------------------------------


def test_a_query_is_tried_before_it_runs_and_its_price_is_said(
    cloud: FakeCloud, tickets: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three rows of 1 MB at 6.25 USD for 2**40 bytes are 0.000017 USD; the result is read for nothing."""
    cloud.bigquery.queries[SQL] = Query(ROWS.select(["text", "label"]), [TABLE])
    found = dataset("bq://demo", query=SQL)
    assert pairs(found) == [("a", "fear"), ("b", "joy"), ("c", "joy")]
    said = capsys.readouterr().out
    assert said.count("USD at") == 1
    assert "bq://demo: dataset.query: reads 0.003 GB, 0.0000 USD at 6.25 USD per TiB" in said
    assert sources(found) == (f"bq://{TABLE}",)
    assert cloud.bigquery.run == [SQL]


def test_what_costs_more_than_it_may_is_not_read(cloud: FakeCloud, tickets: Table) -> None:
    cloud.bigquery.queries[SQL] = Query(ROWS, [TABLE])
    for found in (dataset(max_cost_usd=0), dataset("bq://demo", query=SQL, max_cost_usd=0)):
        with pytest.raises(
            UsageError, match=r"a price of 0.0000 USD, expected at most 0 \(dataset.max_cost_usd"
        ):
            read_table(found)
    assert cloud.bigquery.run == []
    assert cloud.api.requests("ReadRows") == []


def test_only_a_select_is_run(cloud: FakeCloud, tickets: Table) -> None:
    cloud.bigquery.queries[SQL] = Query(ROWS, [TABLE], statement="DELETE")
    with pytest.raises(UsageError, match=r"dataset.query: found the statement DELETE, expected a SELECT"):
        read_table(dataset("bq://demo", query=SQL))
    assert cloud.bigquery.run == []


def test_a_faulty_query_says_what_bigquery_says(cloud: FakeCloud) -> None:
    with pytest.raises(
        UsageError, match=r"Syntax error: Unexpected identifier at \[1:1\]\. Correct dataset.query"
    ):
        read_table(dataset("bq://demo", query="SELEC"))


# --- what cannot be read -----------------------------------------------------------------------------


def test_each_table_that_cannot_be_read_is_one_clear_message(cloud: FakeCloud, tickets: Table) -> None:
    with pytest.raises(UsageError, match=r"bq://shop.crm.absent: not found .* Correct the table's name"):
        read_table(dataset("bq://shop.crm.absent"))
    tickets.readable = False
    with pytest.raises(UsageError, match=r"permission denied .*roles/bigquery.dataViewer.*project demo"):
        read_table(dataset())
    tickets.readable, tickets.kind = True, "VIEW"
    with pytest.raises(UsageError, match=r"found a view, expected .*FROM `shop.crm.tickets`"):
        read_table(dataset())
    tickets.kind, tickets.rows = "TABLE", pa.table({"text": [{"de": "a"}], "label": ["joy"]})
    with pytest.raises(DataError, match=r"the column text is nested \(RECORD\).*SELECT text.FIELD AS text"):
        read_table(dataset())
    tickets.rows = ROWS.rename_columns(["label", "message", "more"])
    with pytest.raises(
        DataError, match=r"shop.crm.tickets: no column text: set dataset.columns.text to one of"
    ):
        read_table(dataset())


def test_a_service_that_is_down_is_named(cloud: FakeCloud, tickets: Table) -> None:
    cloud.api.failing = grpc.StatusCode.INTERNAL
    with pytest.raises(GauntletError, match=r"bigquery.googleapis.com: .*told to fail"):
        read_table(dataset())
    cloud.web.tokens_expired = True
    with pytest.raises(UsageError, match="not logged in"):
        read_table(dataset())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"uri": "bq://shop.crm"}, "found bq://shop.crm, expected bq://PROJECT.DATASET.TABLE"),
        ({"uri": f"bq://{TABLE}", "query": SQL}, "expected bq://PROJECT with query"),
        ({"uri": f"bq://{TABLE}", "files": {"train": "a"}}, "expected bq://PROJECT.DATASET with files"),
        ({"uri": "/data/a.csv", "query": SQL, "max_cost_usd": 1}, "query, max_cost_usd: of BigQuery alone"),
        ({"uri": f"bq://{TABLE}", "sha256": "0" * 64}, "sha256: of files alone"),
    ],
)
def test_keys_that_do_not_fit_are_refused_by_the_manifest(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        dataset(**settings)


# --- fingerprints ------------------------------------------------------------------------------------


def take(found: TextDataset, folder: Path) -> str:
    return fingerprint_of("text_classification", found, folder / "sources")


def test_the_fingerprint_changes_with_the_table_alone(
    cloud: FakeCloud, tickets: Table, tmp_path: Path
) -> None:
    first = take(dataset(), tmp_path)
    assert take(dataset(), tmp_path) == first
    assert first.endswith("@2026-11-30T12:00:00.001000+00:00")  # BigQuery says milliseconds, so one is added
    tickets.changed += timedelta(hours=1)
    assert take(dataset(), tmp_path) != first
    tickets.buffered = 7
    assert "@" not in take(dataset(), tmp_path)  # what is in the streaming buffer has no time


def test_what_was_fingerprinted_is_what_is_read(cloud: FakeCloud, tickets: Table, tmp_path: Path) -> None:
    tickets.changed = datetime.now(UTC) - timedelta(hours=2)
    found = take(dataset(), tmp_path)
    tickets.before, tickets.rows = ROWS, pa.table({"text": ["new"], "label": ["joy"]})
    tickets.changed += timedelta(hours=1)
    assert len(read_table(at_fingerprint(dataset(), found))) == 3
    assert len(read_table(dataset())) == 1


def test_a_snapshot_of_long_ago_is_read_if_nothing_has_changed_since(
    cloud: FakeCloud, tickets: Table
) -> None:
    then = f"{SQL} FOR SYSTEM_TIME AS OF @snapshot"
    cloud.bigquery.queries[then] = Query(ROWS, [TABLE])
    tickets.changed = datetime.now(UTC) - timedelta(days=30)
    for days, changed in ((29, False), (31, True)):
        snapshot = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        for found in (
            dataset(snapshot=snapshot),
            dataset("bq://demo", query=then, snapshot=snapshot),
        ):
            if changed:
                with pytest.raises(UsageError, match=r"changed at .*Set a later dataset.snapshot"):
                    read_table(found)
            else:
                assert len(read_table(found)) == 3


def test_a_table_that_a_query_reads_may_not_change_after_the_fingerprint(
    cloud: FakeCloud, tickets: Table, tmp_path: Path
) -> None:
    then = f"{SQL} FOR SYSTEM_TIME AS OF @snapshot"
    cloud.bigquery.queries |= {SQL: Query(ROWS, [TABLE]), then: Query(ROWS, [TABLE])}
    tickets.changed = datetime.now(UTC) - timedelta(hours=2)
    query = dataset("bq://demo", query=SQL)
    found = take(query, tmp_path)
    assert len(read_table(at_fingerprint(query, found))) == 3
    tickets.changed += timedelta(hours=1)
    with pytest.raises(
        UsageError, match=r"bq://shop.crm.tickets changed at .* FOR SYSTEM_TIME AS OF @snapshot"
    ):
        read_table(at_fingerprint(query, found))
    assert len(read_table(at_fingerprint(dataset("bq://demo", query=then), found))) == 3
    assert cloud.bigquery.parameters[-1]["snapshot"].startswith(
        found.partition("@")[2][:19].replace("T", " ")
    )


def test_a_view_has_the_identity_of_its_tables_and_an_external_table_none(
    cloud: FakeCloud, tickets: Table, tmp_path: Path
) -> None:
    cloud.bigquery.queries |= {"inner": Query(ROWS, [TABLE]), SQL: Query(ROWS, ["shop.crm.view"])}
    cloud.bigquery.tables["shop.crm.view"] = Table(ROWS, kind="VIEW", query="inner")
    query = dataset("bq://demo", query=SQL)
    first = take(query, tmp_path)
    assert take(query, tmp_path) == first
    tickets.changed += timedelta(hours=1)
    assert take(query, tmp_path) != first
    cloud.bigquery.tables["shop.crm.view"].kind = "EXTERNAL"
    assert take(query, tmp_path) != take(query, tmp_path)
