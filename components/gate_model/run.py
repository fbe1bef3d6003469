"""The edge of gate-model: reads what three steps wrote, writes the verdict and its table."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from components.gate_model.figures import read_figures
from components.gate_model.rules import Decision, decide
from components.gate_model.table import markdown, print_table
from components.step import read_json, write_json, write_text
from manifests.schema import Gates


def gate(gates: Gates, scores: Path, candidates: Path, history: Path, verdict: Path, table: Path) -> Decision:
    """Decide, write `verdict` (JSON) and `table` (Markdown), print the table. A rejection is no error."""
    decision = decide(gates, read_figures(read_json(scores), read_json(candidates), read_json(history)))
    write_json(verdict, asdict(decision))
    write_text(table, markdown(decision))
    print_table(decision)
    return decision
