"""Which of the admitted candidates ships: the best one whose bundle passes `gauntlet bundle verify`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, Self, TypeVar

from gauntlet.components.convert_to_onnx.admission import P, Trial, admitted, best
from gauntlet.components.convert_to_onnx.candidates import Failed
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.verification import verify


class Outcome(Protocol[P]):
    """Candidates and what they were compared with."""

    @property
    def candidates(self) -> Sequence[Trial[P] | Failed]:
        """All of them, also those that are refused."""

    def without(self, refused: Trial[P], reason: str) -> Self:
        """The same with a candidate refused that was admitted before."""


O = TypeVar("O", bound=Outcome)  # type: ignore[type-arg]  # noqa: E741


def ship(
    outcome: O,
    section: Conversion,
    bundle: Path,
    write: Callable[[Trial[P], O], object],
    note: Callable[[O, Trial[P] | None], None],
) -> Trial[P]:
    """Write the bundle of the best candidate that passes verification, and note what became of all.

    Args:
        outcome: The candidates, compared and timed.
        section: How to choose among them.
        bundle: Where `write` writes a candidate's bundle.
        write: Writes the bundle.
        note: Writes the table of candidates with the chosen one, also where none is chosen.

    Raises:
        GauntletError: No candidate is within the bounds and passes.
    """
    while True:
        try:
            winner = best(admitted(outcome.candidates), section)
        except GauntletError:
            note(outcome, None)
            shutil.rmtree(bundle, ignore_errors=True)
            raise
        write(winner, outcome)
        fault = next((check.fault for check in verify(bundle) if check.fault), None)
        if fault is None:
            note(outcome, winner)
            return winner
        outcome = outcome.without(winner, f"its bundle does not pass `gauntlet bundle verify`: {fault}")


def refusing(
    candidates: Sequence[Trial[P] | Failed], refused: Trial[P], reason: str
) -> list[Trial[P] | Failed]:
    """The candidates with one refused for `reason`."""
    return [replace(one, reason=reason) if one is refused else one for one in candidates]
