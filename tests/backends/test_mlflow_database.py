from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gauntlet.backends.local.mlflow_database import (
    DatabaseReader,
    database_path,
    explained,
    locked,
    open_client,
)
from gauntlet.manifests.errors import GauntletError, UsageError

OPEN_AND_REPORT = """
import sys
from pathlib import Path
from gauntlet.backends.local.mlflow_database import DatabaseReader, open_client
client = open_client(Path(sys.argv[1]))
from mlflow.telemetry import get_telemetry_client
print(client.get_experiment_by_name("Default").name, get_telemetry_client())
"""


def environment_of_a_user() -> dict[str, str]:
    """This process's environment without what makes MLflow think that it is being tested."""
    hidden = ("CI", "PYTEST", "MLFLOW", "GITHUB", "DO_NOT_TRACK")
    return {key: value for key, value in os.environ.items() if not key.startswith(hidden)}


def test_two_processes_make_one_database_quietly_and_without_telemetry(tmp_path: Path) -> None:
    database = tmp_path / "new" / "gauntlet.db"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AND_REPORT, str(database)],
            env=environment_of_a_user(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]

    outputs = [process.communicate() for process in processes]

    assert outputs == [("Default None\n", "")] * 2
    assert sorted(path.name for path in database.parent.iterdir()) == ["gauntlet.db", "gauntlet.db.lock"]


def test_mlflow_is_not_imported_before_it_is_needed() -> None:
    modules = ", ".join(
        f"gauntlet.backends.{name}" for name in ("registry", "local.registry", "tracking", "prices")
    )
    imports = f"import sys, {modules}; "
    command = imports + "print('mlflow' in sys.modules, 'onnxruntime' in sys.modules)"

    output = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)

    assert output.stdout == "False False\n"


def test_a_database_that_was_cut_short_while_being_made_is_made_again(tmp_path: Path) -> None:
    database = tmp_path / "gauntlet.db"
    with closing(sqlite3.connect(tmp_path / "gauntlet.db.tmp")) as half_made:
        half_made.execute("CREATE TABLE experiments (name TEXT)")

    assert open_client(database).search_registered_models() == []
    assert not (tmp_path / "gauntlet.db.tmp").exists()


def test_a_file_that_is_no_database_is_named_at_once(tmp_path: Path) -> None:
    database = tmp_path / "gauntlet.db"
    database.write_text("this is not a database, and it is long enough to be looked at" * 20)

    with pytest.raises(GauntletError, match=r"gauntlet\.db: file is not a database\. The file is damaged"):
        open_client(database)


KILLED_WHILE_WRITING = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 2")  # so that changed pages reach the file
connection.execute("BEGIN IMMEDIATE")
connection.execute("CREATE TABLE unfinished (x)")
connection.executemany("INSERT INTO unfinished VALUES (?)", [("x" * 500,)] * 500)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_that_was_killed_leaves_a_database_that_the_next_reader_opens(tmp_path: Path) -> None:
    database = tmp_path / "gauntlet.db"
    open_client(database).create_registered_model("kept")
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(database)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    journal = tmp_path / "gauntlet.db-journal"
    assert journal.stat().st_size > 0
    assert [model.name for model in open_client(database).search_registered_models()] == ["kept"]
    assert not journal.exists()


def test_the_journal_of_a_deleted_database_is_not_applied_to_the_next_one(tmp_path: Path) -> None:
    database = tmp_path / "gauntlet.db"
    database.with_name("gauntlet.db-journal").write_bytes(b"of another database")
    assert open_client(database).search_registered_models() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gauntlet.db", "gauntlet.db.lock"]


def test_an_emptied_database_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    database = tmp_path / "gauntlet.db"
    database.touch()
    with pytest.raises(GauntletError, match=r"gauntlet\.db: found nothing in the file.*restore it"):
        open_client(database)


@pytest.mark.timeout(120)  # MLflow alone tries for minutes
def test_a_folder_in_the_databases_place_is_named_at_once(tmp_path: Path) -> None:
    database = tmp_path / "gauntlet.db"
    database.mkdir()

    with pytest.raises(GauntletError, match=r"gauntlet\.db: found a folder.*move the folder away"):
        open_client(database)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UsageError, match=r"file/gauntlet\.db\.lock: cannot be written"):
        open_client(tmp_path / "file" / "gauntlet.db")


def test_a_database_of_another_mlflow_version_says_how_to_bring_it_up_to_date(tmp_path: Path) -> None:
    database = tmp_path / "gauntlet.db"
    open_client(database)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    older = database.rename(tmp_path / "older.db")

    with pytest.raises(GauntletError, match=r"another version of MLflow.*mlflow db upgrade"):
        open_client(older)


