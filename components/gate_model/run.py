"""The edge of gate-model: reads what three steps wrote and the bundle, writes the verdict and its table."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gauntlet.components.gate_model.figures import read_figures
from gauntlet.components.gate_model.rules import Decision, decide
from gauntlet.components.gate_model.table import markdown, print_table
from gauntlet.components.step import read_json, write_json, write_text
from gauntlet.manifests.errors import GauntletError
from gauntlet.manifests.gates import CommonGates
from gauntlet.manifests.kinds import task_kind
from gauntlet.serving.bundle import MODEL_FILE, PARITY_FILE, BundleError, read_info
from gauntlet.serving.verification import verify
from gauntlet.tasks.classification.manifest import Gates
from gauntlet.tasks.language.gates import Documents, decide_language_model
from gauntlet.tasks.language.manifest import LanguageGates
from gauntlet.tasks.therapy.stages import stages_reached, therapy_of


def gate(
    gates: CommonGates,
    scores: Path,
    candidates: Path,
    history: Path,
    bundle: Path,
    verdict: Path,
    table: Path,
) -> Decision:
    """Decide, write `verdict` (JSON) and `table` (Markdown), print the table. A rejection is no error.

    Raises:
        GauntletError: The bundle is incomplete or altered.
    """
    try:
        info = read_info(bundle)
    except BundleError as error:
        raise GauntletError(f"The bundle cannot be read: {error}. Run the pipeline again.") from None
    found = Documents(
        read_json(scores),
        read_json(candidates),
        read_json(history),
        certificate=read_json(bundle / PARITY_FILE) if PARITY_FILE in info.files else {},
        model_sha256=info.files.get(MODEL_FILE),
        bundle_fault=next((check.fault for check in verify(bundle) if check.fault), None),
        managed=not task_kind(info.task).is_converted,
    )
    decision = write_verdict(gates, found, verdict, table)
    print_table(decision)
    return decision


def write_verdict(gates: CommonGates, found: Documents, verdict: Path, table: Path) -> Decision:
    """Decide by what the other steps wrote, and write the verdict and its table."""
    decision = _decide(gates, found)
    write_json(verdict, asdict(decision) | _stages(gates, found))
    write_text(table, markdown(decision))
    return decision


def _stages(gates: CommonGates, found: Documents) -> dict[str, Any]:
    if not isinstance(gates, LanguageGates) or gates.stages is None:
        return {}
    return {"stages": stages_reached(gates.stages, therapy_of(found.scores))}


def _decide(gates: CommonGates, found: Documents) -> Decision:
    if isinstance(gates, LanguageGates):
        return decide_language_model(gates, found)
    assert isinstance(gates, Gates)
    return decide(
        gates,
        read_figures(
            found.scores,
            found.candidates,
            found.history,
            found.certificate,
            found.model_sha256,
            found.bundle_fault,
        ),
    )
