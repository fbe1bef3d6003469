"""The gateway: starts a server process for each revision, keeps the weights, and obeys an admin socket.

    python -m gauntlet.serving.revisions FOLDER [--host HOST] [--port PORT]

FOLDER has `state.json`, which is written before each change of the weights and read at the start, `lock`,
and `admin.sock`, where `backends.local.deployment` asks for changes with JSON over HTTP. Each server has a
pair of sockets with the gateway, as `supervisor` describes it: if the gateway is killed, its servers read the
end of the pair and end. None is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import uvloop

from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.serving.gateway import Client, Counts, Gateway, Request, Service, Split, Target
from gauntlet.serving.settings import LOG_KEY, Settings
from gauntlet.serving.supervisor import (
    BACKLOG,
    DRAIN,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MOST_DEATHS,
    READY,
    SERVER,
    SIGNALS,
    STEADY_SECONDS,
    Job,
    Source,
)

STATE_FILE, COUNTS_FILE, LOCK_FILE, ADMIN_SOCKET = "state.json", "counts.json", "lock", "admin.sock"
ASSIGNMENTS, ASSIGNMENTS_HEAD, MOST_ASSIGNED = "assignments", "request_id,time,revision,unit\n", 2**30
"""The folder with a table of the requests of each A/B test, and how many bytes a table may have."""
SHOWN = 12
SWEEP_SECONDS = 1.0
DRAIN_SECONDS, END_SECONDS = 60.0, 15.0
"""How long the requests of a revision that is stopped may take, and then its server to end."""
MOST_GROWTH, MORE_MEMORY = 2, 2**30
"""A server may take so many times the memory that it had when it was ready, and so many bytes more."""
MOST_SAID = 65_536
ADMIN_MODE = 0o600


SAVED = ("id", "version", "bundle_sha256", "folder", "since", "log")
"""What `state.json` has of a revision."""


class Conflict(Exception):
    """The etag is not that of the service."""


@dataclass
class Revision:
    """A revision and its server process. See `backends.deployment.Revision`.

    `log` are the settings of its request log, `settings.LOG_SETTINGS` by name; empty without one.
    """

    id: str
    version: str
    bundle_sha256: str
    folder: str
    since: str
    target: Target
    listening: socket.socket
    log: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    restarts: int = 0
    memory: int = 0
    process: asyncio.subprocess.Process | None = None
    control: socket.socket | None = None
    task: asyncio.Task[None] | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether it is to take no more requests."""
        return self.target.state == "draining"

    def saved(self) -> dict[str, Any]:
        """What `state.json` has of it."""
        return {name: getattr(self, name) for name in SAVED}


