"""The task kinds, and the parts of a manifest that are a task's own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from gauntlet.manifests.conversion import DECODER_CANDIDATES, Conversion
from gauntlet.manifests.dataset import Dataset, LabelledDataset
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.evaluation import CommonEvaluation, Evaluation
from gauntlet.manifests.gates import CommonGates, Gates, GradingGates
from gauntlet.manifests.search import Search
from gauntlet.manifests.section import Section
from gauntlet.manifests.training import ClassTraining, CommonTraining, Training
from gauntlet.tasks.image_classification.manifest import ImageDataset, ImageSearch, ImageTraining
from gauntlet.tasks.language.manifest import (
    ConversationDataset,
    LanguageEvaluation,
    LanguageGates,
    LanguageSearch,
    LanguageTraining,
)
from gauntlet.tasks.managed_causal_lm.manifest import ManagedTraining, is_managed
from gauntlet.tasks.ordinal_grading.manifest import CardDataset, GradingSearch, GradingTraining
from gauntlet.tasks.text_classification.manifest import TextDataset, TextSearch, TextTraining

TaskName = Literal["text_classification", "image_classification", "ordinal_grading", "causal_lm"]


@dataclass(frozen=True)
class TaskSections:
    """What a manifest's sections, and its `training.search`, are for a task."""

    dataset: type[Dataset]
    training: type[Training]
    search: type[Search]
    evaluation: type[CommonEvaluation]
    gates: type[CommonGates]


TASKS: Mapping[str, TaskSections] = {
    "text_classification": TaskSections(TextDataset, TextTraining, TextSearch, Evaluation, Gates),
    "image_classification": TaskSections(ImageDataset, ImageTraining, ImageSearch, Evaluation, Gates),
    "ordinal_grading": TaskSections(CardDataset, GradingTraining, GradingSearch, Evaluation, GradingGates),
    "causal_lm": TaskSections(
        ConversationDataset, LanguageTraining, LanguageSearch, LanguageEvaluation, LanguageGates
    ),
}


SHARED_KEYS: Mapping[str, Mapping[str, str]] = {
    "causal_lm": {"tokenizer": "model"},
    "text_classification": {"tokenizer": "encoder", "max_tokens": "max_length"},
}
"""By task: keys of `dataset` with the same value as a key of `training`.

A step gets only its own section, and validate-data counts the tokens that train-model will see.
"""


def with_shared_keys(manifest: Any) -> Any:
    """A manifest's content, with the `SHARED_KEYS` of its dataset where they are not given.

    A value of the wrong type is left out here; it is refused later, under the key that it was set for.
    """
    if not isinstance(manifest, Mapping):
        return manifest
    dataset, training = manifest.get("dataset"), manifest.get("training", {})
    if not isinstance(dataset, Mapping) or not isinstance(training, Mapping):
        return manifest
    task = manifest.get("task")
    shared = {}
    for key, source in SHARED_KEYS.get(task if isinstance(task, str) else "", {}).items():
        field = TASKS[str(task)].training.model_fields[source]
        with suppress(ValidationError):
            shared[key] = _value(field.annotation, training.get(source, field.default))
    return {**manifest, "dataset": {**shared, **dataset}}


def _value(kind: Any, value: Any) -> Any:
    return TypeAdapter(kind).validate_python(value)


def require_shared_keys(task: str, dataset: Dataset, training: CommonTraining) -> None:
    """Refuse a dataset whose tokens are counted by another model than the one that is trained.

    Raises:
        ValueError: It is.
    """
    for key, source in SHARED_KEYS.get(task, {}).items():
        counted, trained = getattr(dataset, key), getattr(training, source)
        if counted != trained:
            raise ValueError(
                f"dataset.{key} {counted} and training.{source} {trained}: remove the first, or set both"
            )


def require_known_classes(dataset: Dataset, training: CommonTraining) -> None:
    """Refuse class weights of labels that the dataset does not have.

    Raises:
        ValueError: There are some.
    """
    if not isinstance(training, ClassTraining) or not isinstance(dataset, LabelledDataset):
        return
    weights = training.class_weights if isinstance(training.class_weights, dict) else {}
    unknown = [label for label in weights if label not in dataset.labels]
    if unknown:
        raise ValueError(
            f"training.class_weights: found {', '.join(unknown)}, expected some of dataset.labels: "
            f"{', '.join(dataset.labels)}"
        )


