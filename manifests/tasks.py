"""The task kinds, and the parts of a manifest that are a task's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from manifests.dataset import Dataset
from manifests.image_classification import ImageDataset, ImageSearch, ImageTraining
from manifests.ordinal_grading import CardDataset, GradingSearch, GradingTraining
from manifests.search import Search
from manifests.section import Section
from manifests.text_classification import TextDataset, TextSearch, TextTraining
from manifests.training import Training

TaskName = Literal["text_classification", "image_classification", "ordinal_grading"]


@dataclass(frozen=True)
class TaskSections:
    """What a manifest's `dataset`, `training` and `training.search` are for a task."""

    dataset: type[Dataset]
    training: type[Training]
    search: type[Search]


TASKS: Mapping[str, TaskSections] = {
    "text_classification": TaskSections(TextDataset, TextTraining, TextSearch),
    "image_classification": TaskSections(ImageDataset, ImageTraining, ImageSearch),
    "ordinal_grading": TaskSections(CardDataset, GradingTraining, GradingSearch),
}


def of_task(task: str | None, section: str, content: Any) -> Any:
    """The section as its task has it; the content itself without a task, which is a fault of its own.

    Raises:
        ValidationError: The content is not a section of the task.
    """
    if task is None:
        return content
    kind: type[Section] = getattr(TASKS[task], section)
    return kind.model_validate(content)


def dataset_of(task: str, content: Mapping[str, Any]) -> Dataset:
    """The section `dataset` as a step of the pipeline is given it."""
    return TASKS[task].dataset.model_validate(content)


def training_of(task: str, content: Mapping[str, Any]) -> Training:
    """The section `training`, likewise."""
    return TASKS[task].training.model_validate(content)


def searchable_keys() -> tuple[str, ...]:
    """The keys of `training.search` of all tasks together."""
    return tuple(dict.fromkeys(key for task in TASKS.values() for key in task.search.model_fields))