class Control:
    """The revisions of all models. Changes are made one at a time."""

    def __init__(self, folder: Path, descriptor: int, gateway: Gateway, settings: Settings) -> None:
        self.folder, self.gateway, self.settings = folder, gateway, settings
        self.revisions: dict[str, dict[str, Revision]] = {}
        self.address: tuple[str, int] = ("", 0)
        self.ending = asyncio.Event()
        self._at = f"/proc/{os.getpid()}/fd/{descriptor}"  # the path of a Unix socket has 107 bytes at most
        self._lock = asyncio.Lock()
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._counted = b""
        self._key = os.environ.get(LOG_KEY) or secrets.token_hex(32)

    # What the admin socket is asked for.

    async def status(self) -> dict[str, Any]:
        """All services."""
        host, port = self.address
        services = {name: await self.service(name) for name in self.gateway.services}
        return {"pid": os.getpid(), "address": f"http://{host}:{port}", "services": services}

    async def service(self, model: str) -> dict[str, Any] | None:
        """The fields of a `Service`."""
        found = self.gateway.services.get(model)
        if found is None:
            return None
        split = found.split
        rows = [
            {
                "id": one.id,
                "version": one.version,
                "bundle_sha256": one.bundle_sha256,
                "state": one.target.state,
                "weight": split.weights.get(one.id, 0),
                "since": one.since,
                "reason": one.reason,
                "restarts": one.restarts,
            }
            for one in self.revisions[model].values()
        ]
        host, port = self.address
        return {
            "name": model,
            "address": f"http://{host}:{port}",
            "revisions": rows,
            "etag": split.etag,
            "shadow": split.shadow,
            "assignment": split.assignment,
        }

    async def evidence(self, model: str) -> dict[str, Any]:
        """The fields of an `Evidence`."""
        split = self._service(model).split
        arms = {name: counts.to_json() for name, counts in split.arms.items()}
        weights = {name: weight for name, weight in split.weights.items() if weight}
        return {"etag": split.etag, "weights": weights, "arms": arms, "pairs": split.pairs}

    async def start(
        self, model: str, version: str, bundle_sha256: str, folder: str, log: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Start a server for a bundle, or find the one that there is.

        `log` are the settings of its request log; None takes those of the model's newest revision.
        """
        Settings(**(log or {}))  # refuses what a server would
        async with self._lock:
            name = bundle_sha256[:SHOWN]
            before = self.revisions.get(model, {}).get(name)
            if before is None or before.target.state in ("failed", "draining"):
                if not (Path(folder) / "bundle.json").is_file():
                    raise UsageError(f"{folder}: found no bundle.json, expected the folder of a bundle.")
                since = _now() if before is None else before.since
                if log is None:
                    log = next((one.log for one in reversed(self.revisions.get(model, {}).values())), {})
                row = dict(zip(SAVED, (name, version, bundle_sha256, folder, since, log), strict=True))
                await self._save(self._content(adding=(model, row)))
                self._add(model, row)
            found = await self.service(model)
            assert found is not None
            return next(one for one in found["revisions"] if one["id"] == name)

    async def shift(
        self,
        model: str,
        weights: dict[str, int],
        etag: str,
        shadow: dict[str, Any] | None = None,
        assignment: dict[str, str] | None = None,
    ) -> dict[str, Any] | None:
        """Set the weights; what is counted starts anew."""
        async with self._lock:
            service = self._service(model)
            if service.split.etag != etag:
                raise Conflict(f"{model}: its weights were changed since they were read (etag {etag}).")
            own = self.revisions[model]
            asked = {name for name, weight in weights.items() if weight} | (
                {shadow["revision"]} if shadow else set()
            )
            asked |= {assignment["control"]} - {""} if assignment else set()
            for name in sorted({*weights, *asked}):
                if name not in own:
                    raise UsageError(f"{model}: has no revision {name}, only {', '.join(own)}.")
                if name in asked and own[name].target.state != "ready":
                    raise UsageError(f"{model}: revision {name} is {own[name].target.state}, not ready.")
            if sum(weights.values()) != 100 or min(weights.values()) < 0:
                raise UsageError(f"{model}: found the weights {weights}, expected shares that sum to 100.")
            await self._set(service, weights, shadow, assignment)
        return await self.service(model)

    async def stop(self, model: str, revision: str) -> None:
        """End a revision without weight, after its last request."""
        async with self._lock:
            own = self.revisions.get(model, {})
            found = own.get(revision)
            if found is None or found.target.state == "draining":
                return
            service = self._service(model)
            if service.split.weights.get(revision):
                raise UsageError(f"{model}: revision {revision} gets requests. Shift its weight first.")
            if (service.split.shadow or {}).get("revision") == revision:
                raise UsageError(f"{model}: revision {revision} is the shadow. Set another or none first.")
            saved = self._content()
            saved["models"][model]["revisions"] = [
                one for one in saved["models"][model]["revisions"] if one["id"] != revision
            ]
            await self._save(saved)
            found.target.state = "draining"
        self._spawn(self._remove(model, found))

    async def remove(self, model: str) -> None:
        """Serve a model no more: end all its revisions."""
        async with self._lock:
            if model not in self.gateway.services:
                return
            saved = self._content()
            del saved["models"][model]
            await self._save(saved)
            del self.gateway.services[model]
            for one in self.revisions.pop(model).values():
                one.target.state = "draining"
                self._spawn(self._drain(one))

    async def end(self) -> None:
        """End the gateway and all servers; `state.json` stays."""
        self.ending.set()

    # The state file.

    def _content(self, adding: tuple[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
        host, port = self.address
        models: dict[str, Any] = {}
        for model, service in self.gateway.services.items():
            split = service.split
            kept = [one.saved() for one in self.revisions[model].values() if one.target.state != "draining"]
            models[model] = {
                "revisions": kept,
                "weights": dict(split.weights),
                "etag": split.etag,
                "shadow": split.shadow,
                "assignment": split.assignment,
            }
        if adding is not None:
            model, one = adding
            empty: dict[str, Any] = {
                "revisions": [],
                "weights": {},
                "etag": "0",
                "shadow": None,
                "assignment": None,
            }
            rows = models.setdefault(model, empty)["revisions"]
            rows[:] = [*(row for row in rows if row["id"] != one["id"]), one]
        return {"host": host, "port": port, "models": models}

    async def _save(self, content: Mapping[str, Any]) -> None:
        """Write the state, and only then make the change.

        Raises:
            GauntletError: It cannot be written, such as on a full disk; nothing is changed.
        """
        data = json.dumps(content, indent=1).encode()
        try:
            await asyncio.get_running_loop().run_in_executor(None, write_file, self.folder / STATE_FILE, data)
        except OSError as error:
            raise GauntletError(
                f"{self.folder / STATE_FILE}: cannot be written ({error.strerror}). Nothing was changed."
            ) from None

    async def _set(
        self,
        service: Service,
        weights: Mapping[str, int],
        shadow: dict[str, Any] | None = None,
        assignment: dict[str, str] | None = None,
    ) -> None:
        own = self.revisions[service.name]
        ordered = {name: weights.get(name, 0) for name in own}  # older first, so that keys move one way
        etag = str(int(service.split.etag) + 1)
        split = Split(ordered, etag, shadow, assignment)
        saved = self._content()
        now, before = _now(), service.split.weights
        since = {
            one.id: now if ordered[one.id] != before.get(one.id, 0) else one.since for one in own.values()
        }
        rows = [{**row, "since": since[row["id"]]} for row in saved["models"][service.name]["revisions"]]
        saved["models"][service.name] |= {
            "revisions": rows, "weights": ordered, "etag": etag, "shadow": shadow, "assignment": assignment,
        }  # fmt: skip
        await self._save(saved)
        service.split = split
        for name, at in since.items():
            own[name].since = at

    def restore(self, content: Mapping[str, Any], log: Mapping[str, Any] | None) -> None:
        """Start the servers of a state that was saved; `log` replaces the settings of their request logs."""
        counts: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            counts = json.loads((self.folder / COUNTS_FILE).read_text())
        for model, saved in content["models"].items():
            for row in saved["revisions"]:
                self._add(model, row if log is None else {**row, "log": log})
            if model not in self.gateway.services:
                continue
            split = Split(saved["weights"], saved["etag"], saved["shadow"], saved["assignment"])
            counted = counts.get(model, {})
            if counted.get("etag") == split.etag:  # those of the last second are lost
                split.arms = {name: Counts(arm) for name, arm in counted["arms"].items()}
                split.pairs = counted["pairs"]
            self.gateway.services[model].split = split

    def save_counts(self) -> None:
        """Keep what was counted for a gateway after this one; a full disk loses only that."""
        found = {
            name: {"etag": one.split.etag, "arms": {arm: c.to_json() for arm, c in one.split.arms.items()},
                   "pairs": one.split.pairs}
            for name, one in self.gateway.services.items()
        }  # fmt: skip
        data = msgspec.json.encode(found)
        if data != self._counted:
            self._counted = data
            with suppress(OSError):
                write_file(self.folder / COUNTS_FILE, data, is_synced=False)

    def save_assignments(self) -> None:
        """Append what A/B tests assigned to their tables. What cannot be written whole is lost and said."""
        for test, lines in self.gateway.noted.items():
            path = self.folder / ASSIGNMENTS / f"{test}.csv"
            try:
                path.parent.mkdir(exist_ok=True)
                with path.open("ab") as file:
                    size = file.tell()
                    if size > MOST_ASSIGNED:
                        raise OSError(0, f"it has over {MOST_ASSIGNED >> 20} MiB")
                    head = "" if size else ASSIGNMENTS_HEAD
                    try:
                        file.write((head + "".join(lines)).encode())
                        file.flush()
                    except OSError:
                        file.truncate(size)
                        raise
            except OSError as error:
                _say(f"{path}: {len(lines)} assignments are lost: {error.strerror}")
        self.gateway.noted.clear()

    # Server processes.

    def _service(self, model: str) -> Service:
        found = self.gateway.services.get(model)
        if found is None:
            known = ", ".join(self.gateway.services) or "none"
            raise UsageError(f"{model}: is not served here; served are {known}.")
        return found

    def _add(self, model: str, row: Mapping[str, Any]) -> None:
        self._number += 1
        path = f"{self._at}/{self._number}.sock"
        Path(path).unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen(BACKLOG)
        one = Revision(target=Target(row["id"], path), listening=listening, **row)
        if model not in self.gateway.services:
            self.gateway.services[model] = Service(model, Split({}, "0"))
            self.revisions[model] = {}
        service = self.gateway.services[model]
        self.revisions[model][one.id], service.targets[one.id] = one, one.target
        one.task = self._spawn(self._run(model, one))

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, model: str, one: Revision) -> None:
        """Keep a revision's server running, until it is stopped or has failed."""
        in_row = 0
        while not one.is_stopped:
            started = monotonic()
            code, was_ready, said = await self._serve_once(model, one)
            if one.is_stopped:
                return
            how = f"exit code {code}" if code >= 0 else f"signal {-code}"
            one.restarts += 1
            in_row = 1 if was_ready and monotonic() - started > STEADY_SECONDS else in_row + 1
            others = self.gateway.services[model].targets.values()
            has_other = any(other.state == "ready" for other in others if other is not one.target)
            if code > 0 and not was_ready:
                self._fail(one, _last_line(said) or how)
                return
            if one.memory < 0 and has_other:
                self._fail(one, f"its server took {-one.memory >> 20} MiB and was ended")
                return
            if in_row >= MOST_DEATHS and (has_other or not one.target.was_ready):
                self._fail(one, f"its server died {in_row} times in a row, at last by {how}")
                return
            one.target.state = "starting"
            one.reason = f"its server died by {how} and is started again"
            pause = 0.0 if in_row < 2 else min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (in_row - 2))
            _say(f"{model} revision {one.id}: {one.reason}")
            await asyncio.sleep(pause)

    def _fail(self, one: Revision, reason: str) -> None:
        one.target.state, one.reason = "failed", reason
        _say(f"revision {one.id} (version {one.version}) has failed: {reason}")
        self._close(one)

    def _close(self, one: Revision) -> None:
        one.listening.close()
        one.target.close()
        Path(one.target.path).unlink(missing_ok=True)

    async def _serve_once(self, model: str, one: Revision) -> tuple[int, bool, str]:
        """The exit code of a server process, whether it was ready, and what it said."""
        loop = asyncio.get_running_loop()
        control, of_server = socket.socketpair()
        said = os.memfd_create("stderr")  # a full disk or a reader that is gone cannot stop the server
        try:
            with of_server:
                source = Source(Path(one.folder), model, one.version, one.bundle_sha256)
                handed = (one.listening.fileno(), of_server.fileno())
                job = Job([source], replace(self.settings, **one.log), *handed, restarts=one.restarts)
                environment = {
                    "PYTHONPATH": os.pathsep.join(sys.path),
                    "PYTHONSAFEPATH": "1",
                    LOG_KEY: self._key,
                }
                one.process = process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", SERVER, job.to_json(),
                    pass_fds=handed, env=os.environ | environment, stdin=subprocess.DEVNULL, stderr=said,
                )  # fmt: skip
            control.setblocking(False)
            one.control, one.memory = control, 0
            try:
                was_ready = await loop.sock_recv(control, 1) == READY
            except OSError:
                was_ready = False
            if was_ready and one.target.state == "starting":
                one.memory = _memory(process.pid)
                one.target.state, one.target.was_ready, one.reason = "ready", True, ""
                await self._became_ready(model, one)
            code = await process.wait()
            return code, was_ready, os.pread(said, MOST_SAID, 0).decode("utf-8", "replace")
        finally:
            one.process = one.control = None
            control.close()
            os.close(said)

    async def _became_ready(self, model: str, one: Revision) -> None:
        """The first revision of a service that is ready gets all requests."""
        async with self._lock:
            service = self.gateway.services.get(model)
            if service is None or any(service.split.weights.values()) or one.target.state != "ready":
                return
            try:
                await self._set(service, {one.id: 100})
            except GauntletError as error:
                _say(f"error: {error}")

    async def _remove(self, model: str, one: Revision) -> None:
        await self._drain(one)
        if self.revisions.get(model, {}).get(one.id) is one:
            del self.revisions[model][one.id]
            del self.gateway.services[model].targets[one.id]

    async def _drain(self, one: Revision) -> None:
        """Wait for the last request, then end the server."""
        if one.target.active:
            one.target.drained.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(one.target.drained.wait(), DRAIN_SECONDS)
        await self._end_server(one)
        self._close(one)

    async def _end_server(self, one: Revision) -> None:
        if one.task is None or one.task.done():
            return
        if one.control is not None:
            with suppress(OSError):
                one.control.send(DRAIN)
        else:
            one.task.cancel()
        _, late = await asyncio.wait({one.task}, timeout=END_SECONDS)
        if late and one.process is not None:
            one.process.kill()
            await asyncio.wait({one.task})

    def watch(self) -> None:
        """End servers whose memory grows; once a second."""
        for own in self.revisions.values():
            for one in own.values():
                if one.process is None or one.target.state != "ready" or one.memory <= 0:
                    continue
                found = _memory(one.process.pid)
                if found > MOST_GROWTH * one.memory + MORE_MEMORY:
                    one.memory = -found
                    with suppress(ProcessLookupError):
                        one.process.kill()

    async def end_all(self) -> None:
        """End all servers, after their last requests."""
        revisions = [one for own in self.revisions.values() for one in own.values()]
        for one in revisions:
            one.target.state = "draining"
        await asyncio.gather(*(self._end_server(one) for one in revisions))
        for one in revisions:
            self._close(one)


