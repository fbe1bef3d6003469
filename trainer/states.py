"""States of a training, from which it resumes: what a state holds, its files, and the folder of states.

A state is all that the next optimizer step depends on. The order of an epoch's rows is a function of (seed,
epoch), and the counters of early stopping and of the plateau schedule are functions of the history, so none
of these is saved.

Each state is a folder named by its epoch and batch. Its `manifest.json`, with every other file's sha256, is
written last, so a state without one is incomplete. No folder is renamed: on a disk files are written in
place, to a bucket they are uploaded.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gauntlet.backends import storage
from gauntlet.contracts.training import Step, TrainingHistory
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.training import Resume
from gauntlet.trainer.replica import Snapshot
from gauntlet.trainer.task import Tensors

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
RANDOM_FILE = "random.safetensors"
STATE_FILE = "state.json"
STATE_FILES = (MODEL_FILE, OPTIMIZER_FILE, RANDOM_FILE, STATE_FILE)
MANIFEST_FILE = "manifest.json"
FORMAT = "gauntlet-training-state-2"
NAME_PATTERN = re.compile(r"epoch-(\d{4,})-batch-(\d{6,})")


@dataclass
class LoopState:
    """Where the training loop stands between two optimizer steps.

    Attributes:
        epoch: The epoch being trained, from 1; one more than the last when all are done.
        cursor: How many of the epoch's batches are done.
        loss_sum: The epoch's training loss so far, summed over rows.
        weight_seen: The sum of the weights of the losses in `loss_sum`.
        tally: The sums over the same rows that training metrics need; empty before the first step.
        rows_seen: The number of these rows.
        epoch_seconds: Training time of the epoch so far.
        seconds: Time of the whole training, across interruptions.
        scaler: The loss scale of fp16.
        history: The validated epochs and all steps.
    """

    epoch: int = 1
    cursor: int = 0
    loss_sum: float = 0.0
    weight_seen: float = 0
    tally: list[float] = field(default_factory=list)
    rows_seen: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    scaler: dict[str, float] = field(default_factory=dict)
    history: TrainingHistory = field(default_factory=TrainingHistory)

    @property
    def steps_taken(self) -> int:
        """Optimizer steps of all epochs."""
        return len(self.history.steps)

    @property
    def train_loss(self) -> float:
        """The epoch's mean so far."""
        return self.loss_sum / self.weight_seen

    def take_step(
        self, loss_sum: float, tally: Sequence[float], rows: int, weight: float, rate: float
    ) -> None:
        """Count one optimizer step on `rows` rows, whose losses have the total weight `weight`."""
        self.cursor += 1
        self.loss_sum += loss_sum
        self.weight_seen += weight
        self.tally = [a + b for a, b in zip_longest(self.tally, tally, fillvalue=0.0)]
        self.rows_seen += rows
        step = Step(step=self.steps_taken + 1, loss=loss_sum / weight, learning_rate=rate)
        self.history.steps.append(step)

    def start_next_epoch(self) -> None:
        """Go to the start of the epoch after this one."""
        self.epoch += 1
        self.cursor, self.loss_sum, self.weight_seen, self.rows_seen, self.epoch_seconds = 0, 0.0, 0, 0, 0.0
        self.tally = []

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**vars(self), "history": self.history.model_dump()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**content, "history": TrainingHistory.model_validate(content["history"])})


@dataclass(frozen=True, order=True)
class Position:
    """The position of a state: `batch` batches of `epoch` are done; 0 right after the epoch before it."""

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
    """A state whose files are on this machine and match its manifest."""

    name: str
    folder: Path
    state: LoopState
    fingerprint: Mapping[str, str]


@dataclass(frozen=True)
class Found:
    """A state to resume from, and the weights of each phase's best epoch so far, by epoch."""

    state: LoopState
    snapshot: Snapshot
    best_weights: Mapping[int, Tensors]


def _write_state(folder: Path, state: LoopState, snapshot: Snapshot, fingerprint: Mapping[str, str]) -> None:
    """Write `STATE_FILES` into an existing folder."""
    save_file(snapshot.model, folder / MODEL_FILE)
    save_file(snapshot.optimizer, folder / OPTIMIZER_FILE)
    save_file(snapshot.generators, folder / RANDOM_FILE)
    content = {"fingerprint": dict(fingerprint), "state": state.to_json()}
    (folder / STATE_FILE).write_text(json.dumps(content), encoding="utf-8")


