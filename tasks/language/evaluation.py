"""evaluate-model for language models: bundle, base model and champion answer the same N prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gauntlet.components import bootstrap
from gauntlet.components.evaluate_model import Evaluated, EvaluationRun
from gauntlet.components.training_rows import (
    NO_FINGERPRINTS,
    Flags,
    RowFingerprints,
    clean_rows,
    describe_overlap,
    read_test_rows,
    trained_on,
)
from gauntlet.contracts.document import as_json, write_json, write_text
from gauntlet.contracts.scores import NOT_MEASURED
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.kinds import known_metric, task_kind
from gauntlet.serving.bundle import BundleError, read_info
from gauntlet.tasks.language.answers import Answers, Prompts
from gauntlet.tasks.language.manifest import LanguageEvaluation
from gauntlet.tasks.language.metrics import PREDICTIONS_FILE, Floats, draws, figures, measure_rows
from gauntlet.tasks.language.report import evaluation_page
from gauntlet.tasks.language.scores import Estimate, OtherModel, Scores
from gauntlet.tasks.therapy import scorecard
from gauntlet.tasks.therapy.manifest import Therapy
from gauntlet.tasks.therapy.privacy import TrainingData
from gauntlet.trainer.splits import read_split

if TYPE_CHECKING:
    from gauntlet.backends.registry import AnswerScores

METRICS_FILE = "metrics.json"
PROBES_FILE = "probes.json"
FEWEST_COMPARED = 2
"""Conversations: from a single one, the spread between conversations cannot be estimated."""

TOO_FEW_LEFT = (
    "Too few are left to compare on: give the dataset a test split with conversations that the champion has "
    "not seen."
)


@dataclass(frozen=True)
class Contender:
    """A model and its answers. `trained_on` are the prompts of its training, (N,), or why they are
    unknown."""

    name: str
    answers: Answers
    version: str | None = None
    trained_on: Flags | str = NO_FINGERPRINTS


class AnsweringModel(Protocol):
    """The model of a bundle, run here or behind an API."""

    @property
    def not_measured(self) -> Mapping[str, str]:
        """Metrics that the model cannot have, and why."""

    def prompts(self, splits: Path, seed: int) -> Prompts:
        """Test rows as prompts of this model; a `DataError` if there are fewer than two."""

    def answer(self, prompts: Prompts, seed: int) -> Answers:
        """Its answers; the same seed gives the same answers."""

    def baseline(self, prompts: Prompts, seed: int) -> Contender:
        """The base model, asked in the same way."""

    def unlike(self, other: Path) -> str | None:
        """Why the metrics of another bundle's model do not compare with this one's; None if they do."""

    def framed(self, question: str) -> str:
        """A question rendered for this model."""

    def ask(self, texts: Sequence[str]) -> Sequence[str]:
        """The greedy answer to each text, which is rendered already."""


def open_model(bundle: Path, settings: LanguageEvaluation, sha256: str | None = None) -> AnsweringModel:
    """The model of a bundle.

    Raises:
        BundleError: The bundle is incomplete or altered.
        UsageError: A vendor serves it, and there are no credentials.
    """
    kind = task_kind(read_info(bundle, sha256).task)
    model: AnsweringModel = kind.function("evaluation", "open_model")(bundle, settings, sha256)
    return model


def evaluate(run: EvaluationRun[LanguageEvaluation]) -> Evaluated:
    """Ask the three models and write the outputs; `predictions` becomes a folder with `PREDICTIONS_FILE`.

    Raises:
        DataError: There are too few test rows.
        GauntletError: The challenger's bundle cannot be read, or the vendor that serves it is unavailable.
        UsageError: Its base model is not available any more.
    """
    settings, therapy = run.settings, run.settings.therapy
    if therapy is not None and therapy.judge is not None:
        scorecard.load_judge(therapy.judge)  # an unknown judge is an error before any model is asked
    try:
        model = open_model(run.bundle, settings)
    except BundleError as error:
        raise GauntletError(f"The bundle cannot be read: {error}. Run the pipeline again.") from None
    prompts = model.prompts(run.splits, run.seed)
    tuned = model.answer(prompts, run.seed)
    baseline = model.baseline(prompts, run.seed)
    tested = read_test_rows(run.splits)
    champion = answer_as_champion(run, model, prompts, tested)
    own = asked_of(prompts, trained_on(run.bundle, read_info(run.bundle), tested))
    scores = assess(prompts, tuned, baseline, champion, settings, run.seed, own)
    found: dict[str, Any] = {"not_measured": model.not_measured or None}
    run.predictions.mkdir(parents=True, exist_ok=True)
    if therapy is not None:
        probed = ask_probes(run, model, therapy)
        found["therapy"] = judge_conversations(run, therapy, prompts, tuned, probed)
        if reason := model.not_measured.get("perplexity"):
            perplexity: dict[str, Any] = {NOT_MEASURED: reason}
        else:
            ours = scores.challenger["perplexity"]
            perplexity = {"value": ours.value, "bound": ours.upper_bound, "rows": len(prompts.ids)}
        found["therapy"]["figures"]["perplexity"] = perplexity
        write_json(run.predictions / PROBES_FILE, {"probes": [asdict(probe) for probe in probed]})
    scores = scores.model_copy(update=found)
    scores.write(run.scores)
    scores.write(run.predictions / METRICS_FILE)
    rows = as_json(answer_rows(prompts, tuned, baseline, champion))
    write_text(run.predictions / PREDICTIONS_FILE, json.dumps(rows, indent=1, ensure_ascii=False))
    write_text(run.report, evaluation_page(scores, run.name, prompts, tuned, baseline))
    tokens = f", {scores.tokens} tokens of references" if scores.tokens is not None else ""
    print(f"{scores.rows} test prompts of {scores.conversations} conversations{tokens}")
    for figure, value in scores.headline().items():
        print(f"{figure:>22}  {value:.4f}")
    for figure, reason in model.not_measured.items():
        print(f"{figure:>22}  not measured: {reason}")
    print(scores.training_overlap.summary if scores.training_overlap else "")
    if scores.champion_error:
        print(f"warning: {scores.champion_error}")
    return Evaluated(scores.headline())


def registry_scores(scores: Mapping[str, Any]) -> AnswerScores | None:
    """What a registry may show with the version; None if it has no BLEU."""
    from gauntlet.backends.registry import AnswerScores

    bleu = scores["challenger"].get("bleu")
    return None if bleu is None else AnswerScores(bleu=bleu["value"])


def answer_as_champion(
    run: EvaluationRun[LanguageEvaluation],
    model: AnsweringModel,
    prompts: Prompts,
    tested: RowFingerprints | None,
) -> Contender | str | None:
    """The champion's answers, None without a champion, or why it cannot be asked: the gate then rejects."""
    from gauntlet.backends.factory import bundle_folder, open_registry
    from gauntlet.backends.registry import BUNDLE_TAG

    version = open_registry(run.registry_uri).champion(run.name)
    if version is None:
        return None
    title = f"Champion {version.name} version {version.version} ({version.bundle_uri})"
    try:
        with bundle_folder(version) as folder:
            difference = model.unlike(folder)
            if difference is not None:
                return (
                    f"{title} {difference}, so the figures of the two do not compare. Give the manifest a "
                    "new name: it is another model in the registry."
                )
            champion = open_model(folder, run.settings, version.tags.get(BUNDLE_TAG))
            seen = asked_of(prompts, trained_on(folder, read_info(folder), tested))
        answers = champion.answer(prompts, run.seed)
    except Exception as error:  # onnxruntime and tokenizers raise nothing more special than Exception
        if isinstance(error, GauntletError) and not isinstance(error, UsageError):
            raise
        repair = "Move the alias champion to a version that works: `gauntlet rollback`."
        return f"{title} cannot be run: {type(error).__name__}: {error}. {repair}"
    return Contender(f"version {version.version}", answers, version.version, seen)