def test_a_database_that_another_process_writes_to_is_explained(tmp_path: Path) -> None:
    database = tmp_path / "gauntlet.db"
    with (
        closing(sqlite3.connect(database, isolation_level=None)) as holder,
        closing(sqlite3.connect(database, timeout=0)) as waiting,
    ):
        holder.execute("BEGIN EXCLUSIVE")
        with (
            pytest.raises(GauntletError, match=r"database is locked.*wait for it, or end it"),
            explained(database),
        ):
            waiting.execute("CREATE TABLE anything (x)")


def test_a_read_only_database_is_explained(tmp_path: Path) -> None:
    database = tmp_path / "gauntlet.db"
    sqlite3.connect(database).close()
    with (
        closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection,
        pytest.raises(GauntletError, match=r"readonly database.*writable"),
        explained(database),
    ):
        connection.execute("CREATE TABLE anything (x)")


def test_an_error_that_is_not_the_databases_keeps_its_type(tmp_path: Path) -> None:
    with pytest.raises(KeyError), explained(tmp_path / "gauntlet.db"):
        raise KeyError("a bug")


def test_the_lock_is_waited_for_and_then_given_up_with_advice(tmp_path: Path) -> None:
    database = tmp_path / "gauntlet.db"
    with locked(database), pytest.raises(GauntletError, match=r"another process.*0\.05 s"):  # noqa: SIM117
        with locked(database, seconds=0.05):
            pass

    with locked(database, seconds=0):
        pass


@pytest.mark.parametrize(
    "uri",
    ["", "http://localhost:5000", "gs://bucket/models", "sqlite://", "sqlite:///", "sqlite:///:memory:"],
)
def test_only_sqlite_files_are_supported_and_the_message_shows_one(uri: str) -> None:
    with pytest.raises(
        UsageError, match=r"registry URI: found .*expected a SQLite file.*sqlite:////absolute"
    ):
        database_path(uri, "registry URI")


@pytest.mark.parametrize("setting", ["registry URI", "tracking URI"])
def test_a_database_in_a_mounted_bucket_is_refused_with_what_works_instead(setting: str) -> None:
    expected = (
        r"found 'sqlite:////gcs/my-bucket/x/g\.db'.*vertex://PROJECT/REGION\?staging=gs://my-bucket/x\."
    )
    with pytest.raises(UsageError, match=f"{setting}: {expected}"):
        database_path("sqlite:////gcs/my-bucket/x/g.db", setting)
    assert database_path("sqlite:////gcs-copy/g.db", setting) == Path("/gcs-copy/g.db")


def test_a_relative_uri_is_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert database_path("sqlite:///sub/gauntlet.db", "registry URI") == tmp_path / "sub" / "gauntlet.db"
    assert database_path("sqlite:////data/g.db", "registry URI") == Path("/data/g.db")


def test_what_is_read_without_mlflow_is_what_its_client_reads(tmp_path: Path) -> None:
    database = tmp_path / "gauntlet.db"
    client = open_client(database)
    for name in ("moods", "cards"):
        client.create_registered_model(name, tags={"note": "a b"})
    for number in range(3):
        client.create_model_version("moods", f"{tmp_path}/{number}", tags={"run_id": str(number), "é": "ü"})
    client.set_registered_model_alias("moods", "champion", "2")
    client.delete_model_version("moods", "3")

    reader = DatabaseReader(database)
    models = {model.name: model for model in client.search_registered_models()}
    assert sorted(reader.names()) == sorted(models)
    for name in models:
        model, read = client.get_registered_model(name), reader.model(name)
        assert read is not None
        assert (dict(read.aliases), dict(read.tags)) == (
            {alias: str(number) for alias, number in model.aliases.items()},
            model.tags,
        )
        known = {str(one.version): one for one in client.search_model_versions(f"name='{name}'")}
        versions = {one.version: one for one in reader.versions(name)}
        assert versions.keys() == known.keys()
        for number, one in versions.items():
            assert [one] == reader.versions(name, number)
            assert (one.name, one.source, one.creation_timestamp, one.tags) == (
                *(name, known[number].source, known[number].creation_timestamp),
                known[number].tags,
            )
    assert reader.model("unknown") is None and reader.versions("moods", "3") == []


def test_a_database_with_other_columns_is_of_another_mlflow_version(tmp_path: Path) -> None:
    database = tmp_path / "gauntlet.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE registered_models (name TEXT)")
    with pytest.raises(GauntletError, match=r"another version of MLflow.*mlflow db upgrade"):
        DatabaseReader(database).names()
