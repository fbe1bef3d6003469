"""Tables and queries of BigQuery: what reading them costs, what they are now, and their rows.

Rows come from the Storage Read API, as Arrow batches, in an order that depends on the rows alone. A table is
`bq://PROJECT.DATASET.TABLE`. Reading a table is billed to the project of the login, a query to the project
that it names: `bq://PROJECT`.
https://cloud.google.com/bigquery/docs/reference/storage
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import polars as pl
import pyarrow as pa
from polars import selectors

from gauntlet.backends.google.calls import SECONDS_OF_RETRIES, ask, explained, first_line
from gauntlet.backends.memory import require_memory
from gauntlet.manifests.errors import UsageError

SCHEME = "bq://"
HOST = "bigquery.googleapis.com"
SNAPSHOT_PARAMETER = "snapshot"
"""`@snapshot` in a query is `dataset.snapshot`, or else the time at which the data were fingerprinted."""

USD_PER_TIB_OF_A_QUERY = 6.25
USD_PER_TIB_OF_A_TABLE = 1.10
"""List prices for the US, on demand, beyond each month's free TiB: https://cloud.google.com/bigquery/pricing"""

TIB = 2**40
SECONDS_OF_A_REQUEST = 30.0
SECONDS_OF_A_QUERY = 6 * 3600.0
TIME_TRAVEL = timedelta(days=6)
"""How far back a snapshot is asked for. BigQuery keeps seven days, or fewer if the dataset says so."""

TOO_LARGE = (
    "Export the rows to parquet files by EXPORT DATA, which are read in pieces, select fewer rows or columns "
    "in dataset.query, or use a machine with more memory"
)

STORED, OF_QUERY = ("TABLE", "SNAPSHOT"), "VIEW"
NESTED = ("RECORD", "STRUCT")


@dataclass(frozen=True)
class Price:
    """What reading costs, before anything is read: the bytes that are billed, and USD at list price."""

    bytes: int
    usd_per_tib: float

    @property
    def usd(self) -> float:
        """At the list price."""
        return self.bytes / TIB * self.usd_per_tib

    def __str__(self) -> str:
        return f"{self.bytes / 1e9:,.3f} GB, {self.usd:,.4f} USD at {self.usd_per_tib:.2f} USD per TiB"


@dataclass(frozen=True)
class Rows:
    """A table, or the result of a query, that can be read.

    Attributes:
        uri: What messages name.
        columns: Its columns, by name, with BigQuery's types; `RECORD` is a nested one.
        path: As the Storage Read API names the table.
        price: Of a query, which is paid already; None for a table, whose price depends on the columns.
    """

    uri: str
    columns: dict[str, str]
    path: str
    snapshot: datetime | None
    project: str
    price: Price | None = None

    def read(self, columns: Sequence[str], max_cost_usd: float | None = None) -> pa.Table:
        """All rows with these columns, in an order that depends on them alone. The price is printed first.

        Raises:
            DataError: This machine has too little memory for the rows, which are sorted.
            UsageError: The price is over `max_cost_usd`, or the account may not read.
            GauntletError: BigQuery cannot be reached, or refuses.
        """
        from google.cloud import bigquery_storage_v1 as api

        with _explained(self.uri, self.project):
            client = api.BigQueryReadClient()
            session = ask(client.create_read_session, parent=f"projects/{self.project}", max_stream_count=1,
                          read_session=self._session(api, columns))  # fmt: skip
            price = Price(session.estimated_total_bytes_scanned, USD_PER_TIB_OF_A_TABLE)
            require_memory(self.uri, price.bytes, TOO_LARGE)
            if self.price is None:  # the result of a query is read for nothing
                _require_affordable(self.uri, price, max_cost_usd)
            schema = pa.ipc.read_schema(pa.py_buffer(session.arrow_schema.serialized_schema))
            batches = [
                pa.ipc.read_record_batch(message.arrow_record_batch.serialized_record_batch, schema)
                for stream in session.streams
                for message in client.read_rows(stream.name)
            ]
        return _ordered(_without_decimals(pa.Table.from_batches(batches, schema).select(list(columns))))

    def _session(self, api: Any, columns: Sequence[str]) -> Any:
        modifiers = {} if self.snapshot is None else {"snapshot_time": self.snapshot}
        return api.types.ReadSession(
            table=self.path,
            data_format=api.types.DataFormat.ARROW,
            read_options={"selected_fields": list(columns)},
            table_modifiers=modifiers,
        )


