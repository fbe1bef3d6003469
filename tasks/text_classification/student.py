"""A student: a smaller model that is trained after the model itself, its teacher, to score as that does.

It is trained by the same loop, so budget, states and their exact resumption are the same; see
`trainer/tasks/distillation.py` for what it learns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from gauntlet.manifests.training import Training
from gauntlet.tasks.text_classification.manifest import Student, TextTraining
from gauntlet.trainer.history import History
from gauntlet.trainer.loop import Keep, fit
from gauntlet.trainer.ranks import World
from gauntlet.trainer.replica import Replica, Tensors
from gauntlet.trainer.state_store import StateStore
from gauntlet.trainer.watch import Tracker


@dataclass(frozen=True)
class Lesson:
    """What a student begins with and learns from.

    Attributes:
        weights: Those that it begins with, on the first rank.
        scores: The teacher's logits of the training rows.
        seconds: What the run has taken so far.
    """

    student: Student
    weights: Tensors
    scores: torch.Tensor
    seconds: float


def wanted_student(section: Training, model: nn.Module) -> Student | None:
    """The student that a section asks for of a model.

    Raises:
        UsageError: The model does not have its layers.
    """
    student = section.student if isinstance(section, TextTraining) else None
    if student:
        from gauntlet.tasks.text_classification.distillation import require_layers

        require_layers(student, model)
    return student


def take_lesson(
    teacher: Replica, model: nn.Module, best: Tensors, student: Student, seed: int, seconds: float
) -> Lesson:
    """Score the training rows with the best weights of the teacher's model; called on all ranks."""
    from gauntlet.tasks.text_classification.distillation import student_weights

    began = time.monotonic()
    task = teacher.task
    teacher.set_weights(best)
    scores = teacher.outputs(task.train_lengths, lambda rows: task.training_batch(rows, (seed, 0)))
    weights = student_weights(model, best, student.layers)
    return Lesson(student, weights, scores, seconds + time.monotonic() - began)


class Learner:
    """A student's task and model."""

    def __init__(
        self, section: Training, lesson: Lesson, splits: Path, device: torch.device, world: World
    ) -> None:
        from gauntlet.tasks.text_classification.distillation import Distillation

        assert isinstance(section, TextTraining)
        student = lesson.student
        self._section = section.model_copy(update=student.model_dump(include={"epochs", "learning_rate"}))
        self._seconds, self._device, self._world = lesson.seconds, device, world
        self.task = Distillation(section, splits, student, lesson.scores)
        self.model = self.task.build_model()
        self.model.load_state_dict(world.from_first(lesson.weights))

    def fit(
        self,
        seed: int,
        keep: Keep,
        tracker: Tracker,
        states: StateStore | None,
        preempted: Callable[[], bool],
        halvings: int,
    ) -> History:
        """Train it, as `gauntlet.trainer.loop.fit` does; its metrics have their own names in the tracker."""
        from gauntlet.tasks.text_classification.distillation import StudentTracker

        if self._world.is_first:
            parameters = sum(parameter.numel() for parameter in self.model.parameters())
            print(f"a student of {parameters / 1e6:.1f} M trained parameters", flush=True)
        replica = Replica(self.task, self.model, self._section, self._device, self._world)
        tracker = StudentTracker(tracker)
        return fit(replica, self._section, seed, keep, tracker, states, preempted, halvings, self._seconds)
