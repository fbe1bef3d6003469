"""The SQLite database that MLflow's tracking and model registry share: created, opened and locked.

This module adds three things to MLflow:

- A new database is built in a temporary file and renamed under a lock, so two processes cannot migrate the
  same file, and a killed process leaves no half-built database.
- MLflow sends no usage statistics and writes no log; its failures are exceptions.
- A database that is locked, read-only, damaged or of another MLflow version gives one message.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gauntlet.backends.processes import KUBEFLOW, PLATFORM_VARIABLE
from gauntlet.manifests.errors import GauntletError, UsageError

if TYPE_CHECKING:
    from mlflow import MlflowClient

SCHEME = "sqlite:///"
MOUNTED_BUCKETS = "/gcs"
"""Where Vertex AI and Kubeflow mount Cloud Storage."""
LEFT_BY_WRITERS = ("-journal", "-wal", "-shm")
OF_ANOTHER_SCHEMA = ("no such table", "no such column")
OUT_OF_DATE = "out-of-date database schema"
"""In the message of MLflow's schema check."""
LOCK_SECONDS = 300.0  # creating a database takes a minute on a busy machine
_POLL_SECONDS = 0.02

_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "CRITICAL"}
"""MLflow reads these when it is first imported. A value that the user has set has priority."""


def database_path(uri: str, setting: str) -> Path:
    """The file that a `sqlite:///` URI names, as an absolute path.

    A path in a bucket that is mounted as a folder is refused: SQLite has no locks between machines there, and
    fails with disk I/O errors. In a pod of Kubeflow every path is refused. Errors name the `setting` that the
    URI was given for.

    Raises:
        UsageError: The URI has another scheme or names no file, or the file would be lost or damaged.
    """
    name = uri.removeprefix(SCHEME)
    if not uri.startswith(SCHEME) or not name or name == ":memory:" or "?" in name:
        raise UsageError(
            f"{setting}: found {uri!r}, expected a SQLite file, such as {SCHEME}/absolute/path/gauntlet.db."
        )
    if os.environ.get(PLATFORM_VARIABLE) == KUBEFLOW:
        raise UsageError(
            f"{setting}: found {uri!r}, a file that is deleted with this pod, expected a server. Start the "
            "run with mlflow+https://HOST or mlflow+http://HOST:PORT, or with vertex://PROJECT/REGION?…."
        )
    database = Path(name).absolute()
    if database.is_relative_to(MOUNTED_BUCKETS):
        bucket = "/".join(database.parts[2:-1]) or "BUCKET"
        raise UsageError(
            f"{setting}: found {uri!r}, expected no database under {MOUNTED_BUCKETS}: a bucket that is "
            "mounted as a folder lacks the locks and renames that SQLite needs. Use "
            f"vertex://PROJECT/REGION?staging=gs://{bucket}."
        )
    return database


def open_client(database: Path) -> MlflowClient:
    """An MLflow client on the database, which is created if it does not exist.

    Raises:
        GauntletError: It cannot be created or read, or is not a database of this MLflow version.
    """
    with explained(database):
        if not database.exists():
            with locked(database):
                if not database.exists():
                    _create(database)
        _require_readable(database)
        set_environment()
        from mlflow import MlflowClient

        uri = f"{SCHEME}{database}"
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


@dataclass(frozen=True)
class StoredModel:
    """A registered model of MLflow. `aliases` are the versions that they point to."""

    aliases: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True)
class StoredVersion:
    """A version of a registered model of MLflow. `creation_timestamp` is in milliseconds."""

    name: str
    version: str
    source: str
    creation_timestamp: int
    tags: Mapping[str, str]