def open_table(uri: str, snapshot: datetime | None = None) -> Rows:
    """A table as it was at `snapshot`; None: as it is now.

    Raises:
        UsageError: It does not exist, is not stored in BigQuery, the account may not read it, or it changed
            after a `snapshot` that is too long ago for BigQuery.
        GauntletError: BigQuery cannot be reached, or refuses.
    """
    with _client(uri) as client:
        table = _table(client, uri)
        if table.table_type not in STORED:
            kind = str(table.table_type).lower().replace("_", " ")
            raise UsageError(
                f"{uri}: found a {kind}, expected a table that BigQuery stores. Set dataset.uri to "
                f"{SCHEME}{client.project} and dataset.query to SELECT … FROM `{uri.removeprefix(SCHEME)}`"
            )
        if snapshot is not None and _travelled(snapshot) is None and table.modified > snapshot:
            raise UsageError(_too_long_ago(uri, table.modified, snapshot))
        columns = {field.name: field.field_type for field in table.schema}
        path = f"projects/{table.project}/datasets/{table.dataset_id}/tables/{table.table_id}"
        return Rows(uri, columns, path, _travelled(snapshot), client.project)


def open_query(
    uri: str, query: str, snapshot: datetime | None = None, max_cost_usd: float | None = None
) -> Rows:
    """The result of a query, which is run if it is a SELECT. What it costs is printed before.

    `uri` is `bq://PROJECT`, the project that pays.

    Raises:
        UsageError: The query is faulty, is no SELECT, costs more than `max_cost_usd`, or the account may not
            run it; or it reads a table that changed after `snapshot`, and does not say `@snapshot`.
        GauntletError: BigQuery cannot be reached, or refuses.
    """
    with _client(uri) as client:
        tried = _dry_run(client, query, snapshot)
        price = Price(tried.total_bytes_processed, USD_PER_TIB_OF_A_QUERY)
        _require_affordable(f"{uri}: dataset.query", price, max_cost_usd)
        job = client.query(query, _settings(query, snapshot), **_patience(), job_retry=None)
        job.result(max_results=0, timeout=SECONDS_OF_A_QUERY)
        _require_unchanged(client, uri, query, tried, snapshot)
        found = client.get_table(job.destination, **_patience())
        columns = {field.name: field.field_type for field in found.schema}
        path = f"projects/{found.project}/datasets/{found.dataset_id}/tables/{found.table_id}"
        return Rows(uri, columns, path, None, client.project, price)


def tables_of(uri: str, query: str) -> tuple[str, ...]:
    """The URIs of the tables that a query reads, by a dry run, which costs nothing. Raises `open_query`'s."""
    with _client(uri) as client:
        return tuple(sorted(map(_uri, _dry_run(client, query, None).referenced_tables)))


def identities(uris: Iterable[str]) -> dict[str, str | None]:
    """For each table a text that changes when its rows do; None for one that does not exist.

    It is the time of the last change. That of a view is made of its query and of the tables that it reads.
    Those of external tables, of which BigQuery does not know when they change, differ in each call.
    """
    found: dict[str, str | None] = {}
    for uri in dict.fromkeys(uris):
        with _client(uri) as client:
            found[uri] = _identity(client, uri)
    return found


def latest_change(identities_of: Iterable[str | None]) -> datetime | None:
    """The time at which all tables with these identities were as they are; None if it is not known."""
    times = []
    for identity in identities_of:
        if identity is None or not identity.startswith(MODIFIED) or " " in identity:
            return None
        times.append(datetime.fromisoformat(identity.removeprefix(MODIFIED)))
    return max(times, default=None)


MODIFIED = "modified:"


def _identity(client: Any, uri: str) -> str | None:
    from google.api_core.exceptions import Forbidden

    try:
        table = _table(client, uri)
    except UsageError as error:
        if isinstance(error.__cause__, Forbidden):
            raise
        return None
    if table.table_type in STORED:
        # BigQuery has the time in whole milliseconds, so the change itself may be later by less than one
        changed = (table.modified + timedelta(milliseconds=1)).isoformat()
        buffered = table.streaming_buffer
        rows = f" and {buffered.estimated_rows} rows in the streaming buffer" if buffered else ""
        return f"{MODIFIED}{changed}{rows}"
    if table.table_type == OF_QUERY and not table.view_use_legacy_sql:
        inner = sorted(map(_uri, _dry_run(client, table.view_query, None).referenced_tables))
        said = [table.view_query, *(f"{one}={_identity(client, one)}" for one in inner)]
        return f"view:{hashlib.sha256(repr(said).encode()).hexdigest()}"
    return f"unknown:{uuid4().hex}"


def _table(client: Any, uri: str) -> Any:
    from google.cloud import bigquery

    project, dataset, table = uri.removeprefix(SCHEME).rsplit(".", 2)
    reference = bigquery.DatasetReference(project, dataset).table(table)
    with _explained(uri, client.project):
        return client.get_table(reference, **_patience())


def _uri(reference: Any) -> str:
    return f"{SCHEME}{reference.project}.{reference.dataset_id}.{reference.table_id}"