def asked_of(prompts: Prompts, test_rows: Flags | str) -> Flags | str:
    """The flags of the prompts that were drawn, from the flags of all test rows."""
    return test_rows if isinstance(test_rows, str) else test_rows[list(prompts.ids)]


def ask_probes(
    run: EvaluationRun[LanguageEvaluation], model: AnsweringModel, therapy: Therapy
) -> list[scorecard.Answer]:
    """The model's greedy answers to every probe. A prompt of the training split is rendered already."""
    prompts = read_split(run.splits, "train", ["prompt"])["prompt"].tolist()
    asked = scorecard.probes(prompts, therapy.training_probes, run.seed)
    texts = [probe.prompt if probe.kind == "training" else model.framed(probe.prompt) for probe in asked]
    return [replace(one, answer=answer) for one, answer in zip(asked, model.ask(texts), strict=True)]


def judge_conversations(
    run: EvaluationRun[LanguageEvaluation],
    therapy: Therapy,
    prompts: Prompts,
    tuned: Answers,
    probed: Sequence[scorecard.Answer],
) -> dict[str, Any]:
    """The evaluators' judgement of the answers to probes and to each distinct test prompt, as JSON."""
    _, distinct = np.unique(prompts.rendered, return_index=True)
    tested = [
        scorecard.Answer(
            str(prompts.ids[at]), "test", prompts.asked[at], tuned.greedy[at], told=prompts.rendered[at]
        )
        for at in sorted(distinct)
    ]
    train = read_split(run.splits, "train", ["question", "response"])
    settings = run.settings
    return scorecard.assess(
        [*tested, *probed],
        TrainingData([*train["question"], *train["response"]]),
        scorecard.Resampling(settings.bootstrap_resamples, settings.confidence, run.seed),
        therapy.judge,
    )


