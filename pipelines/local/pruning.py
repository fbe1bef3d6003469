"""What can be removed from a home folder: old runs with their states, and cached steps.

Registered bundles are in the registry's own folder and are never removed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from gauntlet.pipelines.home import Home, RunRecord
from gauntlet.pipelines.local.step_cache import ENTRIES, OBJECTS

SECONDS_OF_A_WRITE = 3_600
"""An object this new that no entry names may belong to an entry that is being written."""


@dataclass(frozen=True)
class Removal:
    """Files that can be removed, and why."""

    name: str
    why: str
    files: tuple[Path, ...]
    folder: Path | None = None

    @property
    def bytes(self) -> int:
        """The sizes of the files. What becomes free may be less: `freed_bytes`."""
        return sum(file.lstat().st_size for file in self.files)


def old_runs(home: Home, keep: int) -> list[Removal]:
    """All runs of each system except the newest, the running ones, and those that may run on Vertex AI."""
    seen: Counter[str] = Counter()
    found = []
    for record in home.runs():
        seen[record.name] += 1
        if seen[record.name] > keep and not home.is_running(record) and record.state != "submitted":
            found.append(of_run(home, record, f"older than the newest {keep} of {record.name}"))
    return found


def old_cache(home: Home, days: float) -> list[Removal]:
    """Entries not used for so many days, the files that no other entry names, and unused token ids."""
    now = time.time()
    before = now - timedelta(days=days).total_seconds()
    entries = sorted((home.cache_folder / ENTRIES).glob("*.json"))
    old = {entry for entry in entries if entry.stat().st_mtime <= before}
    named = {sha256 for entry in entries if entry not in old for sha256 in _objects(entry)}
    going = {sha256 for entry in old for sha256 in _objects(entry)}
    files = [
        file
        for file in sorted((home.cache_folder / OBJECTS).glob("*"))
        if file.name not in named and (file.name in going or file.stat().st_ctime < now - SECONDS_OF_A_WRITE)
    ]
    tokens = [file for file in sorted(home.token_folder.glob("*")) if file.stat().st_mtime <= before]
    if not old and not files and not tokens:
        return []
    why = (
        f"{len(old)} steps not used for {days:g} days, {len(files)} files that no other step needs, "
        f"{len(tokens)} files of token ids not used for {days:g} days"
    )
    # entries first: no entry may miss its files
    return [Removal("cache", why, (*sorted(old), *files, *tokens))]


def over_bound(home: Home, most_bytes: float) -> list[Removal]:
    """What has to go so that runs and the cache take no more than `most_bytes`, as far as that is possible.

    Cached steps go first, those not used for 30, 7, then 1 days; then runs, oldest first. The newest run of
    each system stays.
    """
    excess = disk_bytes(home) - most_bytes
    going: list[Removal] = []
    for days in (30, 7, 1):
        if freed_bytes(going) >= excess:
            return going
        going = old_cache(home, days)
    for run in reversed(old_runs(home, keep=1)):
        if freed_bytes(going) >= excess:
            break
        going.append(run)
    return going


def disk_bytes(home: Home) -> int:
    """How much runs and the cache take; a file that they share counts once."""
    folders = (home.folder / "runs", home.cache_folder)
    files = tuple(file for folder in folders for file in folder.rglob("*") if file.is_file())
    return freed_bytes([Removal("", "", files)])


def of_run(home: Home, record: RunRecord, why: str) -> Removal:
    """All files of a run."""
    folder = home.run_folder(record.run_id)
    return Removal(record.run_id, why, tuple(file for file in folder.rglob("*") if file.is_file()), folder)


def _objects(entry: Path) -> Sequence[str]:
    try:
        return list(json.loads(entry.read_text(encoding="utf-8"))["files"].values())
    except (ValueError, KeyError, AttributeError):
        return []


def freed_bytes(removals: Sequence[Removal]) -> int:
    """How many bytes become free: a run and the cache share files, which are freed with the last link."""
    states = [file.lstat() for one in removals for file in one.files]
    links = Counter((state.st_dev, state.st_ino) for state in states)
    found = {(state.st_dev, state.st_ino): state for state in states}
    return sum(state.st_size for file, state in found.items() if links[file] == state.st_nlink)


def remove(removals: Sequence[Removal]) -> None:
    """Remove the files, and the folders of runs."""
    for one in removals:
        for file in one.files:
            file.unlink(missing_ok=True)
        if one.folder:
            shutil.rmtree(one.folder)