def require_judged_stages(evaluation: CommonEvaluation, gates: CommonGates) -> None:
    """Refuse promotion stages without the evaluation that they are judged by.

    Raises:
        ValueError: There is none.
    """
    if isinstance(gates, LanguageGates) and isinstance(evaluation, LanguageEvaluation):  # noqa: SIM102
        if gates.stages is not None and evaluation.therapy is None:
            raise ValueError("gates.stages without evaluation.therapy: nothing would judge them")


def require_measurable(training: CommonTraining, conversion: Conversion, gates: CommonGates) -> None:
    """Refuse bounds that nothing could be held to, and a language model without one on its perplexity.

    Raises:
        ValueError: There are some.
    """
    if not isinstance(gates, LanguageGates):
        if conversion.repetition_penalty != 1:
            raise ValueError("conversion.repetition_penalty is for language models: leave it out")
        return
    if not isinstance(training, ManagedTraining):
        if gates.max_perplexity is None:
            raise ValueError("gates.max_perplexity: found nothing, expected a number over 1")
        if not set(conversion.candidates) & set(DECODER_CANDIDATES):
            raise ValueError(
                f"conversion.candidates: found {', '.join(conversion.candidates)}, expected for a language "
                f"model some of {', '.join(DECODER_CANDIDATES)}"
            )
        if conversion.device == "gpu":
            raise ValueError(
                "conversion.target: found gpu, but a language model's bundle runs on CPUs alone: leave it out"
            )
        return
    why = f"{training.model} is tuned and served by Vertex AI"
    if gates.max_perplexity is not None:
        raise ValueError(f"gates.max_perplexity: {why}, which gives no probabilities of an answer: remove it")
    if conversion != Conversion():
        raise ValueError(f"conversion: {why}, and nothing is converted: remove the section")
    unread = ("min_speedup", "max_model_mb")
    for key in unread:
        if getattr(gates, key) != LanguageGates.model_fields[key].default:
            raise ValueError(f"gates.{key}: {why}, and nothing is converted: remove it")


def of_task(task: str | None, section: str, content: Any) -> Any:
    """The section as its task has it; the content itself without a task, which is a fault of its own.

    Raises:
        ValidationError: The content is not a section of the task.
    """
    if task is None:
        return content
    kind: type[Section] = getattr(TASKS[task], section)
    if task == "causal_lm" and section == "training" and is_managed(content):
        kind = ManagedTraining
    return kind.model_validate(content)


def dataset_of(task: str, content: Mapping[str, Any]) -> Dataset:
    """The section `dataset` as a step of the pipeline is given it."""
    return TASKS[task].dataset.model_validate(content)


def training_of(task: str, content: Mapping[str, Any]) -> Training:
    """The section `training`, likewise, of a model that is trained here."""
    return TASKS[task].training.model_validate(content)


def trained_here(training: CommonTraining) -> Training:
    """The section of a model that this project trains.

    Raises:
        UsageError: A vendor does.
    """
    if isinstance(training, Training):
        return training
    assert isinstance(training, ManagedTraining)
    raise UsageError(
        f"training.model: found {training.model}, which Vertex AI tunes; this needs a model that is trained "
        "by this project. Use `gauntlet run` or `gauntlet submit`."
    )


def evaluation_of(task: str, content: Mapping[str, Any]) -> CommonEvaluation:
    """The section `evaluation`, likewise."""
    return TASKS[task].evaluation.model_validate(content)


def gates_of(task: str, content: Mapping[str, Any]) -> CommonGates:
    """The section `gates`, likewise."""
    return TASKS[task].gates.model_validate(content)


def searchable_keys() -> tuple[str, ...]:
    """The keys of `training.search` of all tasks together."""
    return tuple(dict.fromkeys(key for task in TASKS.values() for key in task.search.model_fields))
