"""Where the records of a model are kept: each is one JSON file, changed by compare-and-set.

On this machine that of a deployment is `GAUNTLET_HOME/deployments/NAME.json`, and that of the monitoring is
in `monitoring`; with a registry on Vertex AI they are objects in the staging bucket, so that any machine can
go on with a rollout or an episode.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from gauntlet.backends.deployment import ConflictError
from gauntlet.backends.processes import home_folder
from gauntlet.contracts.document import Document, parse_json
from gauntlet.contracts.monitoring import MonitoringRecord
from gauntlet.contracts.rollout import FORMAT, DeploymentRecord
from gauntlet.manifests.errors import GauntletError, UsageError

FOLDER, MONITORING_FOLDER = "deployments", "monitoring"
VERTEX = "vertex://"
Kind = TypeVar("Kind", bound=Document)


class Records(ABC):
    """The record of one model. `place` is its path or URI."""

    place: str

    def read(self) -> tuple[DeploymentRecord | None, str]:
        """The record (None before the first rollout) and its generation, which `write` compares.

        Raises:
            UsageError: A newer release wrote it.
            GauntletError: It cannot be read.
        """
        advice = "`gauntlet rollback` works without it. Remove the file to begin a new record"
        return self._parsed(DeploymentRecord, "the record of a deployment", advice)

    def _parsed(self, kind: type[Kind], what: str, advice: str) -> tuple[Kind | None, str]:
        content, generation = self._read()
        if content is None:
            return None, generation
        try:
            found = parse_json(content)
            newer = found.get("format", FORMAT) if isinstance(found, dict) else FORMAT
            if newer != FORMAT:
                raise UsageError(
                    f"{self.place}: format: found {newer!r}, expected {FORMAT}. Another release of Gauntlet "
                    "wrote it: use that release, or `gauntlet rollback`, which needs no record."
                )
            return kind.model_validate(found), generation
        except (ValueError, ValidationError) as error:
            cause = str(error).splitlines()[0]
            raise GauntletError(f"{self.place}: not {what} ({cause}). {advice}.") from None

    def write(self, record: DeploymentRecord, generation: str) -> str:
        """Replace the record of that generation, whole or not at all; returns the new generation.

        Raises:
            ConflictError: Another process has changed the record since it was read.
            GauntletError: It cannot be written, as on a full disk. The old record stays.
        """
        return self._write(_content(record), generation)

    def _changed(self) -> ConflictError:
        return ConflictError(f"{self.place}: another process has changed it in the meantime. Look again.")

    @abstractmethod
    def _read(self) -> tuple[bytes | None, str]: ...

    @abstractmethod
    def _write(self, content: bytes, generation: str) -> str: ...


class FileRecords(Records):
    """A file on this machine."""

    def __init__(self, path: Path) -> None:
        self.place, self._path = str(path), path

    def _read(self) -> tuple[bytes | None, str]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None, ""
        except OSError as error:
            raise GauntletError(f"{self.place}: cannot be read ({error.strerror}).") from None
        return content, hashlib.sha256(content).hexdigest()

    def _write(self, content: bytes, generation: str) -> str:
        temporary = self._path.with_suffix(".tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self._read()[1] != generation:
                    raise self._changed()
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self._path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise GauntletError(
                f"{self.place}: cannot be written ({error.strerror}), so nothing was changed. Make room or "
                "give permission, then run the command again."
            ) from None
        return hashlib.sha256(content).hexdigest()


class BucketRecords(Records):
    """An object in Cloud Storage, compared by its generation."""

    def __init__(self, project: str, uri: str) -> None:
        self.place = uri
        self._project = project
        self._bucket, _, self._name = uri.removeprefix("gs://").partition("/")

    def _read(self) -> tuple[bytes | None, str]:
        from google.api_core.exceptions import NotFound

        try:
            blob = self._client().bucket(self._bucket).blob(self._name)
            content = blob.download_as_bytes(timeout=10)
        except NotFound:
            return None, "0"
        except Exception as error:  # credentials, network, permission
            raise GauntletError(f"{self.place}: cannot be read ({error}).") from None
        return bytes(content), str(blob.generation)

    def _write(self, content: bytes, generation: str) -> str:
        from google.api_core.exceptions import PreconditionFailed

        try:
            blob = self._client().bucket(self._bucket).blob(self._name)
            blob.upload_from_string(content, if_generation_match=int(generation), timeout=10)
        except PreconditionFailed:
            raise self._changed() from None
        except Exception as error:  # as in `_read`
            raise GauntletError(
                f"{self.place}: cannot be written ({error}), so nothing was changed. Run the command again."
            ) from None
        return str(blob.generation)

    def _client(self) -> Any:
        from google.cloud import storage

        return storage.Client(project=self._project)


class MonitoringRecords:
    """The record of a model's monitoring, kept as that of its deployment is."""

    def __init__(self, file: Records) -> None:
        self.place, self._file = file.place, file

    def read(self) -> tuple[MonitoringRecord | None, str]:
        """The record (None before the first window) and its generation; raises as `Records.read`."""
        advice = "Remove the file to begin a new record: an episode that lasts is then forgotten"
        return self._file._parsed(MonitoringRecord, "the record of a monitoring", advice)

    def write(self, record: MonitoringRecord, generation: str) -> str:
        """Replace the record of that generation; as `Records.write`."""
        return self._file._write(_content(record), generation)


def _content(record: Document) -> bytes:
    return json.dumps(record.as_json(), indent=1, ensure_ascii=False, allow_nan=False).encode()


def open_records(name: str, registry_uri: str) -> Records:
    """The record of the deployment of the model `name`."""
    return _opened(FOLDER, name, registry_uri)


def open_monitoring(name: str, registry_uri: str) -> MonitoringRecords:
    """The record of the monitoring of the model `name`."""
    return MonitoringRecords(_opened(MONITORING_FOLDER, name, registry_uri))


def _opened(folder: str, name: str, registry_uri: str) -> Records:
    if registry_uri.startswith(VERTEX):
        from gauntlet.backends.google.location import VertexLocation

        location = VertexLocation.of(registry_uri)
        if location.staging is not None:
            uri = f"{location.staging.rstrip('/')}/{folder}/{name}.json"
            return BucketRecords(location.project, uri)
    return FileRecords(home_folder(registry_uri) / folder / f"{name}.json")