def _too_long_ago(uri: str, changed: datetime, snapshot: datetime) -> str:
    return (
        f"{uri}: changed at {changed.isoformat()}, after {snapshot.isoformat()}, and a snapshot can be "
        f"{TIME_TRAVEL.days} days old. Set a later dataset.snapshot, or none"
    )


def _travelled(snapshot: datetime | None) -> datetime | None:
    return None if snapshot is None or snapshot < datetime.now(UTC) - TIME_TRAVEL else snapshot


def _settings(query: str, snapshot: datetime | None, dry_run: bool = False) -> Any:
    from google.cloud import bigquery

    named = f"@{SNAPSHOT_PARAMETER}" in query
    when = _travelled(snapshot) or datetime.now(UTC)
    parameters = [bigquery.ScalarQueryParameter(SNAPSHOT_PARAMETER, "TIMESTAMP", when)] if named else []
    return bigquery.QueryJobConfig(dry_run=dry_run, use_query_cache=not dry_run, query_parameters=parameters)


def _dry_run(client: Any, query: str, snapshot: datetime | None) -> Any:
    """The job of a query that is checked and not run. Raises a UsageError if it is faulty or no SELECT."""
    settings = _settings(query, snapshot, dry_run=True)
    job = client.query(query, settings, **_patience(), job_retry=None)
    if job.statement_type != "SELECT":
        raise UsageError(
            f"dataset.query: found the statement {job.statement_type}, expected a SELECT. Correct it"
        )
    return job


def _patience() -> dict[str, Any]:
    """The time limits of a request, and of its retries."""
    from google.cloud import bigquery

    return {"timeout": SECONDS_OF_A_REQUEST, "retry": bigquery.DEFAULT_RETRY.with_timeout(SECONDS_OF_RETRIES)}


def _require_affordable(what: str, price: Price, most: float | None) -> None:
    print(f"{what}: reads {price}", flush=True)
    if most is not None and price.usd > most:
        raise UsageError(
            f"{what}: found a price of {price.usd:,.4f} USD, expected at most {most:g} "
            "(dataset.max_cost_usd). Read fewer columns or rows, or raise it"
        )


def _require_unchanged(client: Any, uri: str, query: str, tried: Any, snapshot: datetime | None) -> None:
    named = f"@{SNAPSHOT_PARAMETER}" in query
    if snapshot is None or (named and _travelled(snapshot) is not None):
        return
    for table in map(_uri, tried.referenced_tables):
        if (changed := _table(client, table).modified) > snapshot:
            if named:
                raise UsageError(_too_long_ago(table, changed, snapshot))
            raise UsageError(
                f"{uri}: dataset.query: {table} changed at {changed.isoformat()}, after the data were "
                f"fingerprinted ({snapshot.isoformat()}). Run again, or read the table as it was then: "
                f"FROM `{table.removeprefix(SCHEME)}` FOR SYSTEM_TIME AS OF @{SNAPSHOT_PARAMETER}"
            )


def _ordered(table: pa.Table) -> pa.Table:
    """The rows in the order of their values as JSON: the API gives them in any order."""
    if not table.num_rows:
        return table
    rows = pl.DataFrame(pl.from_arrow(table)).with_columns(selectors.binary().bin.encode("hex"))
    keys = rows.select(pl.struct(pl.all()).struct.json_encode()).to_series()
    return table.take(pa.array(keys.arg_sort().to_numpy()))


def _without_decimals(table: pa.Table) -> pa.Table:
    """The table with NUMERIC and BIGNUMERIC as floating point, which all readers know."""
    fields = [pa.field(f.name, pa.float64() if pa.types.is_decimal(f.type) else f.type) for f in table.schema]
    return table.cast(pa.schema(fields))


@contextmanager
def _client(uri: str) -> Iterator[Any]:
    """A client for the project that a URI names, or else for that of the login."""
    from google.cloud import bigquery

    project = uri.removeprefix(SCHEME)
    with _explained(uri, project):
        client = bigquery.Client(project=None if "." in project.rpartition(":")[2] else project)
        with _explained(uri, client.project):
            yield client


@contextmanager
def _explained(uri: str, project: str) -> Iterator[None]:
    """Turn what BigQuery's clients raise into one message."""
    from google.api_core.exceptions import BadRequest, Forbidden, NotFound

    with explained(HOST):
        try:
            yield
        except NotFound as error:
            raise UsageError(f"{uri}: not found ({first_line(error)}). Correct the table's name") from error
        except Forbidden as error:
            raise UsageError(
                f"{uri}: permission denied ({first_line(error)}). Give this account the role "
                "roles/bigquery.dataViewer on the dataset, and roles/bigquery.readSessionUser and "
                f"roles/bigquery.jobUser in the project {project}"
            ) from error
        except BadRequest as error:
            raise UsageError(
                f"{uri}: {first_line(error)}. Correct dataset.query or dataset.snapshot"
            ) from error
