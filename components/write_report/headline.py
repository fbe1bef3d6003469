"""The few figures at the top of the page: those of the furthest step that the run came to."""

from __future__ import annotations

from dataclasses import dataclass

from gauntlet.components.write_report.figures import (
    count,
    decimal,
    dollars,
    duration,
    megabytes,
    percent,
    signed,
    times,
)
from gauntlet.components.write_report.record import RunRecord
from gauntlet.components.write_report.scores import Doubted, LanguageScores

CHECK_WORDS = {"fail": "failed", "warn": "with a warning", "drop": "with rows dropped"}


@dataclass(frozen=True)
class Tile:
    """One figure with its name and a line that says what it is of."""

    label: str
    value: str
    detail: str


def tiles(record: RunRecord) -> tuple[Tile, ...]:
    """What the run has to show, the most telling first; a step that was not reached gives none."""
    return (*_quality(record), *_speed(record), *_training(record), *_data(record))


def _quality(record: RunRecord) -> tuple[Tile, ...]:
    if record.language_scores is not None:
        return _language_quality(record.language_scores)
    scores = record.scores
    if scores is None:
        return ()
    ours, grades = scores.challenger, scores.challenger.grades
    name, value, (low, high) = "Macro-F1", ours.macro_f1, ours.intervals.get("macro_f1", (None, None))
    if grades is not None:
        name, value, (low, high) = "QWK", grades.qwk, grades.intervals.get("qwk", (None, None))
    interval = f"{percent(scores.confidence)} interval {decimal(low)} to {decimal(high)}"
    quality = Tile(name, decimal(value), interval)
    paired = scores.paired
    if scores.champion is None or paired is None:
        return (quality,)
    difference, least = paired.macro_f1_difference, paired.lower_bound
    if grades is not None:
        difference, least = paired.qwk_difference, paired.qwk_lower_bound
    bound = f"at least {signed(least)} at {percent(scores.confidence)} confidence"
    return (quality, Tile(f"Against version {scores.champion.version}", signed(difference), bound))


def _language_quality(scores: LanguageScores) -> tuple[Tile, ...]:
    ours, gains = scores.challenger, scores.baseline.gains
    shown = []
    for key, title, digits in (("perplexity", "Perplexity", 2), ("rouge_l", "ROUGE-L", 3)):
        if key in scores.not_measured:
            continue
        figure, gain = ours.get(key, Doubted()), gains.get(key, Doubted())
        low, high = (signed(end, digits) for end in gain.interval)
        detail = f"better than the baseline by {low} to {high} ({percent(scores.confidence)} interval)"
        shown.append(Tile(title, decimal(figure.value, digits), detail))
    return tuple(shown)


def _speed(record: RunRecord) -> tuple[Tile, ...]:
    candidates = record.candidates
    if candidates is None or candidates.winner is None:
        return ()
    winner = candidates.winner
    over = f"over PyTorch, batch\N{NO-BREAK SPACE}{candidates.objective_batch_size}"
    if candidates.clock == "cpu":
        over += ", by one thread's CPU time, because the machine was busy"
    return (
        Tile("Speed-up", times(candidates.chosen_speedup), over),
        Tile(
            "Model size",
            megabytes(winner.size_mb),
            f"{winner.name}, {winner.precision or 'precision unknown'}",
        ),
    )


def _training(record: RunRecord) -> tuple[Tile, ...]:
    history = record.history
    if history is None:
        return ()
    epochs = f"{len(history.epochs)} epoch{'' if len(history.epochs) == 1 else 's'}"
    detail = f"{epochs}, best {history.best_epoch}"
    if history.training_tokens is not None:
        detail = f"{count(history.training_tokens)} tokens in all epochs"
    return (
        Tile("Training time", duration(history.seconds), detail),
        Tile("Training cost", dollars(history.cost_usd), history.machine or "machine unknown"),
    )


def _data(record: RunRecord) -> tuple[Tile, ...]:
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
