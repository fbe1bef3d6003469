"""gate-model: reads what three steps wrote and the bundle, writes the verdict and its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gauntlet.components.gate_model.rules import Documents, decide
from gauntlet.contracts.document import read_json, write_text
from gauntlet.contracts.verdict import Decision, Outcome, RuleVerdict, Verdict
from gauntlet.manifests.errors import GauntletError
from gauntlet.manifests.gates import CommonGates
from gauntlet.manifests.kinds import TaskKind, task_kind
from gauntlet.serving.bundle import MODEL_FILE, PARITY_FILE, BundleError, read_info
from gauntlet.serving.verification import verify

LOG_WIDTH = 140
COLOURS: dict[Outcome, str] = {"pass": "green", "fail": "bold red", "not applicable": "dim"}


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
    """Decide, write `verdict` and `table`, print the table; a `GauntletError` for an altered bundle."""
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


def markdown(decision: Decision) -> str:
    """A heading with the decision, the rules, and the reasons of a rejection."""
    rows = ["| " + " | ".join(_escape(cell) for cell in _cells(rule)) + " |" for rule in decision.rules]
    reasons = [f"- {_escape(reason)}" for reason in decision.reasons]
    header = ["| rule | found | expected | verdict | note |", "|---|---:|---:|---|---|"]
    return "\n".join([f"# Gate: {decision.decision}", "", *header, *rows, "", *reasons]).rstrip() + "\n"


def print_table(decision: Decision, console: Console | None = None) -> None:
    """Print the rules: in colour on a terminal, plain and `LOG_WIDTH` wide in a log."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=LOG_WIDTH, color_system=None)
    table = Table(title=f"Gate: {decision.decision}", title_justify="left")
    for column in ("rule", "found", "expected", "verdict", "note"):
        table.add_column(column, justify="right" if column in ("found", "expected") else "left")
    for rule in decision.rules:
        table.add_row(*map(Text, _cells(rule)), style=COLOURS[rule.verdict])
    console.print(table)


def _cells(rule: RuleVerdict) -> tuple[str, str, str, str, str]:
    return (
        rule.rule,
        "–" if rule.value is None else _written(rule.value),
        f"{rule.operator} {_written(rule.bound)}",
        rule.verdict,
        rule.note,
    )


def _written(value: float | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
