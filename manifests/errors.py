"""The faults a user can cause, and the exit code that each one ends a command with.

Any other error is a bug in Gauntlet and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Fault:
    """One thing wrong with one input: where it is, what was found, what was expected, what to do."""

    file: str
    key: str
    found: str
    expected: str
    action: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}: found {self.found}, expected {self.expected}. {self.action}"


class GauntletError(Exception):
    """A failure with a message meant for the user. `exit_code` 1: the run failed."""

    exit_code: ClassVar[int] = 1


class UsageError(GauntletError):
    """The command or the manifest asks for something that cannot be done."""

    exit_code = 2


class ManifestError(UsageError):
    """A manifest with one or more faults, reported together."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in faults))


class RejectedError(GauntletError):
    """A gate rejected the model; the run itself worked."""

    exit_code = 3


class DataError(GauntletError):
    """The data failed a check, so nothing was trained on it."""

    exit_code = 4


class Preempted(GauntletError):
    """Training was asked to end by SIGTERM and did so between two steps.

    143 is what the shell makes of SIGTERM: a job that exits 0 would hand on a half-trained model.
    """

    exit_code = 143