class StateStore:
    """The states of one training run in a folder at a path or any URI that fsspec opens.

    A run resumes from a state only if its settings, the `fingerprint`, are equal.
    """

    def __init__(self, uri: str, fingerprint: Mapping[str, str], plan: Resume) -> None:
        self.uri = uri
        self._fingerprint = fingerprint
        self._plan = plan
        self._local = storage.local_path(uri)
        self._best_epoch_before = 0

    def due(self, steps_taken: int) -> bool:
        """Whether a state is to be written after this step within an epoch."""
        return self._plan.every_steps is not None and steps_taken % self._plan.every_steps == 0

    def save(self, state: LoopState, snapshot: Snapshot) -> None:
        """Write a state, then remove those no longer needed; a `GauntletError` if it cannot be written."""
        position = Position(state.epoch, state.cursor)
        with self._writing(position.name) as folder:
            _write_state(folder, state, snapshot, self._fingerprint)
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

        It needs the best epochs' weights, which may lie in older states.

        Raises:
            UsageError: The newest state is of a run with other settings.
            GauntletError: The storage service is unavailable.
        """
        with tempfile.TemporaryDirectory() as scratch:
            positions = sorted(self._positions(), reverse=True)
            for position in positions:
                try:
                    found = self._fetch(position, Path(scratch))
                    self._require_same_run(found)
                    best_weights = {
                        epoch: load_file(
                            self._fetch(Position(epoch + 1, 0), Path(scratch)).folder / MODEL_FILE
                        )
                        for epoch in found.state.history.best_epochs
                    }
                except Refused as reason:
                    then = "training starts anew" if position == positions[-1] else "trying the one before it"
                    print(f"warning: {reason}; {then}", file=sys.stderr, flush=True)
                    continue
                self._best_epoch_before = found.state.history.best_epoch
                print(f"resumed after step {found.state.steps_taken} from {found.name}", flush=True)
                tensors = (
                    load_file(found.folder / name) for name in (MODEL_FILE, OPTIMIZER_FILE, RANDOM_FILE)
                )
                return Found(found.state, Snapshot(*tensors), best_weights)
        return None

    def _uri(self, name: str) -> str:
        return storage.join(self.uri, name)

    def _positions(self) -> set[Position]:
        positions = map(Position.of, storage.list_folders(self.uri))
        return {position for position in positions if position is not None}

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """The folder to write a state's files into: its own on a disk, a temporary one for a bucket."""
        folder = self._local / name if self._local else Path(tempfile.mkdtemp())
        try:
            storage.delete(self._uri(name), first=MANIFEST_FILE)  # an older one that was refused
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
            if not self._local:
                storage.upload(folder, self._uri(name), last=MANIFEST_FILE)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise GauntletError(
                f"{self.uri}: the training state could not be written ({error}). Older states are intact: "
                "make room, then run the same command again to resume."
            ) from None
        finally:
            if not self._local:
                shutil.rmtree(folder, ignore_errors=True)

    def _fetch(self, position: Position, scratch: Path) -> Candidate:
        """A state's files on this machine, checked against its manifest."""
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
            content = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
            state, fingerprint = LoopState.from_json(content["state"]), dict(content["fingerprint"])
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
                "Set them back to resume from there, or name another folder for new states."
            )


def expendable(
    positions: Collection[Position],
    newest: Position,
    best_epochs: Collection[int],
    keep_every_epochs: int | None,
) -> list[Position]:
    """The states that may be removed once `newest` is complete, oldest first.

    The newest is kept, and the one before it in case the newest is damaged; the states of `best_epochs` (the
    best epoch as of either of the two), and every `keep_every_epochs`-th epoch's. States after the newest
    were refused and are out of date.
    """
    kept = set(sorted(position for position in positions if position <= newest)[-2:])
    kept |= {Position(epoch + 1, 0) for epoch in best_epochs}
    if keep_every_epochs:
        kept |= {p for p in positions if p.batch == 0 and (p.epoch - 1) % keep_every_epochs == 0}
    return sorted(position for position in positions if position not in kept or position > newest)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
