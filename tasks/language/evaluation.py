"""evaluate-model for language models: bundle, base model and champion answer the same prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gauntlet.components.evaluate_model import Evaluated
from gauntlet.components.training_rows import read_test_rows, trained_on
from gauntlet.contracts.document import as_json, replacing, write_json, write_text
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.bundle import BundleError, read_info
from gauntlet.tasks.language.answers import Answers, Prompts
from gauntlet.tasks.language.conversations import ask_probes, judge_conversations
from gauntlet.tasks.language.manifest import LanguageEvaluation
from gauntlet.tasks.language.models import answer_as_champion, asked_of, open_model
from gauntlet.tasks.language.report import evaluation_page
from gauntlet.tasks.language.scorecard import Contender, assess
from gauntlet.tasks.therapy.judge import load_judge

if TYPE_CHECKING:
    from gauntlet.backends.registry import AnswerScores

PREDICTIONS_FILE = "predictions.json"
METRICS_FILE = "metrics.json"
PROBES_FILE = "probes.json"


def evaluate(
    settings: LanguageEvaluation,
    name: str,
    seed: int,
    registry_uri: str,
    bundle: Path,
    splits: Path,
    scores: Path,
    predictions: Path,
    report: Path,
) -> Evaluated:
    """Ask the three models and write the outputs; `predictions` becomes a folder with `PREDICTIONS_FILE`.

    Raises:
        DataError: There are too few test rows.
        GauntletError: The challenger's bundle cannot be read, or the vendor that serves it is unavailable.
        UsageError: Its base model is not available any more.
    """
    if settings.therapy is not None and settings.therapy.judge is not None:
        load_judge(settings.therapy.judge)  # an unknown judge is an error before any model is asked
    try:
        model = open_model(bundle, settings)
    except BundleError as error:
        raise GauntletError(f"The bundle cannot be read: {error}. Run the pipeline again.") from None
    prompts = model.prompts(splits, seed)
    tuned = model.answer(prompts, seed)
    baseline = model.baseline(prompts, seed)
    tested = read_test_rows(splits)
    champion = answer_as_champion(registry_uri, name, model, prompts, settings, seed, tested)
    own = asked_of(prompts, trained_on(bundle, read_info(bundle), tested))
    scorecard = assess(prompts, tuned, baseline, champion, settings, seed, own)
    scorecard = replace(scorecard, not_measured=model.not_measured or None)
    predictions.mkdir(parents=True, exist_ok=True)
    if settings.therapy is not None:
        probed = ask_probes(model.ask, model.framed, splits, settings.therapy, seed)
        perplexity = model.not_measured.get("perplexity") or scorecard.challenger["perplexity"]
        judged = judge_conversations(
            prompts, tuned, probed, perplexity, splits, settings, settings.therapy, seed
        )
        scorecard = replace(scorecard, therapy=judged)
        write_json(predictions / PROBES_FILE, {"probes": [asdict(probe) for probe in probed]})
    write_json(scores, scorecard.as_json())
    write_json(predictions / METRICS_FILE, scorecard.as_json())
    write_predictions(predictions / PREDICTIONS_FILE, prompts, tuned, baseline, champion)
    write_text(report, evaluation_page(scorecard, name, prompts, tuned, baseline))
    tokens = f", {scorecard.tokens} tokens of references" if scorecard.tokens is not None else ""
    print(f"{scorecard.rows} test prompts of {scorecard.conversations} conversations{tokens}")
    for figure, value in scorecard.headline().items():
        print(f"{figure:>22}  {value:.4f}")
    for figure, reason in model.not_measured.items():
        print(f"{figure:>22}  not measured: {reason}")
    print(scorecard.training_overlap.summary)
    if scorecard.champion_error:
        print(f"warning: {scorecard.champion_error}")
    return Evaluated(scorecard.headline())


def registry_scores(scores: Mapping[str, Any]) -> AnswerScores | None:
    """What a registry may show with the version; None if it has no BLEU."""
    from gauntlet.backends.registry import AnswerScores

    bleu = scores["challenger"].get("bleu")
    return None if bleu is None else AnswerScores(bleu=bleu["value"])


def write_predictions(
    path: Path, prompts: Prompts, tuned: Answers, baseline: Contender, champion: Contender | str | None
) -> None:
    """Write one object per row: `id` (in the test split), `conversation`, `prompt`, `reference`, all answers.

    `loss` is that of the reference, summed over its `tokens`, if the model gives probabilities.
    """
    rows = []
    for at, (row, prompt) in enumerate(zip(prompts.ids, prompts.questions, strict=True)):
        content = {
            "id": row,
            "conversation": prompts.conversations[at],
            "prompt": prompt,
            "reference": prompts.references[at],
            "answer": tuned.greedy[at],
            "sampled_answer": tuned.sampled[at],
            "baseline_answer": baseline.answers.greedy[at],
        }
        if tuned.losses is not None:
            content |= {"loss": float(tuned.losses[at]), "tokens": len(prompts.rows[at].target)}
        if isinstance(champion, Contender):
            content["champion_answer"] = champion.answers.greedy[at]
        rows.append(content)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(as_json(rows), indent=1, ensure_ascii=False), encoding="utf-8")
