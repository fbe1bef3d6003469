"""The edge of evaluate-model for language models: bundle, base model and champion answer the same prompts."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from components.convert_to_onnx.decoder import export_decoder
from components.convert_to_onnx.export import ConversionError
from components.evaluate_model.language.answers import Answers, Prompts, answer, read_prompts
from components.evaluate_model.language.conversations import ask_probes, judge_conversations
from components.evaluate_model.language.report import render
from components.evaluate_model.language.scorecard import Contender, LanguageScorecard, assess
from components.step import replacing, write_json, write_text
from manifests.causal_lm import LanguageEvaluation
from manifests.errors import GauntletError, UsageError
from serving.bundle import TOKENIZER_FILE, BundleError
from serving.cpu import usable_cpus
from serving.generation import Decoder, Generator
from trainer.language_models import find_language_model, load_network

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
) -> LanguageScorecard:
    """Ask the three and write the outputs; `predictions` becomes a folder with `PREDICTIONS_FILE`.

    Raises:
        DataError: There are too few test rows.
        GauntletError: The challenger's bundle cannot be read.
        UsageError: The model that it began from is not to be had any more.
    """
    try:
        model = Generator(bundle)
    except BundleError as error:
        raise GauntletError(
            f"The converted model cannot be read: {error}. Run convert-to-onnx again."
        ) from None
    assert model.info.max_length is not None
    prompts = read_prompts(splits, model.tokenizer, settings, model.info.max_length, seed)
    tuned = answer(model.decoder, model.tokenizer, prompts, settings, seed)
    baseline = answer_as_baseline(model, prompts, settings, seed)
    champion = answer_as_champion(registry_uri, name, bundle, prompts, settings, seed)
    scorecard = assess(prompts, tuned, baseline, champion, settings, seed)
    predictions.mkdir(parents=True, exist_ok=True)
    if settings.therapy is not None:
        probed = ask_probes(model, splits, settings, settings.therapy, seed)
        perplexity = scorecard.challenger["perplexity"]
        judged = judge_conversations(
            prompts, tuned, probed, perplexity, splits, settings, settings.therapy, seed
        )
        scorecard = replace(scorecard, therapy=judged)
        write_json(predictions / PROBES_FILE, {"probes": [asdict(probe) for probe in probed]})
    write_json(scores, scorecard.as_json())
    write_json(predictions / METRICS_FILE, scorecard.as_json())
    write_predictions(predictions / PREDICTIONS_FILE, prompts, tuned, baseline, champion)
    write_text(report, render(scorecard, name, prompts, tuned, baseline))
    print(f"{scorecard.rows} test prompts, {scorecard.tokens} tokens of references")
    for figure, value in scorecard.headline().items():
        print(f"{figure:>22}  {value:.4f}")
    if scorecard.champion_error:
        print(f"warning: {scorecard.champion_error}")
    return scorecard


def answer_as_baseline(
    model: Generator, prompts: Prompts, settings: LanguageEvaluation, seed: int
) -> Contender:
    """The model that training began from, exported in fp32 and asked in the same way."""
    name = model.info.lineage["encoder"]
    with tempfile.TemporaryDirectory(prefix="gauntlet-baseline-") as scratch:
        path = Path(scratch) / "baseline.onnx"
        try:
            export_decoder(load_network(find_language_model(name)), path)
        except ConversionError as error:
            raise GauntletError(f"evaluation: the baseline {name} {error}. Choose another model.") from None
        decoder = Decoder(path, usable_cpus())
        return Contender(name, answer(decoder, model.tokenizer, prompts, settings, seed))


def answer_as_champion(
    registry_uri: str, name: str, bundle: Path, prompts: Prompts, settings: LanguageEvaluation, seed: int
) -> Contender | str | None:
    """The champion of `name`; none is registered; or why it cannot be asked, for which the gate rejects.

    Raises:
        GauntletError: The registry is out of reach, which says nothing of the champion.
    """
    from backends.registry import BUNDLE_TAG, bundle_folder, open_registry

    version = open_registry(registry_uri).champion(name)
    if version is None:
        return None
    title = f"Champion {version.name} version {version.version} ({version.bundle_uri})"
    try:
        with bundle_folder(version) as folder:
            model = Generator(folder, sha256=version.tags.get(BUNDLE_TAG))
            same_tokens = (folder / TOKENIZER_FILE).read_bytes() == (bundle / TOKENIZER_FILE).read_bytes()
        if not same_tokens:
            return (
                f"{title} has another tokenizer, so the perplexities of the two do not compare. "
                "Give the manifest a new name: a model with other tokens is another model in the registry."
            )
        answers = answer(model.decoder, model.tokenizer, prompts, settings, seed)
    except Exception as error:  # onnxruntime and tokenizers raise nothing more special than Exception
        if isinstance(error, GauntletError) and not isinstance(error, UsageError):
            raise
        repair = "Move the alias champion to a version that works: `gauntlet rollback`."
        return f"{title} cannot be run: {type(error).__name__}: {error}. {repair}"
    return Contender(f"version {version.version}", answers, version.version)


def write_predictions(
    path: Path, prompts: Prompts, tuned: Answers, baseline: Contender, champion: Contender | str | None
) -> None:
    """One object a row: `id` (the test split's), `prompt`, `reference`, `answer`, and the others' answers."""
    rows = []
    for at, (row, prompt) in enumerate(zip(prompts.ids, prompts.questions, strict=True)):
        content = {
            "id": row,
            "prompt": prompt,
            "reference": prompts.references[at],
            "answer": tuned.greedy[at],
            "sampled_answer": tuned.sampled[at],
            "baseline_answer": baseline.answers.greedy[at],
        }
        if isinstance(champion, Contender):
            content["champion_answer"] = champion.answers.greedy[at]
        rows.append(content)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
