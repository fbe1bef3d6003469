"""The edge of gate-model: reads what three steps wrote and the bundle, writes the verdict and its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gauntlet.components.gate_model.rules import Documents, decide
from gauntlet.components.gate_model.table import markdown, print_table
from gauntlet.contracts.document import read_json, write_text
from gauntlet.contracts.verdict import Verdict
from gauntlet.manifests.errors import GauntletError
from gauntlet.manifests.gates import CommonGates
from gauntlet.manifests.kinds import TaskKind, task_kind
from gauntlet.serving.bundle import MODEL_FILE, PARITY_FILE, BundleError, read_info
from gauntlet.serving.verification import verify


def gate(
    task: str,
    gates: CommonGates,
    scores: Path,
    candidates: Path,
    history: Path,
    bundle: Path,
    verdict: Path,
    table: Path,
) -> Verdict:
    """Decide, write `verdict` (JSON) and `table` (Markdown), print the table. A rejection is no error.

    Raises:
        GauntletError: The bundle is incomplete or altered.
    """
    try:
        info = read_info(bundle)
    except BundleError as error:
        raise GauntletError(f"The bundle cannot be read: {error}. Run the pipeline again.") from None
    found = Documents(
        gates.model_dump(),
        read_json(scores),
        read_json(candidates),
        read_json(history),
        certificate=read_json(bundle / PARITY_FILE) if PARITY_FILE in info.files else {},
        model_sha256=info.files.get(MODEL_FILE),
        bundle_fault=next((check.fault for check in verify(bundle) if check.fault), None),
    )
    judged = judge_by_kind(task_kind(task), found)
    judged.write(verdict)
    write_text(table, markdown(judged))
    print_table(judged)
    return judged


def judge_by_kind(kind: TaskKind, found: Documents) -> Verdict:
    """The verdict by the kind's rules and, if the section `gates` has any, about its promotion stages."""
    decision = decide(kind.function("gates", "RULES"), found)
    stages: Any = found.gates.get("stages")
    reached = None if stages is None else kind.function("gates", "stages_reached")(stages, found.scores)
    return Verdict(**dict(decision), stages=reached)
