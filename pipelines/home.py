"""The folder for runs, models and metrics on this machine: `GAUNTLET_HOME`, by default `./.gauntlet`.

`GAUNTLET_REGISTRY` is the URI of another registry for the models. `GAUNTLET_HOME_GB` bounds runs and cache.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.local.processes import acquire, is_locked

RUN_FILE = "run.json"
REPORT_FILE = "report.html"
MANIFEST_FILE = "manifest.yaml"
PIPELINE_FILE = "pipeline.yaml"
ARGUMENTS_FILE = "arguments.json"
STEPS_FOLDER = "steps"
SECTIONS_FOLDER = "sections"
STATES_FOLDER = "states"
LOGS_FOLDER = "logs"
LOCK_FILE = "lock"

# MLflow reads a database's path as part of a URI: a question mark ends it, %20 is a space.
NOT_IN_A_URI = re.compile(r"\?|%[0-9A-Fa-f]{2}")

State = Literal["running", "submitted", "finished", "interrupted"]


@dataclass(frozen=True)
class RunRecord:
    """The content of `run.json`: a run on this machine, or submitted from it. Times are ISO 8601 in UTC.

    Attributes:
        cache: Whether its steps may reuse the outputs of earlier runs.
        judged_run: The finished run whose model this run judges again, if `gauntlet gate` started it.
        manifest: The file that it was started with.
        manifest_commit: The commit of the repository that holds that file; `-dirty` with changes.
    """

    run_id: str
    name: str
    started: str
    pid: int
    state: State = "running"
    finished: str | None = None
    exit_code: int | None = None
    outcome: str = ""
    cache: bool = True
    judged_run: str = ""
    manifest: str = ""
    manifest_commit: str = ""

    def shown_state(self) -> str:
        """The outcome in words; a run whose process has gone without finishing was interrupted."""
        if self.state == "running" and not Path(f"/proc/{self.pid}").exists():
            return "interrupted"
        return self.outcome or self.state


@dataclass(frozen=True)
class Home:
    """The folder, and the paths in it."""

    folder: Path

    @property
    def store_uri(self) -> str:
        """The SQLite database that MLflow's registry and tracking share."""
        return f"sqlite:///{self.folder / 'gauntlet.db'}"

    @property
    def registry_uri(self) -> str:
        """The registry that commands read and local runs register in."""
        return os.environ.get("GAUNTLET_REGISTRY") or self.store_uri

    def run_folder(self, run_id: str) -> Path:
        """The folder of a run's files."""
        return self.folder / "runs" / run_id

    @property
    def cache_folder(self) -> Path:
        """The cache of steps' outputs, which later runs may reuse."""
        return self.folder / "cache"

    @property
    def token_folder(self) -> Path:
        """Token ids of splits, which later trainings on the same rows may reuse."""
        return self.cache_folder / "tokens"

    def tuning_folder(self, name: str) -> Path:
        """The folder of a system's studies."""
        return self.folder / "tuning" / name

    def validation_folder(self, name: str) -> Path:
        """The folder of what `gauntlet validate` finds in a system's data."""
        return self.folder / "validation" / name

    def create_run(self, name: str) -> RunRecord:
        """Create a run's folder, named by system and time, or raise a `UsageError` if that is impossible."""
        now = datetime.now(UTC)
        base = f"{name}-{now:%Y%m%d-%H%M%S}"
        for attempt in range(1, 1000):
            run_id = base if attempt == 1 else f"{base}-{attempt}"
            try:
                self.run_folder(run_id).mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise UsageError(
                    f"{self.folder}: cannot be written ({error.strerror}). "
                    "Set GAUNTLET_HOME to a folder that can."
                ) from None
            record = RunRecord(run_id, name, now.isoformat(timespec="seconds"), os.getpid())
            self.save(record)
            return record
        raise UsageError(f"{self.folder / 'runs'}: has a thousand runs named {base}. Remove some of them.")

    @contextmanager
    def working_on(self, record: RunRecord) -> Iterator[int]:
        """Hold the run's lock, or raise a `UsageError`; yields its descriptor, which children inherit."""
        lock = acquire(self.run_folder(record.run_id) / LOCK_FILE)
        if lock is None:
            raise UsageError(
                f"run {record.run_id}: it is running. Wait until it ends, or stop it with Ctrl-C."
            )
        try:
            yield lock
        finally:
            os.close(lock)

    def is_running(self, record: RunRecord) -> bool:
        """Whether a process works on the run."""
        return is_locked(self.run_folder(record.run_id) / LOCK_FILE)

    def save(self, record: RunRecord) -> None:
        """Write `run.json` atomically."""
        path = self.run_folder(record.run_id) / RUN_FILE
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(record), indent=2), encoding="utf-8")
        temporary.replace(path)

    def finish(self, record: RunRecord, state: State, exit_code: int, outcome: str) -> RunRecord:
        """Record how a run ended."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        done = replace(record, state=state, finished=now, exit_code=exit_code, outcome=outcome)
        self.save(done)
        return done

    def runs(self) -> list[RunRecord]:
        """All runs, newest first, except folders without a readable record."""
        records = []
        for path in (self.folder / "runs").glob(f"*/{RUN_FILE}"):
            try:
                records.append(RunRecord(**json.loads(path.read_text(encoding="utf-8"))))
            except (ValueError, TypeError):
                continue
        return sorted(records, key=lambda record: (record.started, record.run_id), reverse=True)

    def find_run(self, run_id: str) -> RunRecord:
        """A run by its id, or the newest for `latest`; a `UsageError` if there is none."""
        records = self.runs()
        for record in records:
            if run_id in {record.run_id, "latest"}:
                return record
        known = ", ".join(record.run_id for record in records[:5]) or "none yet"
        raise UsageError(f"run {run_id!r}: not found under {self.folder / 'runs'}. The newest are: {known}.")


def most_bytes() -> float | None:
    """How much runs and the cache of a home may take, if `GAUNTLET_HOME_GB` says so."""
    said = os.environ.get("GAUNTLET_HOME_GB")
    if not said:
        return None
    try:
        gigabytes = float(said)
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise UsageError(f"GAUNTLET_HOME_GB: found {said!r}, expected a number of gigabytes, such as 20")
    return gigabytes * 1e9


def gauntlet_home() -> Home:
    """The home that this process uses, or a `UsageError` if a database's URI cannot contain its path."""
    folder = Path(os.environ.get("GAUNTLET_HOME", ".gauntlet")).absolute()
    if found := NOT_IN_A_URI.search(str(folder)):
        raise UsageError(
            f"GAUNTLET_HOME: {folder}: found {found[0]!r}, which the URI of a database cannot contain. "
            "Choose a folder whose path is without it."
        )
    return Home(folder)
