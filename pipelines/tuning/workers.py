"""The processes that run the trials of a study at the same time."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gauntlet.backends.processes import how_ended
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.own_code import MODULES_VARIABLE
from gauntlet.pipelines.local.processes import TemporaryFolder, ending, safe_environment, temporary_folder
from gauntlet.trainer.tuning.job import TuningJob

LOCK_FILE = "study.lock"
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_FOR_OTHERS_TO_END = 5.0  # the processes of a command that was just killed


@dataclass(frozen=True)
class Worker:
    """One process and its log file."""

    process: subprocess.Popen[str]
    log: Path

    def failure(self) -> GauntletError | None:
        """Why it failed; None if it is running or has succeeded."""
        code = self.process.poll()
        if not code:
            return None
        if code < 0:
            return GauntletError(
                f"tuning: a process {how_ended(code)}. What is finished is kept, and the same command "
                f"resumes the study. Its output: {self.log}"
            )
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        cause = lines[-1].removeprefix("error: ") if lines else f"exit code {code}, and it said nothing"
        kind = UsageError if code == UsageError.exit_code else GauntletError
        return kind(f"{cause}\nThe output of the process that tuned: {self.log}")


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Be the only command that works in the folder. Yields the lock's file descriptor.

    Processes that inherit it hold the lock too, so that no other command starts while one of them lives.

    Raises:
        UsageError: Another command works there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written ({error.strerror}). Set GAUNTLET_HOME to a folder that can."
        ) from None
    deadline = time.monotonic() + SECONDS_FOR_OTHERS_TO_END
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(
                        f"{folder}: another `gauntlet tune` is at work there. "
                        "Wait for its end, or ask for more at once with --jobs."
                    ) from None
                time.sleep(SECONDS_BETWEEN_LOOKS)
        yield lock.fileno()


def work(job: TuningJob, jobs: int, logs: Path, lock: int, look: Callable[[], None], modules: Path) -> None:
    """Run processes until the study is finished, and call `look` regularly and at the end.

    Raises:
        GauntletError: One of them failed; the others are ended.
    """
    logs.mkdir(exist_ok=True)
    workers: list[Worker] = []
    processes: list[subprocess.Popen[str]] = []
    with temporary_folder() as temporary, ending(processes):
        for number in range(1, jobs + 1):
            workers.append(_start(job, logs / f"worker-{number}.log", lock, temporary, modules))
            processes.append(workers[-1].process)
        while True:
            running = next((process for process in processes if process.poll() is None), None)
            look()
            for worker in workers:
                if failure := worker.failure():
                    raise failure
            if running is None:
                return
            try:
                running.wait(SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                continue


def _start(job: TuningJob, log: Path, lock: int, temporary: TemporaryFolder, modules: Path) -> Worker:
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gauntlet.trainer.tuning"],
            stdin=subprocess.PIPE,  # kept open: its end tells the process that this one has exited
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=safe_environment() | temporary.environment() | {MODULES_VARIABLE: str(modules)},
            pass_fds=(lock, temporary.lock),
            start_new_session=True,  # so that it gets no Ctrl-C from the terminal
        )
    assert process.stdin is not None
    process.stdin.write(job.model_dump_json(exclude_none=True) + "\n")
    process.stdin.flush()
    return Worker(process, log)