class DatabaseReader:
    """Reads the model registry in a database without MLflow, whose import takes more than a second.

    A database that does not exist is an empty registry. A test compares what this reads with MLflow's client.
    """

    def __init__(self, database: Path) -> None:
        self._database = database

    def names(self) -> list[str]:
        """The names of all models."""
        with self._opened() as query:
            return [str(name) for (name,) in query("SELECT name FROM registered_models WHERE {here}")]

    def model(self, name: str) -> StoredModel | None:
        """The model of that name, or None if it is not registered."""
        with self._opened() as query:
            if not query("SELECT name FROM registered_models WHERE {here} AND name = ?", name):
                return None
            of_model = "WHERE {here} AND name = ?"
            aliases = query(f"SELECT alias, version FROM registered_model_aliases {of_model}", name)
            tags = query(f"SELECT key, value FROM registered_model_tags {of_model}", name)
        return StoredModel({alias: str(version) for alias, version in aliases}, dict(tags))

    def versions(self, name: str, number: str | None = None) -> list[StoredVersion]:
        """All versions of a model, or the one with a number."""
        chosen = "WHERE {here} AND name = ? AND (? IS NULL OR version = ?)"
        with self._opened() as query:
            found = query(
                f"SELECT version, source, creation_time FROM model_versions {chosen} "
                "AND current_stage IS NOT 'Deleted_Internal'",  # MLflow's mark of a deleted version
                name,
                number,
                number,
            )
            rows = query(f"SELECT version, key, value FROM model_version_tags {chosen}", name, number, number)
        tags: dict[int, dict[str, str]] = {}
        for version, key, value in rows:
            tags.setdefault(version, {})[key] = value
        return [
            StoredVersion(name, str(version), source, created, tags.get(version, {}))
            for version, source, created in found
        ]

    @contextmanager
    def _opened(self) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
        """A function that answers queries, all of them on one state of the database."""
        if not self._database.exists():
            yield lambda *_: []
            return
        with explained(self._database):
            _require_readable(self._database)
            uri = f"{self._database.as_uri()}?mode=rw"  # so that SQLite can undo what a killed writer left
            with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
                connection.execute("BEGIN")
                try:
                    yield lambda sql, *values: connection.execute(
                        sql.format(here="workspace = 'default'"), values
                    ).fetchall()
                except sqlite3.OperationalError as error:
                    if not str(error).startswith(OF_ANOTHER_SCHEMA):
                        raise
                    raise sqlite3.DatabaseError(OUT_OF_DATE) from error


@contextmanager
def locked(database: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock for writes that belong together. All processes of Gauntlet use the same one.

    The kernel releases it when the holder dies. It is not reentrant.

    Raises:
        GauntletError: Another process has held it for `seconds`, or the folder cannot be written.
    """
    path = database.with_name(database.name + ".lock")
    deadline = time.monotonic() + seconds
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written ({error.strerror}), so nothing can be recorded in {database}. "
            "Make the folder writable, or name another one."
        ) from None
    with handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise GauntletError(
                        f"{database}: another process has been writing to it for {seconds:g} s. "
                        "Wait for it, or end it, and run this again."
                    ) from None
                time.sleep(_POLL_SECONDS)
        yield


@contextmanager
def explained(database: Path) -> Iterator[None]:
    """Turn a failure of SQLite, even one that MLflow wrapped, into a `GauntletError`."""
    try:
        yield
    except GauntletError:
        raise
    except Exception as error:
        cause = _database_failure(error)
        if cause is None:
            raise
        raise GauntletError(f"{database}: {cause}. {_advice(cause)}") from error


def set_environment() -> None:
    """Set MLflow's variables. Call this before its first import."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def _create(database: Path) -> None:
    set_environment()
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables  # what `mlflow db upgrade` runs on an empty file

    temporary = database.with_name(database.name + ".tmp")
    temporary.unlink(missing_ok=True)
    engine = sqlalchemy.create_engine(f"{SCHEME}{temporary}")

    @sqlalchemy.event.listens_for(engine, "connect")
    def _skip_syncing(connection: sqlite3.Connection, _: object) -> None:
        # Nobody uses the temporary file yet, and 60 migrations that each wait for the disk take seconds.
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")

    try:
        _initialize_tables(engine)
    finally:
        engine.dispose()
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    for ending in LEFT_BY_WRITERS:  # of a deleted database: SQLite would apply them to this one
        database.with_name(database.name + ending).unlink(missing_ok=True)
    temporary.replace(database)


def _require_readable(database: Path) -> None:
    if database.is_dir():
        raise GauntletError(
            f"{database}: found a folder, expected a SQLite file. Name another file, or move the folder away."
        )
    # MLflow retries for minutes when the file is not a database, so it is checked here first. It is opened
    # for writing, so that SQLite can roll back an interrupted transaction; a reader cannot do that. If the
    # file is read-only, SQLite opens it for reading.
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
        [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:  # `_create` renames a complete database, so this one had content and lost it
        raise sqlite3.DatabaseError("found nothing in the file, so it is not a database of Gauntlet")


def _database_failure(error: BaseException | None) -> str | None:
    """The message of SQLite, or of MLflow's schema check, in the chain of exceptions."""
    while error is not None:
        if OUT_OF_DATE in str(error):
            return "it was written by another version of MLflow"
        if isinstance(error, sqlite3.Error):
            return str(error)
        error = getattr(error, "orig", None) or error.__cause__ or error.__context__
    return None


def _advice(cause: str) -> str:
    if "locked" in cause:
        return "Another process is writing to it: wait for it, or end it, and run this again."
    if "readonly" in cause or "unable to open" in cause:
        return "Make the file and its folder writable, or name another one."
    if "full" in cause:
        return "Make room on the disk and run this again."
    if "not a database" in cause or "malformed" in cause:
        return "The file is damaged: restore it from a copy, or move it away to start a new one."
    if "version of MLflow" in cause:
        return "Copy it, then run `mlflow db upgrade sqlite:///PATH` on it."
    return "Run this again; if it fails again, move the file away to start a new one."
