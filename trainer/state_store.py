"""The folder of training states: written whole, checked before use, thinned out as training goes on.

Each state is a folder named after where it stands. Its `manifest.json`, with every other file's sha256, is
written last, so a state without one is incomplete. No folder is renamed: on a disk the files are written
where they belong, to a bucket they are uploaded.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from safetensors import SafetensorError

from gauntlet.backends import storage
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.training import Checkpoints
from gauntlet.trainer.replica import Snapshot, Tensors
from gauntlet.trainer.state import (
    STATE_FILES,
    LoopState,
    read_snapshot,
    read_state,
    read_weights,
    write_state,
)

MANIFEST_FILE = "manifest.json"
FORMAT = "gauntlet-training-state-2"
NAME_PATTERN = re.compile(r"epoch-(\d{4,})-batch-(\d{6,})")


@dataclass(frozen=True, order=True)
class Position:
    """Where a state stands: `batch` batches of `epoch` are done; none when the epoch before it ended."""

    epoch: int
    batch: int

    @property
    def name(self) -> str:
        """The state's folder."""
        return f"epoch-{self.epoch:04d}-batch-{self.batch:06d}"

    @classmethod
    def of(cls, name: str) -> Self | None:
        """The position that a folder is named after, if it is."""
        match = NAME_PATTERN.fullmatch(name)
        return cls(int(match[1]), int(match[2])) if match else None


class Refused(Exception):
    """Why a state cannot be used."""


@dataclass(frozen=True)
class Candidate:
    """A state whose files are here and are what its manifest says."""

    name: str
    folder: Path
    state: LoopState
    fingerprint: Mapping[str, str]


@dataclass(frozen=True)
class Found:
    """A state to go on from, and the weights of each phase's best epoch until then, by epoch."""

    state: LoopState
    snapshot: Snapshot
    best_weights: Mapping[int, Tensors]


