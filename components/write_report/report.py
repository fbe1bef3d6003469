"""The report of a run: reads what the run left, and writes the page."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from markupsafe import Markup

from gauntlet.components.write_report.record import CollectedRun, Kind, Outcome, outcome
from gauntlet.components.write_report.sections import sections
from gauntlet.contracts.document import write_text
from gauntlet.pages import page
from gauntlet.pages.formatting import count, dollars, duration, megabytes, moment, short_hash, times
from gauntlet.pages.page import Masthead, Tile

OUTCOME_TONES: dict[Kind, str] = {
    "promoted": "good",
    "registered": "good",
    "unchanged": "good",
    "rejected": "bad",
    "data refused": "bad",
    "failed": "bad",
    "cancelled": "idle",
}
CHECK_WORDS = {"fail": "failed", "warn": "with a warning", "drop": "with rows dropped"}
HOW_TIMES_ARE_TAKEN = (
    "A step's time runs from the end of the step before it, as the times of its files tell; it includes the "
    "wait for a machine."
)


def write_page(record: CollectedRun, name: str, run_id: str, manifest_sha256: str, report: Path) -> Outcome:
    """Write the page of the run to `report`, whole or not at all, and return how the run ended."""
    write_text(report, render(record, name, run_id, manifest_sha256))
    return outcome(record)


def render(record: CollectedRun, name: str, run_id: str, manifest_sha256: str) -> str:
    """The page of a run of the system `name`: the same record gives the same bytes."""
    ended = outcome(record)
    started = min((step.started for step in record.steps if step.started), default=None)
    finished = max((step.ended for step in record.steps if step.ended), default=None)
    facts = {"Run": Markup('<span class="mono">{}</span>').format(run_id), "Ended": moment(finished)}
    if started and finished:
        facts["Took"] = duration(finished - started)
    facts |= {"Manifest": short_hash(manifest_sha256), "Exit code": str(ended.exit_code)}
    message = record.failed_step.message or "" if record.failed_step else ""
    said = record.final.message if record.final else None
    masthead = Masthead(
        name=name,
        kind="run report",
        headline=ended.headline,
        lead="" if ended.kind in ("failed", "cancelled") else ended.detail,
        tone=OUTCOME_TONES[ended.kind],
        reasons=record.verdict.reasons if ended.kind == "rejected" and record.verdict else (),
        message=message,
        note=f"The orchestrator says: {said}" if message and said and said not in message else "",
        facts=facts,
        tiles=tiles(record),
    )
    footer = HOW_TIMES_ARE_TAKEN if started else ""
    return page.render(masthead, sections(record, ended, manifest_sha256), footer)


def tiles(record: CollectedRun) -> tuple[Tile, ...]:
    """The most important figures first; a step that was not reached has none."""
    quality = record.ask_kind("report", "tiles", lambda _: ())
    shown: tuple[Tile, ...] = ()
    if record.scores:
        with suppress(Exception):  # of a plug-in: the section that shows the scores says what is wrong
            shown = quality(record.scores)
    return (*shown, *_speed(record), *_training(record), *_data(record))


def _speed(record: CollectedRun) -> tuple[Tile, ...]:
    candidates = record.candidates
    if candidates is None or candidates.winner is None:
        return ()
    winner, size = candidates.winner, candidates.objective_batch_size or 0
    over = f"over PyTorch, batch\N{NO-BREAK SPACE}{size}"
    if candidates.clock == "cpu":
        over += ", by one thread's CPU time, because the machine was busy"
    precision = winner.precision or "precision unknown"
    return (
        Tile("Speed-up", times((winner.speedup or {}).get(size)), over),
        Tile("Model size", megabytes(winner.size_mb), f"{winner.name}, {precision}"),
    )


def _training(record: CollectedRun) -> tuple[Tile, ...]:
    history = record.history
    if history is None or history.origin is not None:
        return ()
    epochs = f"{len(history.epochs or ())} epoch{'' if len(history.epochs or ()) == 1 else 's'}"
    detail = f"{epochs}, best {history.best_epoch}"
    if history.training_tokens is not None:
        detail = f"{count(history.training_tokens)} tokens in all epochs"
    return (
        Tile("Training time", duration(history.seconds), detail),
        Tile("Training cost", dollars(history.cost_usd), history.machine or "machine unknown"),
    )


def _data(record: CollectedRun) -> tuple[Tile, ...]:
    shown: list[Tile] = []
    if record.statistics is not None and record.statistics.rows:
        rows = record.statistics.rows
        splits = ", ".join(f"{count(number)} {split}" for split, number in rows.items())
        shown.append(Tile("Rows", count(sum(rows.values())), splits))
    if record.checks is not None and record.checks.checks:
        verdicts = [check.verdict for check in record.checks.checks]
        others = [
            f"{verdicts.count(word)} {title}" for word, title in CHECK_WORDS.items() if word in verdicts
        ]
        passed = f"{len(verdicts) - verdicts.count('fail')} of {len(verdicts)}"
        shown.append(Tile("Data checks passed", passed, ", ".join(others) or "without a remark"))
    return tuple(shown)
