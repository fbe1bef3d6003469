"""What every component does around its own logic: a failure becomes one message and one file.

`error.json` is left in the step's folder, which holds its outputs, for the run report and for `gauntlet run`.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gauntlet.contracts.document import write_json
from gauntlet.manifests.errors import GauntletError, Preempted

if TYPE_CHECKING:
    from kfp import dsl

MANIFEST_COMMIT_VARIABLE = "GAUNTLET_MANIFEST_COMMIT"
ERROR_FILE = "error.json"
REUSED_FILE = "reused.json"
"""A file in the folder of a step on this machine that did not run, because earlier outputs were reused."""
TERMINATED = (
    "the step was cancelled or preempted, or reached its deadline (it got SIGTERM). Run the pipeline again."
)


class Terminated(BaseException):
    """SIGTERM came. No `except Exception` on the way may take it for a failure that it can handle."""


@contextmanager
def step(output_path: str, cached_by: str | None = None) -> Iterator[None]:
    """Run a step's logic; on a failure leave `error.json` in the step's folder and end the process.

    A mistake of the user's ends with its message and its exit code, a bug with its traceback, SIGTERM with
    143. `cached_by`, in words the content that a step that may be reused is cached by, goes into the log.
    """
    folder = Path(output_path).parent
    if cached_by is not None:
        print(cached_by, flush=True)
    try:
        with _raising_on_sigterm():
            yield
    except Terminated:
        _record(folder, TERMINATED, Preempted.exit_code)
        print(f"error: {TERMINATED}", file=sys.stderr, flush=True)
        raise SystemExit(Preempted.exit_code) from None
    except GauntletError as error:
        _record(folder, str(error), error.exit_code)
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        message = f"{error.filename or folder}: {error.strerror or error}"
        _record(folder, message, exit_code=1)
        print(f"error: {message}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except Exception as error:
        _record(folder, f"{type(error).__name__}: {error}", exit_code=1)
        raise


@contextmanager
def _raising_on_sigterm() -> Iterator[None]:
    """Within, SIGTERM raises `Terminated` in the main thread, once: what it unwinds is not interrupted."""

    def terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def log_figures(metrics: dsl.Metrics, figures: Mapping[str, float]) -> None:
    """Log the figures that are numbers: NaN and infinity would break the JSON that KFP reads afterwards."""
    for name, value in figures.items():
        if math.isfinite(value):
            metrics.log_metric(name, value)
        else:
            print(f"warning: {name} is {value}, so it is not logged as a metric", file=sys.stderr, flush=True)


def _record(folder: Path, message: str, exit_code: int) -> None:
    try:
        write_json(folder / ERROR_FILE, {"message": message, "exit_code": exit_code})
    except OSError:  # a full or read-only disk: the message still reaches the log
        print(f"could not write {folder / ERROR_FILE}", file=sys.stderr, flush=True)


def manifest_commit() -> dict[str, str]:
    """The commit of the repository that holds the manifest, `-dirty` if it has changes; empty without one."""
    commit = os.environ.get(MANIFEST_COMMIT_VARIABLE)
    return {"manifest_commit": commit} if commit else {}