class StateStore:
    """The states of one training run at a path or any URI that fsspec opens.

    Args:
        uri: The folder that holds them; it need not exist.
        fingerprint: The settings that must be the same for a run to go on from a state.
        plan: How often to write one and which to keep.
    """

    def __init__(self, uri: str, fingerprint: Mapping[str, str], plan: Checkpoints) -> None:
        self.uri = uri
        self._fingerprint = fingerprint
        self._plan = plan
        self._local = storage.local_path(uri)
        self._best_epoch_before = 0

    def due(self, steps_taken: int) -> bool:
        """Whether a state is to be written after so many steps, within an epoch."""
        return self._plan.every_steps is not None and steps_taken % self._plan.every_steps == 0

    def save(self, state: LoopState, snapshot: Snapshot) -> None:
        """Write a state, then remove those that it makes superfluous.

        Raises:
            GauntletError: It cannot be written; those before it are untouched.
        """
        position = Position(state.epoch, state.cursor)
        with self._writing(position.name) as folder:
            write_state(folder, state, snapshot, self._fingerprint)
            files = {name: _sha256(folder / name) for name in STATE_FILES}
            manifest = json.dumps({"format": FORMAT, "files": files}, indent=2)
            (folder / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
        best_epochs = {*state.history.best_epochs, self._best_epoch_before}
        self._best_epoch_before = state.history.best_epoch
        keep = self._plan.keep_every_epochs
        positions = self._positions()
        complete = {one for one in positions if MANIFEST_FILE in storage.list_files(self._uri(one.name))}
        incomplete = sorted(positions - complete)  # left by a process that was killed while it wrote them
        for superfluous in [*incomplete, *expendable(complete, position, best_epochs, keep)]:
            storage.delete(self._uri(superfluous.name), first=MANIFEST_FILE)

    def newest(self) -> Found | None:
        """The newest state that can be used, if there is one.

        The best epochs' weights may lie in older states; without them a state cannot be used.

        Raises:
            UsageError: The newest state is of a run with other settings.
            GauntletError: The service that holds the states could not be reached.
        """
        with tempfile.TemporaryDirectory() as scratch:
            positions = sorted(self._positions(), reverse=True)
            for position in positions:
                try:
                    found = self._fetch(position, Path(scratch))
                    self._require_same_run(found)
                    best_weights = {
                        epoch: read_weights(self._fetch(Position(epoch + 1, 0), Path(scratch)).folder)
                        for epoch in found.state.history.best_epochs
                    }
                except Refused as reason:
                    then = "training starts anew" if position == positions[-1] else "trying the one before it"
                    print(f"warning: {reason}; {then}", file=sys.stderr, flush=True)
                    continue
                self._best_epoch_before = found.state.history.best_epoch
                print(f"resumed after step {found.state.steps_taken} from {found.name}", flush=True)
                return Found(found.state, read_snapshot(found.folder), best_weights)
        return None

    def _uri(self, name: str) -> str:
        return storage.join(self.uri, name)

    def _positions(self) -> set[Position]:
        positions = map(Position.of, storage.list_folders(self.uri))
        return {position for position in positions if position is not None}

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """The folder to write a state's files into: its own on a disk, one to upload from for a bucket."""
        folder = self._local / name if self._local else Path(tempfile.mkdtemp())
        try:
            storage.delete(self._uri(name), first=MANIFEST_FILE)  # one that was refused, or is written again
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
            if not self._local:
                storage.upload(folder, self._uri(name), last=MANIFEST_FILE)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise GauntletError(
                f"{self.uri}: the training state could not be written ({error}). Those before it are intact: "
                "make room, then run the same command again to resume from there."
            ) from None
        finally:
            if not self._local:
                shutil.rmtree(folder, ignore_errors=True)

    def _fetch(self, position: Position, scratch: Path) -> Candidate:
        """A state's files on this machine, checked against its manifest.

        Raises:
            Refused: It is incomplete, or its content is not what was written.
        """
        uri = self._uri(position.name)
        folder = self._local / position.name if self._local else scratch / position.name
        if not self._local and not folder.exists() and position in self._positions():
            folder.mkdir()
            storage.download(uri, folder)
        try:
            manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
            if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
                raise Refused(f"{uri}: {MANIFEST_FILE} is not that of a {FORMAT}")
            for name in STATE_FILES:
                if _sha256(folder / name) != manifest["files"][name]:
                    raise Refused(f"{uri}: {name} is not the file that was written")
            state, fingerprint = read_state(folder)
        except FileNotFoundError as error:
            raise Refused(f"{uri}: {Path(error.filename).name} is missing") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(f"{uri}: not a training state of this program ({error!r})") from None
        return Candidate(uri, folder, state, fingerprint)

    def _require_same_run(self, found: Candidate) -> None:
        then, now = found.fingerprint, self._fingerprint
        different = [
            f"{key} was {then.get(key, 'not set')} and is {now.get(key, 'not set')}"
            for key in sorted(then.keys() | now.keys())
            if then.get(key) != now.get(key)
        ]
        if different:
            raise UsageError(
                f"{found.name}: this training began with other settings: {'; '.join(different)}. "
                "Set them back to resume from there, or name another folder for new checkpoints."
            )


def expendable(
    positions: Collection[Position],
    newest: Position,
    best_epochs: Collection[int],
    keep_every_epochs: int | None,
) -> list[Position]:
    """The states that may go once `newest` is complete, oldest first.

    Kept are the newest, the one before it should the newest be damaged, those of `best_epochs` (the best
    epoch as either of the two knows it), and every `keep_every_epochs`-th epoch's. What lies after the newest
    was refused and is out of date.
    """
    kept = set(sorted(position for position in positions if position <= newest)[-2:])
    kept |= {Position(epoch + 1, 0) for epoch in best_epochs}
    if keep_every_epochs:
        kept |= {p for p in positions if p.batch == 0 and (p.epoch - 1) % keep_every_epochs == 0}
    return sorted(position for position in positions if position not in kept or position > newest)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