def assess(
    prompts: Prompts,
    tuned: Answers,
    baseline: Contender,
    champion: Contender | str | None,
    settings: LanguageEvaluation,
    seed: int,
    trained_on: Flags | str = NO_FINGERPRINTS,
) -> Scores:
    """Score all models on the same resamples; for a champion that failed, `champion` says why.

    The champion is compared on the clean prompts. `trained_on` says which prompts the tuned model was trained
    on, (N,), or why that is not known.
    """
    weights = draws(prompts.conversations, settings.bootstrap_resamples, seed)
    ours = _drawn(prompts, tuned, weights)
    overlap = describe_overlap(len(prompts.ids), trained_on, None, rows="prompts")
    against: OtherModel | None = None
    if isinstance(champion, Contender):
        clean = clean_rows(len(prompts.ids), trained_on, champion.trained_on)
        overlap = describe_overlap(len(prompts.ids), trained_on, champion.trained_on, rows="prompts")
        conversations = len(set(np.array(prompts.conversations)[clean].tolist()))
        if conversations >= FEWEST_COMPARED:
            left = prompts.where(clean)
            drawn = draws(left.conversations, settings.bootstrap_resamples, seed)
            theirs = _drawn(left, champion.answers.where(clean), drawn)
            on_clean = ours if clean.all() else _drawn(left, tuned.where(clean), drawn)
            against = _compared(champion, theirs, on_clean, settings.confidence, conversations)
        else:
            champion = f"{overlap.summary} {TOO_FEW_LEFT}"
    of_baseline = _drawn(prompts, baseline.answers, weights)
    return Scores(
        rows=len(prompts.ids),
        conversations=len(set(prompts.conversations)),
        tokens=sum(len(row.target) for row in prompts.rows) if prompts.rows else None,
        confidence=settings.confidence,
        challenger=_estimates(ours, settings.confidence),
        baseline=_compared(baseline, of_baseline, ours, settings.confidence),
        training_overlap=overlap,
        champion=against,
        champion_error=champion if isinstance(champion, str) else None,
    )


def _compared(
    other: Contender,
    theirs: Mapping[str, Floats],
    ours: Mapping[str, Floats],
    confidence: float,
    conversations: int | None = None,
) -> OtherModel:
    gains = {
        name: theirs[name] - ours[name] if known_metric(name).better == "lower" else ours[name] - theirs[name]
        for name in ours
    }
    return OtherModel(
        name=other.name,
        figures=_estimates(theirs, confidence),
        gains=_estimates(gains, confidence),
        version=other.version,
        conversations=conversations,
    )


def _drawn(prompts: Prompts, answers: Answers, weights: Floats) -> dict[str, Floats]:
    """Each metric on all rows, and then on each resample."""
    return figures(measure_rows(prompts, answers), np.vstack([np.ones(weights.shape[1]), weights]))


def _estimates(drawn: Mapping[str, Floats], confidence: float) -> dict[str, Estimate]:
    return {
        name: Estimate(
            value=float(values[0]),
            interval=bootstrap.interval(values[1:], confidence),
            lower_bound=bootstrap.lower_bound(values[1:], confidence),
            upper_bound=bootstrap.upper_bound(values[1:], confidence),
        )
        for name, values in drawn.items()
    }


def answer_rows(
    prompts: Prompts, tuned: Answers, baseline: Contender, champion: Contender | str | None
) -> list[dict[str, Any]]:
    """One object per prompt, with its `id` in the test split and all answers.

    `loss` is that of the reference, summed over its `tokens`, if the model gives probabilities.
    """
    rows = []
    for at, (row, prompt) in enumerate(zip(prompts.ids, prompts.questions, strict=True)):
        content: dict[str, Any] = {
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
    return rows