class Admin(Client):
    """A connection to the admin socket: `POST /OPERATION` with the arguments as JSON."""

    def __init__(self, control: Control) -> None:
        super().__init__(control.gateway)
        self.control = control
        self._work: asyncio.Task[None] | None = None
        self.operations: dict[str, Callable[..., Awaitable[Any]]] = {
            name: getattr(control, name)
            for name in ("status", "service", "evidence", "start", "shift", "stop", "remove", "end")
        }

    def _begin(self, request: Request) -> None:
        self.is_busy, self.closes = True, not request.keeps
        self._work = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        try:
            operation = self.operations[request.path.decode().strip("/")]
            result = await operation(**json.loads(request.body or b"{}"))
        except (KeyError, TypeError, ValueError) as error:
            self.fault(400, f"the gateway has no such operation: {type(error).__name__}: {error}")
        except Conflict as error:
            self.fault(409, str(error))
        except UsageError as error:
            self.fault(400, str(error))
        except GauntletError as error:
            self.fault(507, str(error))
        else:
            self.respond(200, result)


def write_file(path: Path, data: bytes, *, is_synced: bool = True) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if is_synced:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if is_synced:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _say(message: str) -> None:
    with suppress(OSError):  # a full disk, where the log of the gateway is
        print(message, file=sys.stderr, flush=True)


