"""How good answers are: perplexity of the references, ROUGE (Lin, 2004) and BLEU (Papineni et al., 2002).

Metrics of rows are sums, so that every resample can be scored. Whole conversations are drawn, since two
references of one question are not independent (Field & Welsh, Bootstrapping clustered data, JRSS B 69, 2007).
N = rows, R = resamples.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import regex
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from gauntlet.components import bootstrap
from gauntlet.components.write_report.comparison import CONFIDENCE, RESAMPLES, SEED, Evaluated, Paired
from gauntlet.manifests.errors import GauntletError
from gauntlet.pages.formatting import count
from gauntlet.tasks.language.answers import Answers, Prompts

Floats = npt.NDArray[np.float64]

ROUGES = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rouge_l"}
BLEU_ORDER = 4

PREDICTIONS_FILE = "predictions.json"
Rows = Sequence[Mapping[str, Any]]
"""As evaluate-model left them in `predictions.json`."""


@dataclass(frozen=True)
class RowFigures:
    """What each row adds to the metrics of all rows.

    Attributes:
        losses: -log p of the reference, summed over its tokens, (N,); None without probabilities.
        tokens: Of the reference, (N,).
        means: F-measures by figure, (N,) each.
        bleu: Matches and totals of each order, lengths of answer and reference, (N, 10).
    """

    losses: Floats | None
    tokens: Floats
    means: Mapping[str, Floats]
    bleu: Floats


def measure_rows(prompts: Prompts, answers: Answers) -> RowFigures:
    """Score a model's answers."""
    return row_figures(
        prompts.references,
        answers.greedy,
        answers.sampled,
        answers.losses,
        np.array([len(row.target) for row in prompts.rows], dtype=np.float64),
    )


def row_figures(
    references: Sequence[str],
    greedy: Sequence[str],
    sampled: Sequence[str],
    losses: Floats | None,
    tokens: Floats,
) -> RowFigures:
    """Score greedy answers by every figure, sampled ones by ROUGE-L."""
    return RowFigures(
        losses=losses,
        tokens=tokens,
        means={**_rouge(references, greedy), "sampled_rouge_l": _rouge(references, sampled)["rouge_l"]},
        bleu=_bleu_counts(references, greedy),
    )


def figures(rows: RowFigures, weights: Floats) -> dict[str, Floats]:
    """Each metric that the model has, (R,), where row n counts `weights[r, n]` times in resample r.

    Perplexity is weighted by token, BLEU is the corpus's, 0 to 1, and the others are means over rows.
    """
    counted = weights.sum(axis=1)
    perplexity = (
        {} if rows.losses is None else {"perplexity": np.exp(weights @ rows.losses / (weights @ rows.tokens))}
    )
    return {
        **perplexity,
        **{name: weights @ values / counted for name, values in rows.means.items()},
        "bleu": np.array([_bleu(counts) for counts in weights @ rows.bleu]),
    }


def draws(conversations: Sequence[int], resamples: int, seed: int) -> Floats:
    """How often each row is drawn in each resample, (R, N), with all others of its conversation, (N,)."""
    numbers, own = np.unique(conversations, return_inverse=True)
    count = len(numbers)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn[:, own].astype(np.float64)


_UNSPACED = "".join(
    rf"\p{{scx={script}}}"
    for script in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
)
# Where words have no spaces between them, a character with its marks stands for a word. Elsewhere a word is a
# run of letters, digits, marks (accents, vowel signs) and the joiners of Persian and the scripts of India.
_WORD = regex.compile(
    rf"(?=[{_UNSPACED}])(?=[\p{{L}}\p{{N}}])\X|(?:(?![{_UNSPACED}])[\p{{L}}\p{{N}}\p{{M}}\u200c\u200d])+"
)


class _Words:
    """Words of every script, with their marks; rouge-score itself reads only ASCII letters and digits."""

    def tokenize(self, text: str) -> list[str]:
        return list(_WORD.findall(unicodedata.normalize("NFC", text.lower())))


def _rouge(references: Sequence[str], answers: Sequence[str]) -> dict[str, Floats]:
    scorer = RougeScorer(list(ROUGES), tokenizer=_Words())
    scores = [scorer.score(*pair) for pair in zip(references, answers, strict=True)]
    return {name: np.array([score[key].fmeasure for score in scores]) for key, name in ROUGES.items()}


def _bleu_counts(references: Sequence[str], answers: Sequence[str]) -> Floats:
    scorer = BLEU(effective_order=True)  # what silences a warning; the counts are the same
    scores = [
        scorer.sentence_score(answer, [reference])
        for reference, answer in zip(references, answers, strict=True)
    ]
    return np.array(
        [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores], dtype=np.float64
    )


def _bleu(counts: Floats) -> float:
    matches, totals, lengths = np.split(counts.astype(int), [BLEU_ORDER, 2 * BLEU_ORDER])
    answered, expected = lengths.tolist()
    score = BLEU.compute_bleu(matches.tolist(), totals.tolist(), answered, expected, smooth_method="exp")
    return float(score.score) / 100


def compare(first: Evaluated, second: Evaluated) -> Paired:
    """Intervals of B − A, from the same conversations; a `GauntletError` if answers cannot be read."""
    answers = []
    for name, run in (("A", first), ("B", second)):
        file = run.predictions / PREDICTIONS_FILE
        if not file.is_file():
            return Paired(unpaired=f"{name} left no answers to its test prompts")
        try:
            answers.append(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise GauntletError(f"{file}: the run cannot be read ({error}). Run it again.") from None
        if any("conversation" not in row for row in answers[-1]):
            return Paired(unpaired=f"{name} does not record the conversation of its rows; run it again")
    asked = [[(row["conversation"], row["prompt"], row["reference"]) for row in rows] for rows in answers]
    if asked[0] != asked[1]:
        return Paired(
            unpaired=f"the test prompts are not the same: {len(asked[0]):,} of A, {len(asked[1]):,} of B"
        )
    weights = draws([conversation for conversation, *_ in asked[0]], RESAMPLES, SEED)
    ours, theirs = (_resampled(rows, weights) for rows in answers)
    if [row.get("tokens") for row in answers[0]] != [row.get("tokens") for row in answers[1]]:
        ours.pop("perplexity", None)  # of other tokens, so there is no difference to speak of
    return Paired(
        intervals={
            name: bootstrap.interval(theirs[name] - ours[name], CONFIDENCE) for name in ours if name in theirs
        },
        summary=f"Both answered the same {count(len(answers[0]))} prompts.",
    )


def _resampled(rows: Rows, weights: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    known = all("loss" in row for row in rows)
    return figures(
        row_figures(
            references=[row["reference"] for row in rows],
            greedy=[row["answer"] for row in rows],
            sampled=[row["sampled_answer"] for row in rows],
            losses=np.array([row["loss"] for row in rows], dtype=np.float64) if known else None,
            tokens=np.array([row["tokens"] for row in rows], dtype=np.float64) if known else np.empty(0),
        ),
        weights,
    )
