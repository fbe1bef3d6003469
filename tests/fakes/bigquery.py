"""BigQuery: tables that are held as Arrow, its JSON API and its Storage Read API.

Queries are not understood: each that is known has its result, and the tables that it reads, told to the fake.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import grpc
import pyarrow as pa
from google.cloud.bigquery_storage_v1 import types

from tests.fakes.google_api import ApiError

ROWS_AT_ONCE = 2
BYTES_OF_A_ROW = 1_000_000
CHANGED = datetime(2026, 11, 30, 12, tzinfo=UTC)
TYPES = {"string": "STRING", "int64": "INTEGER", "double": "FLOAT", "bool": "BOOLEAN", "date32[day]": "DATE"}

Answer = tuple[int, bytes]


@dataclass
class Table:
    """A table and what it was before, by the time of the change.

    Attributes:
        rows: What it holds now.
        changed: When it came to hold them.
        before: What it held earlier.
        kind: TABLE, VIEW or EXTERNAL.
        query: That of a view.
        readable: Whether the caller may read it.
    """

    rows: pa.Table
    changed: datetime = CHANGED
    before: pa.Table | None = None
    kind: str = "TABLE"
    query: str = ""
    readable: bool = True
    buffered: int = 0


@dataclass(frozen=True)
class Query:
    """What a query gives, and the names of the tables that it reads."""

    rows: pa.Table
    reads: Sequence[str] = ()
    statement: str = "SELECT"


@dataclass
class BigQuery:
    """The service. `tables` and `queries` are what it has, by `PROJECT.DATASET.TABLE` and by SQL.

    Attributes:
        run: The queries that were run, and not only tried.
        parameters: Those of each query, by name.
        sessions: The read sessions, as they were asked for.
        losses: How many streams are cut off after their first message.
    """

    tables: dict[str, Table] = field(default_factory=dict)
    queries: dict[str, Query] = field(default_factory=dict)
    run: list[str] = field(default_factory=list)
    parameters: list[dict[str, str]] = field(default_factory=list)
    sessions: list[types.ReadSession] = field(default_factory=list)
    losses: int = 0
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    streams: dict[str, pa.Table] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    # --- JSON API ---

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """What a request under /bigquery/v2/projects/ gets."""
        project, *parts = unquote(path.removeprefix("/bigquery/v2/projects/")).split("/")
        match method, parts:
            case "GET", ["datasets", dataset, "tables", name]:
                return self._table(f"{project}.{dataset}.{name}")
            case "POST", ["jobs"]:
                return self._insert(project, json.loads(body))
            case "GET", ["jobs", job]:
                return 200, json.dumps(self.jobs[job]).encode()
            case "GET", ["queries", job]:
                done = {"jobComplete": True, "jobReference": self.jobs[job]["jobReference"], "totalRows": "0"}
                return 200, json.dumps(done | {"schema": {"fields": []}}).encode()
        return _refused(404, "notFound", f"no such address {method} {path}")

    def _table(self, name: str) -> Answer:
        self.asked[name] += 1
        table = self.tables.get(name)
        if table is None:
            return _refused(404, "notFound", f"Not found: Table {name.replace('.', ':', 1)}")
        if not table.readable:
            return _refused(403, "accessDenied", f"Access Denied: Table {name.replace('.', ':', 1)}")
        content: dict[str, Any] = {
            "kind": "bigquery#table",
            "tableReference": _reference(name),
            "type": table.kind,
            "lastModifiedTime": str(int(table.changed.timestamp() * 1000)),
            "schema": {"fields": [_field(one) for one in table.rows.schema]},
        }
        if table.query:
            content["view"] = {"query": table.query, "useLegacySql": False}
        if table.buffered:
            content["streamingBuffer"] = {"estimatedRows": str(table.buffered), "estimatedBytes": "9",
                                          "oldestEntryTime": "1"}  # fmt: skip
        return 200, json.dumps(content).encode()

    def _insert(self, project: str, job: dict[str, Any]) -> Answer:
        """A query is tried, or run into a table of its own, at once."""
        configuration, reference = job["configuration"], job["jobReference"]
        asked = configuration["query"]
        sql = asked["query"]
        query = self.queries.get(sql)
        if query is None:
            return _refused(400, "invalidQuery", "Syntax error: Unexpected identifier at [1:1]")
        for name in query.reads:
            status, answer = self._table(name)
            if status != 200:
                return status, answer
        self.parameters.append({
            one["name"]: one["parameterValue"]["value"] for one in asked.get("queryParameters", ())
        })  # fmt: skip
        statistics = {
            "totalBytesProcessed": str(
                sum(self.tables[name].rows.num_rows * BYTES_OF_A_ROW for name in query.reads)
            ),
            "query": {
                "statementType": query.statement,
                "totalBytesProcessed": str(
                    sum(self.tables[name].rows.num_rows * BYTES_OF_A_ROW for name in query.reads)
                ),
                "referencedTables": [_reference(name) for name in query.reads],
            },
        }
        if not configuration.get("dryRun"):
            self.run.append(sql)
            name = f"{project}._anonymous.{reference['jobId'].replace('-', '_')}"
            self.tables[name] = Table(query.rows)
            asked["destinationTable"] = _reference(name)
        made = {
            "kind": "bigquery#job",
            "id": reference["jobId"],
            "jobReference": reference | {"location": "EU"},
            "configuration": configuration | {"jobType": "QUERY"},
            "statistics": statistics,
            "status": {"state": "DONE"},
        }
        self.jobs[reference["jobId"]] = made
        return 200, json.dumps(made).encode()

    # --- Storage Read API ---

    def CreateReadSession(self, request: types.CreateReadSessionRequest) -> types.ReadSession:
        wanted = request.read_session
        self.sessions.append(wanted)
        parts = wanted.table.split("/")
        name = f"{parts[1]}.{parts[3]}.{parts[5]}"
        table = self.tables.get(name)
        if table is None:
            raise ApiError(grpc.StatusCode.NOT_FOUND, f"Not found: Table {name}")
        if not table.readable:
            raise ApiError(
                grpc.StatusCode.PERMISSION_DENIED, "request failed: the user does not have permission"
            )
        if table.kind != "TABLE":
            raise ApiError(
                grpc.StatusCode.INVALID_ARGUMENT, "request failed: only supported on native tables"
            )
        rows, at = table.rows, wanted.table_modifiers.snapshot_time
        if at is not None and "snapshot_time" in wanted.table_modifiers and at < table.changed:
            assert table.before is not None
            rows = table.before
        rows = rows.select(list(wanted.read_options.selected_fields) or rows.column_names)
        session = f"{request.parent}/locations/eu/sessions/{len(self.sessions)}"
        stream = f"{session}/streams/0"
        self.streams[stream] = rows
        return types.ReadSession(
            name=session,
            data_format=wanted.data_format,
            table=wanted.table,
            arrow_schema={"serialized_schema": rows.schema.serialize().to_pybytes()},
            streams=[{"name": stream}] if rows.num_rows else [],
            estimated_total_bytes_scanned=rows.num_rows * rows.num_columns * BYTES_OF_A_ROW,
        )

    def ReadRows(self, request: types.ReadRowsRequest) -> Iterator[types.ReadRowsResponse]:
        rows = self.streams[request.read_stream].slice(request.offset).combine_chunks()
        for batch in rows.to_batches(max_chunksize=ROWS_AT_ONCE):
            yield types.ReadRowsResponse(
                arrow_record_batch={"serialized_record_batch": batch.serialize().to_pybytes()},
                row_count=batch.num_rows,
            )
            if self.losses:
                self.losses -= 1
                raise ApiError(grpc.StatusCode.UNAVAILABLE, "the stream was closed")


def _reference(name: str) -> dict[str, str]:
    project, dataset, table = name.split(".")
    return {"projectId": project, "datasetId": dataset, "tableId": table}


def _field(one: pa.Field) -> dict[str, Any]:
    inner, repeated = one.type, pa.types.is_list(one.type)
    inner = inner.value_type if repeated else inner
    kind = "RECORD" if pa.types.is_struct(inner) else TYPES.get(str(inner), "TIMESTAMP")
    nested = [_field(inner.field(at)) for at in range(inner.num_fields)] if kind == "RECORD" else []
    return {"name": one.name, "type": kind, "mode": "REPEATED" if repeated else "NULLABLE", "fields": nested}


def _refused(status: int, reason: str, message: str) -> Answer:
    error = {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}
    return status, json.dumps({"error": error}).encode()
