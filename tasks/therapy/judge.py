"""A language model as a judge, plugged in by name. Nothing depends on one, and no gate reads its word.

A package offers one as an entry point of the group `gauntlet.judges`: a function of prompts and answers that
gives each answer a mark from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points

from gauntlet.components.gate_model.rules import FRACTION, number_or_fault
from gauntlet.manifests.errors import GauntletError, UsageError

GROUP = "gauntlet.judges"

Judge = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


def load_judge(name: str) -> Judge:
    """The judge that an installed package offers under `name`.

    Raises:
        UsageError: There is none.
    """
    offered = entry_points(group=GROUP)
    if name not in offered.names:
        raise UsageError(
            f"evaluation.therapy.judge: found {name!r}, expected one of "
            f"{', '.join(sorted(offered.names)) or 'none'}. Install the package that offers it as an entry "
            f"point of {GROUP}, or remove the key."
        )
    judge: Judge = offered[name].load()
    return judge


def marks(judge: Judge, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """The judge's mark of each answer.

    Raises:
        GauntletError: Not one mark from 0 to 1 for each answer.
    """
    given = [number_or_fault(mark, FRACTION) for mark in judge(prompts, answers)]
    faults = [mark for mark in given if isinstance(mark, str)]
    if faults or len(given) != len(answers):
        fault = faults[0] if faults else f"found {len(given)} marks, expected {len(answers)}"
        raise GauntletError(f"evaluation.therapy.judge: {fault}. Fix the judge, or remove the key.")
    return [float(mark) for mark in given]
