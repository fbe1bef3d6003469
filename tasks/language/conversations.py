"""A language model's answers to probes, and the evaluators' judgement of all its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gauntlet.contracts.names import NOT_MEASURED
from gauntlet.tasks.language.answers import Answers, Prompts
from gauntlet.tasks.language.manifest import LanguageEvaluation
from gauntlet.tasks.language.scorecard import Figure
from gauntlet.tasks.therapy.manifest import Therapy
from gauntlet.tasks.therapy.privacy import TrainingData
from gauntlet.tasks.therapy.scorecard import Answer, Resampling, answered, assess, probes
from gauntlet.trainer.splits import read_split

Ask = Callable[[Sequence[str]], Sequence[str]]
"""A model's greedy answers to rendered prompts."""


def ask_probes(
    ask: Ask, framed: Callable[[str], str], splits: Path, therapy: Therapy, seed: int
) -> list[Answer]:
    """The model's greedy answers to every probe.

    A prompt of the training split is rendered as in training, with the turns before the last question;
    `framed` renders the others.
    """
    asked = probes(read_split(splits, "train")["prompt"].tolist(), therapy.training_probes, seed)
    texts = [probe.prompt if probe.kind == "training" else framed(probe.prompt) for probe in asked]
    return answered(asked, ask(texts))


def judge_conversations(
    prompts: Prompts,
    tuned: Answers,
    probed: Sequence[Answer],
    perplexity: Figure | str,
    splits: Path,
    settings: LanguageEvaluation,
    therapy: Therapy,
    seed: int,
) -> dict[str, Any]:
    """Judge the answers to the test split and to the probes, as JSON.

    A prompt with several references counts once, since it has one answer. `perplexity` is the metric, or why
    there is none.
    """
    _, distinct = np.unique(prompts.rendered, return_index=True)
    tested = [
        Answer(str(prompts.ids[at]), "test", prompts.asked[at], tuned.greedy[at], told=prompts.rendered[at])
        for at in sorted(distinct)
    ]
    train = read_split(splits, "train")
    judged = assess(
        [*tested, *probed],
        TrainingData([*train["question"], *train["response"]]),
        Resampling(settings.bootstrap_resamples, settings.confidence, seed),
        therapy.judge,
    )
    judged["figures"]["perplexity"] = (
        {NOT_MEASURED: perplexity}
        if isinstance(perplexity, str)
        else {"value": perplexity.value, "bound": perplexity.upper_bound, "rows": len(prompts.ids)}
    )
    return judged
