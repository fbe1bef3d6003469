"""A student is trained after its teacher, from its layers and on its scores."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import nn
from transformers import BertModel

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.training import Resources
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.tasks.text_classification.training import TextClassification, distillation_loss, load_task
from gauntlet.tasks.texts.manifest import Student
from gauntlet.tasks.texts.training import student_weights
from gauntlet.trainer.run import TrainingRun, train
from gauntlet.trainer.saved_model import STUDENT_FOLDER, load_model, read_record
from gauntlet.trainer.tracking import StudentTracker
from tests.trainer.conftest import STEPS, STEPS_PER_EPOCH, TIMES, Run, Trainings

SECOND_LAYER = Student(layers=(1,), epochs=2, learning_rate=2e-3)


@pytest.fixture
def training_run(tiny_encoder: Path, tiny_splits: Path, tmp_path: Path) -> TrainingRun:
    section = TextTraining(
        encoder=str(tiny_encoder),
        epochs=2,
        batch_size=8,
        learning_rate=2e-3,
        precision="fp32",
        student=SECOND_LAYER,
    )
    return TrainingRun(section, "moods", "text_classification", 3, tiny_splits, tmp_path / "checkpoint")


def with_section(run: TrainingRun, **changes: object) -> TrainingRun:
    return TrainingRun(**{**vars(run), "section": run.section.model_copy(update=changes)})


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_is_the_divergence_of_softened_classes_times_the_squared_temperature(
    temperature: float,
) -> None:
    ours, theirs = np.random.default_rng(0).normal(scale=3, size=(2, 5, 4))
    expected = rel_entr(softmax(theirs / temperature, axis=1), softmax(ours / temperature, axis=1)).sum()
    found = distillation_loss(torch.from_numpy(ours), torch.from_numpy(theirs), temperature)
    assert found.item() == pytest.approx(expected * temperature**2, rel=1e-9)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_student_learns_from_labels_alone_or_from_scores_alone(
    training_run: TrainingRun, weight: float
) -> None:
    section = training_run.section
    assert isinstance(section, TextTraining)
    scores = torch.randn(72, 3)
    student = SECOND_LAYER.model_copy(update={"teacher_weight": weight})
    task = TextClassification(section, training_run.splits, student, scores)
    model = task.build_model().eval()
    ids, mask, labels, wanted = batch = task.training_batch([4, 40, 70], (0, 0))
    torch.testing.assert_close(wanted, scores[[4, 40, 70]])
    logits = model(ids, mask)
    expected = (
        distillation_loss(logits, wanted, 2.0)
        if weight
        else nn.functional.cross_entropy(logits, labels, reduction="sum")
    )
    torch.testing.assert_close(task.loss_sum(model, batch)[0], expected)


def test_a_student_begins_as_its_teacher_without_the_other_layers(training_run: TrainingRun) -> None:
    section = training_run.section
    assert isinstance(section, TextTraining)
    teacher = load_task(section, training_run.splits).build_model()
    student = TextClassification(section, training_run.splits, SECOND_LAYER, torch.zeros(72, 3)).build_model()
    student.load_state_dict(student_weights(teacher, teacher.state_dict(), SECOND_LAYER.layers))
    reference = BertModel.from_pretrained(section.encoder).eval()
    reference.encoder.layer = nn.ModuleList([reference.encoder.layer[1]])
    ids, mask = torch.tensor([[2, 5, 9, 3]]), torch.ones(1, 4, dtype=torch.int64)
    expected = reference(input_ids=ids, attention_mask=mask).last_hidden_state
    found = student.eval().encoder(input_ids=ids, attention_mask=mask)[0]
    torch.testing.assert_close(found, expected)


def test_a_student_lies_inside_its_teachers_checkpoint_and_both_in_the_history(
    training_run: TrainingRun,
) -> None:
    document = train(training_run)
    student = training_run.checkpoint / STUDENT_FOLDER
    assert load_model(training_run.checkpoint).encoder.config.num_hidden_layers == 2
    assert load_model(student).encoder.config.num_hidden_layers == 1
    assert read_record(student).epoch == document["student"]["best_epoch"]
    assert (len(document["epochs"]), len(document["student"]["epochs"])) == (2, 2)
    assert document["student"]["epochs"][-1]["validation"]["macro_f1"] > 0.9, (
        "the classes can be told apart by a word"
    )
    assert document["seconds"] == document["student"]["seconds"]
    assert document["seconds"] > sum(epoch["seconds"] for epoch in document["epochs"])


def test_a_student_changes_nothing_of_its_teacher(training_run: TrainingRun) -> None:
    train(training_run)
    with_student = (training_run.checkpoint / "model.safetensors").read_bytes()
    train(with_section(training_run, student=None))
    assert (training_run.checkpoint / "model.safetensors").read_bytes() == with_student
    assert not (training_run.checkpoint / STUDENT_FOLDER).exists()


def test_a_teacher_that_used_the_budget_leaves_no_student(training_run: TrainingRun) -> None:
    document = train(with_section(training_run, resources=Resources(max_hours=1e-9)))
    assert document["stopped"] == "max_hours reached"
    assert "student" not in document
    assert not (training_run.checkpoint / STUDENT_FOLDER).exists()


@pytest.mark.parametrize("layers", [(2,), (0, 1)])
def test_layers_that_leave_no_smaller_model_are_refused_before_training(
    training_run: TrainingRun, layers: tuple[int, ...]
) -> None:
    with pytest.raises(
        UsageError, match=r"training.student.layers: found .* expected some but not all of 0 to 1"
    ):
        train(with_section(training_run, student=Student(layers=layers)))
    assert not training_run.checkpoint.exists()


@pytest.mark.parametrize("layers", [(1, 0), (1, 1)])
def test_layers_are_named_once_each_in_their_order(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="once each, in their order"):
        Student(layers=layers)


def test_a_tracker_hears_of_a_student_under_names_of_its_own() -> None:
    heard: dict[str, float] = {}

    class Listener:
        def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
            heard.update(metrics)

    StudentTracker(Listener()).log_metrics({"validation_macro_f1": 0.5, "step/loss": 2.0}, 1)
    assert heard == {"student_validation_macro_f1": 0.5, "step/student_loss": 2.0}


def outcome(trainings: Trainings, output: str) -> tuple[object, ...]:
    """The bits of teacher and student, and their histories without what depends on the time of day."""
    weights, history = trainings.outcome(output)
    student = (trainings.folder / output / STUDENT_FOLDER / "model.safetensors").read_bytes()
    for record in (history["student"], *history["student"]["epochs"]):
        for key in TIMES:
            record.pop(key, None)
    return weights, hashlib.sha256(student).hexdigest(), history


def test_killed_while_the_student_learns_both_end_in_the_same_bits(trainings: Trainings, run: Run) -> None:
    asked = f"training.student={json.dumps({'layers': [0], 'epochs': 2, 'learning_rate': 2e-3})}"
    in_its_first_epoch, before_its_second_ends = STEPS + 3, STEPS_PER_EPOCH + 2
    killed = run(
        [
            trainings.attempt("resumed", "kill", in_its_first_epoch, asked),
            trainings.attempt("resumed", "kill", before_its_second_ends, asked),
            trainings.attempt("resumed", "terminate", 2, asked),
        ]
    )
    assert [end["code"] for end in killed] == [-signal.SIGKILL, -signal.SIGKILL, 143]
    finished, undisturbed = run([trainings.attempt("resumed", "", 0, asked), trainings.undisturbed(asked)])
    assert (finished["code"], undisturbed["code"]) == (0, 0), finished["errors"] + undisturbed["errors"]
    assert outcome(trainings, "resumed") == outcome(trainings, "undisturbed")


def test_two_ranks_train_a_student_that_learns(trainings: Trainings, run: Run) -> None:
    asked = f"training.student={json.dumps({'layers': [1], 'epochs': 2, 'learning_rate': 2e-3})}"
    (finished,) = run([trainings.attempt("two", "", 0, asked, ranks=2)])
    assert finished["codes"] == [0, 0], finished["errors"]
    _, _, history = outcome(trainings, "two")
    assert history["student"]["epochs"][-1]["validation"]["macro_f1"] > 0.9
