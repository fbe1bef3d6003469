"""A model's scores as Vertex AI shows them with a version: a model evaluation."""

from __future__ import annotations

from typing import Any

from gauntlet.backends.google.calls import ask, ask_once, find_or_make
from gauntlet.backends.registry import AnswerScores, Scores

SCHEMAS = "gs://google-cloud-aiplatform/schema/modelevaluation/"
CLASSIFICATION = f"{SCHEMAS}classification_metrics_1.0.0.yaml"
TEXT_GENERATION = f"{SCHEMAS}general_text_generation_metrics_1.0.0.yaml"
DISPLAY_NAME = "test split"


def import_evaluation(service: Any, version: str, scores: Scores | AnswerScores) -> None:
    """Give a version of a model its evaluation, unless it has one.

    Args:
        service: Google's client of the model service.
        version: The version's resource name.
        scores: What it scored.
    """
    if isinstance(scores, AnswerScores):
        # Of 0 to 100, as sacrebleu has it. The schema's rougeLSum is another figure than our ROUGE-L.
        schema, metrics = TEXT_GENERATION, {"bleu": 100 * scores.bleu}
    else:
        schema, metrics = CLASSIFICATION, classification_metrics(scores)
    evaluation = {"display_name": DISPLAY_NAME, "metrics_schema_uri": schema, "metrics": metrics}

    def find() -> Any:
        found = ask(service.list_model_evaluations, parent=version)
        return next((one for one in found if one.display_name == DISPLAY_NAME), None)

    find_or_make(
        find,
        lambda: ask_once(service.import_model_evaluation, parent=version, model_evaluation=evaluation),
    )


def classification_metrics(scores: Scores) -> dict[str, Any]:
    """The scores in the schema's words.

    With one label a row and the likeliest class as the answer, micro-averaged precision, recall and F1 are
    all the accuracy.
    """
    names = [{"id": str(place), "displayName": label} for place, label in enumerate(scores.labels)]
    at_all_thresholds = {
        "confidenceThreshold": 0.0,
        "maxPredictions": 1,
        "recall": scores.accuracy,
        "precision": scores.accuracy,
        "f1Score": scores.accuracy,
        "f1ScoreMicro": scores.accuracy,
        "f1ScoreMacro": scores.macro_f1,
    }
    return {
        "confidenceMetrics": [at_all_thresholds],
        "confusionMatrix": {"annotationSpecs": names, "rows": [list(row) for row in scores.confusion]},
    }
