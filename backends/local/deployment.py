"""The deployment target on this machine: a gateway in front of a server process for each revision.

There is one gateway for each GAUNTLET_HOME; `serving.revisions` is its program. This module asks it for
changes over the Unix socket `gateway/admin.sock`, and starts it when it is needed.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gauntlet.backends.deployment import (
    Answer,
    ArmCounts,
    Assignment,
    ConflictError,
    Deployment,
    Evidence,
    PairCounts,
    Release,
    Revision,
    Service,
    Shadow,
)
from gauntlet.backends.processes import home_folder
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.serving.settings import LOG_SETTINGS

FOLDER, ADMIN_SOCKET, LOCK_FILE, LOG_FILE, BUNDLES = "gateway", "admin.sock", "lock", "gateway.log", "bundles"
ASSIGNMENTS = "assignments"
GATEWAY = "gauntlet.serving.revisions"
START_SECONDS, ADMIN_SECONDS, ASK_SECONDS = 60.0, 60.0, 100.0
POLL_SECONDS = 0.05
CONFLICT, REFUSED, STARTING = 409, 400, 503


class NoGateway(GauntletError):
    """No gateway runs in this home."""


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, by a path of any length."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ADMIN_SECONDS)
        self._path = path

    def connect(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


class LocalGateway:
    """The gateway of a home, as the program that asks it sees it."""

    def __init__(self, home: Path) -> None:
        self.folder = home / FOLDER

    def assignments(self, test: str) -> Path:
        """The table of the requests that an A/B test assigned: `request_id`, `time`, `revision`, `unit`."""
        return self.folder / ASSIGNMENTS / f"{test}.csv"

    def call(self, operation: str, **arguments: Any) -> Any:
        """Ask for an operation of `serving.revisions.Control`.

        Raises:
            NoGateway: It does not run.
            ConflictError, UsageError, GauntletError: It refuses.
        """
        connection = _Connection(self.folder / ADMIN_SOCKET)
        try:
            connection.request("POST", f"/{operation}", json.dumps(arguments))
            response = connection.getresponse()
            content = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            raise NoGateway(
                f"{self.folder}: the gateway does not answer. Start it with `gauntlet up --detach`."
            ) from None
        finally:
            connection.close()
        if response.status < 300:
            return content
        kind = {CONFLICT: ConflictError, REFUSED: UsageError}.get(response.status, GauntletError)
        raise kind(content["error"])

    def is_running(self) -> bool:
        """Whether a process holds the gateway's lock."""
        try:
            with (self.folder / LOCK_FILE).open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def command(
        self, host: str | None = None, port: int | None = None, log: Mapping[str, Any] | None = None
    ) -> list[str]:
        """The command line that is the gateway."""
        given = {"--host": host, "--port": port, "--log": None if log is None else json.dumps(log)}
        options = [part for name, value in given.items() if value is not None for part in (name, str(value))]
        return [sys.executable, "-m", GATEWAY, str(self.folder), *options]

    def start(
        self,
        host: str | None = None,
        port: int | None = None,
        log: Mapping[str, Any] | None = None,
        *,
        is_detached: bool = True,
    ) -> subprocess.Popen[bytes] | None:
        """Start it unless it runs, and return once it answers: its process, or None if it ran already.

        `log` replaces the settings of the request logs of all servers that it starts again; an empty one ends
        the logs. A detached gateway has a session of its own, and writes to `gateway.log`.

        Raises:
            UsageError: It cannot start; the message says why.
        """
        if self._answers():
            return None
        output = self.folder / LOG_FILE
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = output.open("w")
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be written ({error.strerror}).") from None
        ends = time.monotonic() + START_SECONDS
        process: subprocess.Popen[bytes] | None = None
        with file:
            while time.monotonic() < ends:
                if process is None and not self.is_running():
                    process = subprocess.Popen(
                        self.command(host, port, log),
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL if is_detached else None,
                        stderr=file if is_detached else None,
                        start_new_session=is_detached,
                        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"},
                    )
                if self._answers():
                    return process
                if process is not None and process.poll() is not None and not self.is_running():
                    said = output.read_text().strip().splitlines()
                    raise UsageError(said[-1].removeprefix("error: ") if said else "The gateway has ended.")
                time.sleep(POLL_SECONDS)
        raise GauntletError(f"{self.folder}: the gateway did not answer within {START_SECONDS:g} s.")

    def _answers(self) -> bool:
        try:
            self.call("status")
        except NoGateway:
            return False
        return True

    def end(self) -> bool:
        """End it and all its servers after their last requests; False if it did not run."""
        try:
            self.call("end")
        except NoGateway:
            if not self.is_running():
                return False
            raise
        ends = time.monotonic() + START_SECONDS
        while self.is_running():
            if time.monotonic() > ends:
                raise GauntletError(f"{self.folder}: the gateway did not end within {START_SECONDS:g} s.")
            time.sleep(POLL_SECONDS)
        return True


