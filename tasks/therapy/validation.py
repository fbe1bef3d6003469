"""How reliable each evaluator is: precision and recall on labelled rows that it was not tuned on."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from sklearn.metrics import precision_score, recall_score

from gauntlet.tasks.therapy import crisis, fairness, privacy, quality, safety, toxicity

Row = Mapping[str, str]
Split = Literal["tuning", "held_out"]
FIXTURES = files(__package__) / "fixtures"
EVALUATORS = {
    module.__name__.rpartition(".")[2]: module.VERSION
    for module in (crisis, safety, toxicity, privacy, fairness, quality)
}
"""The evaluators and their versions."""


@dataclass(frozen=True)
class Validation:
    """The precision and recall of a judgement over `rows`, of which `positives` are labelled yes."""

    evaluator: str
    version: str
    judgement: str
    precision: float
    recall: float
    rows: int
    positives: int
    fixture_sha256: str


@cache
def validate(split: Split = "held_out") -> tuple[Validation, ...]:
    """Compare every judgement with its labels. A figure over no rows is 0."""
    found = []
    for evaluator, judgement, fixture, decide in _JUDGEMENTS:
        rows = labelled_rows(fixture, split)
        labels, decisions = [row[judgement] == "1" for row in rows], decide(rows)
        found.append(
            Validation(
                evaluator=evaluator,
                version=EVALUATORS[evaluator],
                judgement=judgement,
                precision=float(precision_score(labels, decisions, zero_division=0)),
                recall=float(recall_score(labels, decisions, zero_division=0)),
                rows=len(rows),
                positives=sum(labels),
                fixture_sha256=hashlib.sha256((FIXTURES / fixture).read_bytes()).hexdigest(),
            )
        )
    return tuple(found)


def labelled_rows(fixture: str, split: Split) -> list[Row]:
    """The rows of a split. A row of `quality_order.tsv` is there twice, once in the wrong order."""
    rows = [row for row in _read(fixture) if row["split"] == split]
    if fixture == ORDER:
        return [
            {"first": row[first], "second": row[second], "ordered": label}
            for row in rows
            for first, second, label in (("better", "worse", "1"), ("worse", "better", "0"))
        ]
    return rows


def _read(fixture: str) -> list[Row]:
    lines = (FIXTURES / fixture).read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


ORDER = "quality_order.tsv"

Decide = Callable[[Sequence[Row]], list[bool]]


def _each(decide: Callable[[Row], bool]) -> Decide:
    return lambda rows: [decide(row) for row in rows]


def _item(judge: Callable[[str], object], item: str) -> Decide:
    return _each(lambda row: bool(getattr(judge(row["answer"]), item)))


def _toxic(rows: Sequence[Row]) -> list[bool]:
    return [bool(flag) for flag in toxicity.judge([row["text"] for row in rows]).toxic]


def _leak(item: str) -> Decide:
    rows = _read("privacy_training.tsv")
    training = privacy.TrainingData(f"{row['input']}\n{row['output']}" for row in rows)
    return _each(lambda row: bool(getattr(training.leak(row["prompt"], row["answer"]), item)))


def _ordered(row: Row) -> bool:
    return quality.judge(row["first"]).score > quality.judge(row["second"]).score


SAFETY_PARTS = ("acknowledges", "harms", "points_to_help")
QUALITY_ITEMS = ("empathy", "open_question", "reflection", "imperative_advice")

# evaluator, what it judges and the label of it, labelled rows, how it is decided
_JUDGEMENTS: tuple[tuple[str, str, str, Decide], ...] = (
    ("crisis", "crisis", "crisis.tsv", _each(lambda row: crisis.is_crisis(row["text"]))),
    *(("safety", part, "safety.tsv", _item(safety.judge, part)) for part in SAFETY_PARTS),
    ("toxicity", "toxic", "toxicity.tsv", _toxic),
    ("privacy", "identity", "privacy.tsv", _leak("identities")),
    ("privacy", "memorised", "privacy.tsv", _leak("memorised")),
    ("fairness", "refuses", "refusals.tsv", _each(lambda row: fairness.refuses(row["text"]))),
    (
        "fairness",
        "unequal",
        "fairness.tsv",
        _each(lambda row: fairness.pair_score(row["one"], row["other"]) < fairness.UNEQUAL_BELOW),
    ),
    *(("quality", item, "quality.tsv", _item(quality.judge, item)) for item in QUALITY_ITEMS),
    ("quality", "ordered", ORDER, _each(_ordered)),
)
