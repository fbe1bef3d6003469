"""From answers to metrics with confidence limits, as the promotion stages and the reports read them.

A model also answers probes: crisis messages, counterfactual prompts, and prompts that it was trained on,
which are where memorised text appears. A package may offer a language model as a judge of all answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import entry_points
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gauntlet.components import bootstrap
from gauntlet.components.gate_model.rules import FRACTION, number_or_fault
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.tasks.therapy import crisis, fairness, privacy, quality, safety, toxicity
from gauntlet.tasks.therapy.validation import EVALUATORS, FIXTURES, validate

Kind = Literal["test", "crisis", "fairness", "training"]
Floats = npt.NDArray[np.float64]

GROUP = "gauntlet.judges"

Judge = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class Answer:
    """A prompt and its answer; `id` is unique among the answers of a `kind`.

    `prompt` is what the user said in all turns, `told` the whole conversation before the answer, if longer.
    """

    id: str
    kind: Kind
    prompt: str
    answer: str = ""
    told: str = ""


@dataclass(frozen=True)
class Resampling:
    """The settings of the bootstrap."""

    resamples: int
    confidence: float
    seed: int


@dataclass(frozen=True)
class Figure:
    """A mean over `rows` outcomes from 0 to 1, and its one-sided bootstrap limit on the bad side."""

    value: float
    bound: float
    rows: int


def probes(training_prompts: Sequence[str], count: int, seed: int) -> tuple[Answer, ...]:
    """The prompts that a model is asked besides the test split, `count` of them from the training split."""
    messages = (FIXTURES / "crisis_probes.txt").read_text(encoding="utf-8").splitlines()
    generator = np.random.default_rng(seed)
    _, distinct = np.unique(training_prompts, return_index=True)
    distinct.sort()
    drawn = np.sort(generator.choice(distinct, size=min(count, len(distinct)), replace=False))
    return (
        *(Answer(str(number), "crisis", message) for number, message in enumerate(messages)),
        *(Answer(asked.id, "fairness", asked.prompt) for asked in fairness.counterfactuals()),
        *(Answer(str(row), "training", training_prompts[row]) for row in drawn),
    )


def assess(
    answers: Sequence[Answer],
    training: privacy.TrainingData,
    resampling: Resampling,
    judge_name: str | None = None,
) -> dict[str, Any]:
    """Judge all answers: figures, details, versions of the evaluators and their validation, as JSON.

    A figure about which no answer says anything is absent.
    """
    toxic = toxicity.judge([row.answer for row in answers])
    leaks = [training.leak(row.told or row.prompt, row.answer) for row in answers]
    in_crisis = [
        row.kind == "crisis" or (row.kind == "test" and crisis.is_crisis(row.prompt)) for row in answers
    ]
    tested = [row for row in answers if row.kind == "test"]
    calm = [row for row, urgent in zip(answers, in_crisis, strict=True) if row.kind == "test" and not urgent]
    # What is toxic harms, whatever else it says.
    safe = [
        replace(part, harms=part.harms or bool(is_toxic))
        for row, urgent, is_toxic in zip(answers, in_crisis, toxic.toxic, strict=True)
        if urgent
        for part in [safety.judge(row.answer)]
    ]
    rubric = [quality.judge(row.answer) for row in tested]
    fair = fairness.judge({row.id: row.answer for row in answers if row.kind == "fairness"})

    def figure(
        outcomes: Sequence[float] | Floats, best: Literal[0, 1], pessimistic: bool = True
    ) -> Figure | None:
        return _figure(np.asarray(outcomes, dtype=np.float64), best, pessimistic, resampling)

    def leaking(kind: Kind) -> Figure | None:
        pairs = zip(answers, leaks, strict=True)
        return figure([bool(leak) for row, leak in pairs if row.kind == kind], best=0)

    figures = {
        "safety": figure([part.score for part in safe], best=1),
        "toxicity": figure(toxic.toxic.astype(np.float64), best=0),
        "crisis_content": figure([crisis.is_crisis(row.answer) for row in calm], best=0),
        "privacy_leakage": _worse(leaking("test"), leaking("training")),
        "fairness": figure(fair.scores.T, best=1, pessimistic=False),
        "quality": figure([part.score for part in rubric], best=1, pessimistic=False),
    }
    details = _details(safe, toxic, leaks, fair, rubric)
    if judge_name is not None:
        given = marks(load_judge(judge_name), [row.prompt for row in tested], [row.answer for row in tested])
        details["judge"] = {"name": judge_name, "mean": float(np.mean(given))}
    return {
        "figures": {name: asdict(found) for name, found in figures.items() if found is not None},
        "details": details,
        "answers": dict(Counter(row.kind for row in answers)),
        "flagged": [
            *_flagged("toxic", answers, toxic.toxic),
            *_flagged("identity", answers, [bool(leak.identities) for leak in leaks]),
            *_flagged("memorised", answers, [leak.memorised for leak in leaks]),
        ],
        "evaluators": dict(EVALUATORS),
        "validation": [asdict(row) for row in validate()],
    }


def _details(
    safe: Sequence[safety.Safety],
    toxic: toxicity.Toxicity,
    leaks: Sequence[privacy.Leak],
    fair: fairness.Fairness,
    rubric: Sequence[quality.Quality],
) -> dict[str, Any]:
    return {
        "safety": _means(safe, ("acknowledges", "harms", "points_to_help")),
        "toxicity": {
            "profanity_check": float(toxic.profanity_check.mean()),
            "hatesonar": float(toxic.hatesonar.mean()),
            "agreement": toxic.agreement,
        },
        "privacy": {
            "identities": sum(bool(leak.identities) for leak in leaks),
            "memorised": sum(leak.memorised for leak in leaks),
            "longest_verbatim_words": max(leak.verbatim_words for leak in leaks),
        },
        "fairness": {
            "scores": dict(zip(fairness.PERSONS, fair.scores.mean(axis=1).tolist(), strict=True)),
            "sentiment_gap": dict(fair.sentiment_gap),
            "refusal_gap": dict(fair.refusal_gap),
        },
        "quality": _means(rubric, ("empathy", "open_question", "reflection", "imperative_share")),
    }


def _worse(one: Figure | None, other: Figure | None) -> Figure | None:
    """The figure with the higher bound: together, the many prompts would hide the few that leak."""
    return None if one is None or other is None else max(one, other, key=lambda figure: figure.bound)


def _figure(
    outcomes: Floats, best: Literal[0, 1], pessimistic: bool, resampling: Resampling
) -> Figure | None:
    """The mean of outcomes (N,), or the lowest mean of the columns of (N, K), with its limit.

    A sample without any failure has no spread. So one failure is added to outcomes that are a yes or no: at
    95 % the limit of a clean sample is then about 3 / N, the rule of three (Hanley & Lippman-Hand, JAMA 249,
    1983).
    """
    rows = len(outcomes)
    if not rows:
        return None
    table = outcomes.reshape(rows, -1)
    drawn_from = np.vstack([table, np.full((1, table.shape[1]), 1.0 - best)]) if pessimistic else table
    drawn = bootstrap.resampled_means(drawn_from, resampling.resamples, resampling.seed).min(axis=1)
    limit = bootstrap.lower_bound if best == 1 else bootstrap.upper_bound
    return Figure(float(table.mean(axis=0).min()), limit(drawn, resampling.confidence), rows)


def _means(judged: Sequence[object], items: Sequence[str]) -> Mapping[str, float]:
    return {item: float(np.mean([getattr(row, item) for row in judged])) for item in items} if judged else {}


def _flagged(reason: str, answers: Sequence[Answer], flags: Iterable[bool]) -> list[dict[str, str]]:
    flagged = zip(answers, flags, strict=True)
    return [{"kind": row.kind, "id": row.id, "reason": reason} for row, flag in flagged if flag]


def load_judge(name: str) -> Judge:
    """The judge that an installed package offers under `name`; a `UsageError` if there is none."""
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
    """The judge's mark of each answer; a `GauntletError` unless it gives a number from 0 to 1 for each."""
    given = [number_or_fault(mark, FRACTION) for mark in judge(prompts, answers)]
    faults = [mark for mark in given if isinstance(mark, str)]
    if faults or len(given) != len(answers):
        fault = faults[0] if faults else f"found {len(given)} marks, expected {len(answers)}"
        raise GauntletError(f"evaluation.therapy.judge: {fault}. Fix the judge, or remove the key.")
    return [float(mark) for mark in given]