class LocalDeployment(Deployment):
    """One model behind the gateway of this GAUNTLET_HOME."""

    def __init__(self, name: str, registry_uri: str, settings: Mapping[str, Any]) -> None:
        self.name, self.registry_uri = name, registry_uri
        self.gateway = LocalGateway(home_folder(registry_uri))
        local = settings.get("local") or {}
        self._host, self._port = local.get("host"), local.get("port")
        has_log = local.get("request_log") is not None
        self._log = {name: local[name] for name in LOG_SETTINGS if name in local} if has_log else None

    def service(self) -> Service | None:
        """What the gateway serves; it is started again if it has ended with this model in its state."""
        try:
            found = self._call("service", model=self.name)
        except NoGateway:
            return None
        return None if found is None else _service(found)

    def start(self, release: Release) -> Revision:
        """Start a server process."""
        folder = self._folder(release)
        self.gateway.start(self._host, self._port)
        found = self.gateway.call(
            "start",
            model=release.model,
            version=release.version,
            bundle_sha256=release.bundle_sha256,
            folder=str(folder),
            log=self._log,
        )
        return Revision(**found)

    def ask(self, revision: str, body: bytes) -> Answer:
        """Over HTTP, with the header that names a revision."""
        service = self.service()
        if service is None:
            raise UsageError(f"{self.name}: is not served on this machine.")
        parts = urlsplit(service.address)
        host = "127.0.0.1" if parts.hostname == "0.0.0.0" else parts.hostname or ""
        connection = http.client.HTTPConnection(host, parts.port, timeout=ASK_SECONDS)
        headers = {"Content-Type": "application/json", "X-Gauntlet-Revision": revision}
        try:
            connection.request("POST", f"/v1/models/{self.name}:predict", body, headers)
            response = connection.getresponse()
            return Answer(
                response.status, response.read(), response.headers.get("X-Gauntlet-Bundle-Sha256", "")
            )
        except (OSError, http.client.HTTPException) as error:
            raise GauntletError(f"{service.address}: the gateway did not answer ({error}).") from None
        finally:
            connection.close()

    def shift(
        self,
        weights: Mapping[str, int],
        etag: str,
        shadow: Shadow | None = None,
        assignment: Assignment | None = None,
    ) -> Service:
        """Set the weights in the gateway."""
        found = self._call(
            "shift",
            model=self.name,
            weights=dict(weights),
            etag=etag,
            shadow=None if shadow is None else asdict(shadow),
            assignment=None if assignment is None else asdict(assignment),
        )
        return _service(found)

    def evidence(self) -> Evidence:
        """What the gateway has counted."""
        found = self._call("evidence", model=self.name)
        arms = {
            name: ArmCounts(
                **{**arm, "latency_ms": {float(bound): count for bound, count in arm["latency_ms"].items()}}
            )
            for name, arm in found["arms"].items()
        }
        return Evidence(found["etag"], found["weights"], arms, PairCounts(**found["pairs"]))

    def stop(self, revision: str) -> None:
        """End a server process."""
        self._call("stop", model=self.name, revision=revision)

    def _call(self, operation: str, **arguments: Any) -> Any:
        """Ask the gateway, which is started again if it was killed with this model in its state."""
        try:
            return self.gateway.call(operation, **arguments)
        except NoGateway:
            if not self._was_served():
                raise
        self.gateway.start()
        return self.gateway.call(operation, **arguments)

    def _was_served(self) -> bool:
        try:
            return self.name in json.loads((self.gateway.folder / "state.json").read_text())["models"]
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _folder(self, release: Release) -> Path:
        """The bundle on this machine; a copy of one that lies elsewhere stays, as its server reads it."""
        uri = release.bundle_uri
        if "://" not in uri:
            return Path(uri).absolute()
        from gauntlet.backends.factory import copy_bundle

        copy = self.gateway.folder / BUNDLES / release.bundle_sha256
        complete = copy.with_suffix(".complete")
        if not complete.exists():
            copy.mkdir(parents=True, exist_ok=True)
            complete.write_text(str(copy_bundle(uri, copy)))
        return Path(complete.read_text())


def _service(found: Mapping[str, Any]) -> Service:
    shadow, assignment = found["shadow"], found["assignment"]
    return Service(
        found["name"],
        found["address"],
        tuple(Revision(**one) for one in found["revisions"]),
        found["etag"],
        None if shadow is None else Shadow(**shadow),
        None if assignment is None else Assignment(**assignment),
    )