def _last_line(said: str) -> str:
    lines = [line.removeprefix("error: ") for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _memory(pid: int) -> int:
    """The resident bytes of a process."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def locked(folder: Path) -> int:
    """The descriptor of the gateway's lock, which holds its process id.

    Raises:
        UsageError: Another gateway holds it, or the folder cannot be written.
    """
    path = folder / LOCK_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, ADMIN_MODE)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written ({error.strerror}). Set GAUNTLET_HOME to a folder that can."
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(descriptor, 20, 0).decode().strip()
        raise UsageError(
            f"{folder}: a gateway runs here already (process {pid}). `gauntlet down` ends it."
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def read_state(folder: Path) -> dict[str, Any]:
    """The state that was saved last, or an empty one.

    Raises:
        UsageError: The file was altered.
    """
    path = folder / STATE_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        assert all({"revisions", "weights", "etag"} <= set(one) for one in content["models"].values())
    except FileNotFoundError:
        return {"host": None, "port": None, "models": {}}
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError):
        raise UsageError(f"{path}: found another content than a gateway writes. Delete the file.") from None
    return content


def run(
    folder: Path, host: str | None, port: int | None, settings: Settings, log: Mapping[str, Any] | None = None
) -> None:
    """Be the gateway of a folder until SIGTERM or SIGINT, or until the admin socket is told to end.

    `log` replaces the settings of the request logs of all servers, by name; an empty one ends the logs.

    Raises:
        UsageError: There is one already, or the address cannot be used.
    """
    lock = locked(folder)
    try:
        saved = read_state(folder)
        address = (host or saved["host"] or "127.0.0.1", saved["port"] or 8080 if port is None else port)
        try:
            listening = socket.create_server(address, backlog=BACKLOG)
        except OSError as error:
            raise UsageError(
                f"--port: cannot listen on {address[0]}:{address[1]}: {error.strerror or error}. "
                "Choose another with --port."
            ) from None
        with listening:
            uvloop.run(_run(folder, listening, saved, settings, log))
    finally:
        os.close(lock)


async def _run(
    folder: Path,
    listening: socket.socket,
    saved: Mapping[str, Any],
    settings: Settings,
    log: Mapping[str, Any] | None,
) -> None:
    loop = asyncio.get_running_loop()
    gateway = Gateway()
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    control = Control(folder, descriptor, gateway, settings)
    control.address = listening.getsockname()[:2]
    control.restore(saved, log)
    await control._save(control._content())
    path = f"/proc/self/fd/{descriptor}/{ADMIN_SOCKET}"
    Path(path).unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        admin = await loop.create_unix_server(lambda: Admin(control), path)
    finally:
        os.umask(before)
    server = await loop.create_server(lambda: Client(gateway), sock=listening, backlog=BACKLOG)

    def signalled() -> None:
        if control.ending.is_set():
            os._exit(0)
        control.ending.set()

    for one in SIGNALS:
        loop.add_signal_handler(one, signalled)
    _say(f"the gateway of {folder} is ready on http://{control.address[0]}:{control.address[1]}")
    while not control.ending.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(control.ending.wait(), SWEEP_SECONDS)
        gateway.sweep()
        control.watch()
        control.save_counts()
        control.save_assignments()
    gateway.is_ending = True
    server.close()
    admin.close()
    await control.end_all()
    control.save_assignments()
    for client in [*gateway.clients]:
        client.transport.close()
    Path(path).unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gauntlet.serving.revisions", description="Be a gateway.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where its state and sockets are")
    parser.add_argument("--host", metavar="HOST", help="Default: the last one, or 127.0.0.1.")
    parser.add_argument(
        "--port", type=int, metavar="PORT", help="Default: the last one, or 8080; 0: a free one."
    )
    logs = "the settings of all request logs, as JSON by name. Default: the last ones"
    parser.add_argument("--log", type=json.loads, metavar="JSON", help=logs)
    given = parser.parse_args(arguments)
    try:
        run(given.folder.absolute(), given.host, given.port, Settings(), given.log)
    except GauntletError as error:
        _say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
