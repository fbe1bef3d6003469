"""Scores the converted tagger and the champion on the same test sentences.

N = sentences, R = resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from gauntlet.backends.factory import bundle_folder, open_registry
from gauntlet.backends.registry import BUNDLE_TAG, ModelVersion
from gauntlet.components.bootstrap import interval, lower_bound, resampled_means, upper_bound
from gauntlet.components.evaluate_model import Evaluated, EvaluationRun
from gauntlet.components.training_rows import clean_rows, describe_overlap, read_test_rows, trained_on
from gauntlet.contracts.document import replacing, write_json, write_text
from gauntlet.manifests.errors import DataError, GauntletError, UsageError
from gauntlet.serving.bundle import BundleError
from gauntlet_token_classification.entities import outcomes
from gauntlet_token_classification.entities import scores as metrics_of
from gauntlet_token_classification.manifest import TokenEvaluation
from gauntlet_token_classification.report import evaluation_page
from gauntlet_token_classification.serving import TaggerModel
from gauntlet_token_classification.training import Sentences

MISTAKES = 20
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Champion:
    """The `outcomes` of the champion, (N, 5), and which rows it was trained on, or why that is unknown."""

    version: str
    outcomes: Floats
    trained_on: npt.NDArray[np.bool_] | str


def evaluate(run: EvaluationRun[TokenEvaluation]) -> Evaluated:
    """Score the bundle and the champion on the test split and write the three outputs.

    Raises:
        DataError: The test split is empty.
        GauntletError: The bundle cannot be read.
    """
    tested = Sentences(run.splits, "test")
    if not tested.words:
        raise DataError("test rows: found none, expected some. Run the pipeline from validate-data.")
    try:
        model = TaggerModel(run.bundle)
    except BundleError as error:
        raise GauntletError(f"The converted model cannot be read: {error}. Convert it again.") from None
    labels = model.info.labels
    truth = [[labels[tag] for tag in tags] for tags in tested.tags]
    predicted = _tags(model, tested.words)
    ours = _outcomes(truth, predicted)
    fingerprints = read_test_rows(run.splits)
    seen = trained_on(run.bundle, model.info, fingerprints)
    version = open_registry(run.registry_uri).champion(run.name)
    champion: Champion | str | None = None
    if version is not None:
        champion = _champion(version, labels, tested, truth, fingerprints)
    content = _document(run.settings, run.seed, ours, seen, champion, labels)
    content["mistakes"] = [
        {
            "row": tested.rows[at],
            "text": " ".join(tested.words[at]),
            "tags": truth[at],
            "predicted": predicted[at],
        }
        for at in np.argsort(ours[:, 3] - ours[:, 4], kind="stable")[:MISTAKES].tolist()
        if truth[at] != predicted[at]
    ]
    write_json(run.scores, content)
    with replacing(run.predictions) as temporary:
        columns = {"row": tested.rows, "words": tested.words, "tags": truth, "predicted": predicted}
        pd.DataFrame(columns).to_parquet(temporary, index=False)
    write_text(run.report, evaluation_page(content, run.name))
    headline = {metric: content["challenger"][metric] for metric in ("entity_f1", "token_accuracy")}
    for metric, value in headline.items():
        print(f"{metric:>22}  {value:.4f}")
    return Evaluated(headline)


def registry_scores(_scores: Mapping[str, Any]) -> None:
    """A registry shows the metrics that it has as tags, and nothing else."""


def _tags(model: TaggerModel, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
    labels = model.info.labels
    return [[labels[at] for at in one.argmax(axis=1)] for one in model.probabilities(sentences)]


def _outcomes(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Floats:
    return np.array([outcomes(*pair) for pair in zip(truth, predicted, strict=True)], dtype=np.float64)


def _champion(
    version: ModelVersion,
    labels: Sequence[str],
    tested: Sentences,
    truth: Sequence[Sequence[str]],
    fingerprints: Any,
) -> Champion | str:
    """The champion's outcomes on the same sentences, or why it cannot be compared."""
    title = f"Champion {version.name} version {version.version} ({version.bundle_uri})"
    try:
        with bundle_folder(version) as folder:
            model = TaggerModel(folder, version.tags.get(BUNDLE_TAG))
            if set(model.info.labels) != set(labels):
                return f"{title} has other tags, so the two cannot be compared. Give the manifest a new name."
            found = _outcomes(truth, _tags(model, tested.words))
            return Champion(version.version, found, trained_on(folder, model.info, fingerprints))
    except (BundleError, UsageError) as error:
        return f"{title} cannot be read: {error}. Move the alias champion: `gauntlet rollback`."


def _document(
    settings: TokenEvaluation,
    seed: int,
    ours: Floats,
    seen: npt.NDArray[np.bool_] | str,
    champion: Champion | str | None,
    labels: Sequence[str],
) -> dict[str, Any]:
    """The content of `scores`."""
    count = len(ours)
    content: dict[str, Any] = {
        "rows": count,
        "labels": list(labels),
        "confidence": settings.confidence,
        "challenger": _scored(ours, settings, seed),
    }
    theirs = champion.trained_on if isinstance(champion, Champion) else None
    content["training_overlap"] = describe_overlap(count, seen, theirs, rows="sentences").as_json()
    if isinstance(champion, str):
        content["champion_error"] = champion
    if isinstance(champion, Champion):
        clean = clean_rows(count, seen, champion.trained_on)
        both = np.concatenate([ours[clean], champion.outcomes[clean]], axis=1)  # (N, 10)
        means = resampled_means(both, settings.bootstrap_resamples, seed)  # (R, 10)
        differences = metrics_of(means[:, :5])["entity_f1"] - metrics_of(means[:, 5:])["entity_f1"]  # (R,)
        summed = both.sum(axis=0)
        content["champion"] = {
            "version": champion.version,
            "rows": int(clean.sum()),
            **_scored(champion.outcomes[clean], settings, seed),
        }
        content["paired"] = {
            "entity_f1_difference": float(
                metrics_of(summed[:5])["entity_f1"] - metrics_of(summed[5:])["entity_f1"]
            ),
            "lower_bound": lower_bound(differences, settings.confidence),
            "upper_bound": upper_bound(differences, settings.confidence),
        }
    return content


def _scored(found: Floats, settings: TokenEvaluation, seed: int) -> Mapping[str, Any]:
    """The metrics of outcomes (N, 5), with their bootstrap intervals and one-sided lower limits."""
    resampled = metrics_of(resampled_means(found, settings.bootstrap_resamples, seed))
    confidence = settings.confidence
    return {
        **{name: float(value) for name, value in metrics_of(found.sum(axis=0)).items()},
        "intervals": {name: interval(values, confidence) for name, values in resampled.items()},
        "lower_bounds": {name: lower_bound(values, confidence) for name, values in resampled.items()},
    }
