"""Studies of a tiny encoder. Their splits have no test split: a trial that read it would fail."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gauntlet.manifests.training import EarlyStopping, Training
from gauntlet.tasks.image_classification.manifest import ImageSearch, ImageTraining
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.tasks.texts.manifest import TextSearch
from gauntlet.trainer.run import TrainingRun, train
from gauntlet.trainer.tuning.study import (
    FIRST_EPOCH_TO_PRUNE_AFTER,
    TRIALS_BEFORE_PRUNING,
    Trial,
    TuningJob,
    best_trial,
    distributions,
    finished_trials,
    next_trial,
    open_study,
    prepare,
    study_name,
    values_of,
)
from gauntlet.trainer.tuning.trial import TrialTracker, run_trial

EPOCHS = 3
STEPS_PER_TRIAL = EPOCHS * 9  # 72 rows, batches of 8
SEED = 5

# Sends SIGKILL to itself right after so many optimizer steps of all its trials together.
KILLED_AT_STEP = """
import os, signal, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
from gauntlet.trainer.tuning.__main__ import main

taken = 0
def step(*_):
    global taken
    taken += 1
    if taken == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

register_optimizer_step_post_hook(step)
main()
"""


@pytest.fixture
def splits(tiny_splits: Path) -> Path:
    (tiny_splits / "test.parquet").unlink()
    return tiny_splits


@pytest.fixture
def training(tiny_encoder: Path) -> Training:
    search = {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
        "dropout": {"low": 0.0, "high": 0.3, "step": 0.1},
        "schedule": {"choices": ["linear", "cosine"]},
    }
    return TextTraining(
        encoder=str(tiny_encoder),
        epochs=EPOCHS,
        batch_size=8,
        max_length=16,
        learning_rate=3e-3,
        search=TextSearch.model_validate(search),
    )


def job(training: Training, splits: Path, database: Path, trials: int, **changes: Any) -> TuningJob:
    assert training.search is not None
    settings = {"task": "text_classification", "seed": SEED, "threads": 1} | changes
    return TuningJob(
        study="tiny",
        database=database,
        training=training,
        search=training.search,
        splits=splits,
        trials=trials,
        **settings,
    )


def tune(job: TuningJob, *values: dict[str, Any]) -> list[Trial]:
    """Run the study to its end, with trials of these values first."""
    study = open_study(job.database, job.study)
    for chosen in values:
        study.enqueue_trial(chosen)
    prepare(study, job.training, job.search)
    while (trial := next_trial(study, job)) is not None:
        run_trial(study, trial, job)
    return finished_trials(study)


def without_times(trials: list[Trial]) -> list[tuple[Any, ...]]:
    return [(trial.state, trial.values, trial.score, trial.scores) for trial in trials]


def test_the_seed_alone_decides_which_trials_there_are(
    training: Training, splits: Path, tmp_path: Path
) -> None:
    first, second, other = (
        tune(job(training, splits, tmp_path / f"{name}.db", 3, seed=seed))
        for name, seed in (("first", SEED), ("second", SEED), ("other", SEED + 1))
    )
    assert without_times(first) == without_times(second)
    assert [trial.values for trial in first[1:]] != [trial.values for trial in other[1:]]
    assert len({trial.values["learning_rate"] for trial in first}) == 3


def test_the_first_trial_is_the_manifest_itself_if_the_space_holds_it(
    training: Training, splits: Path, tmp_path: Path
) -> None:
    [trial] = tune(job(training, splits, tmp_path / "study.db", 1))
    assert trial.values == {"learning_rate": 3e-3, "dropout": 0.1, "schedule": "linear"}
    outside = training.model_copy(update={"learning_rate": 0.5})
    [trial] = tune(job(outside, splits, tmp_path / "outside.db", 1))
    assert trial.values["learning_rate"] < 0.5


def test_values_of_a_range_with_a_step_are_those_that_the_manifest_would_write(
    training: Training, tmp_path: Path
) -> None:
    search = TextSearch.model_validate({"dropout": {"low": 0.0, "high": 0.5, "step": 0.1}})
    own = training.model_copy(update={"dropout": 0.3})
    study = open_study(tmp_path / "study.db", "grid")
    prepare(study, own, search)
    found = []
    for _ in range(8):
        trial = study.ask(fixed_distributions=distributions(search, own))
        found.append(values_of(trial)["dropout"])
        study.tell(trial, 1.0)
    assert found[0] == 0.3
    assert set(found) <= {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}
    assert [trial.values["dropout"] for trial in finished_trials(study)] == found


def test_a_trial_scores_what_a_training_with_its_values_scores_to_the_bit(
    training: Training, splits: Path, tmp_path: Path
) -> None:
    from gauntlet.serving.cpu import usable_cpus

    trials = tune(job(training, splits, tmp_path / "study.db", 2, threads=usable_cpus()))
    section = TextTraining.model_validate(training.model_dump() | trials[1].values)
    history = train(
        TrainingRun(
            section=section,
            name="tiny",
            task="text_classification",
            seed=SEED,
            splits=splits,
            checkpoint=tmp_path / "checkpoint",
        )
    )
    assert trials[1].scores == tuple(epoch["validation"]["macro_f1"] for epoch in history["epochs"])
    assert trials[1].score == max(trials[1].scores)


def test_a_study_killed_within_a_trial_goes_on_to_the_same_trials(
    training: Training, splits: Path, tmp_path: Path
) -> None:
    undisturbed = tune(job(training, splits, tmp_path / "undisturbed.db", 4))
    killed = job(training, splits, tmp_path / "killed.db", 4)
    prepare(open_study(killed.database, killed.study), training, killed.search)
    command = [sys.executable, "-c", KILLED_AT_STEP, str(STEPS_PER_TRIAL + 10)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stdin is not None
        print(killed.model_dump_json(exclude_none=True), file=process.stdin, flush=True)
        assert process.wait() == -signal.SIGKILL
    states = [trial.state.name for trial in open_study(killed.database, killed.study).get_trials()]
    assert states == ["COMPLETE", "RUNNING"]
    assert without_times(tune(killed)) == without_times(undisturbed)


def test_a_trial_worse_than_the_median_is_ended_early(
    training: Training, splits: Path, tmp_path: Path
) -> None:
    good = {"learning_rate": 3e-3, "dropout": 0.0, "schedule": "linear"}
    hopeless = {"learning_rate": 1e-5, "dropout": 0.0, "schedule": "linear"}
    chosen = [good] * TRIALS_BEFORE_PRUNING + [hopeless]
    *complete, last = tune(job(training, splits, tmp_path / "study.db", len(chosen)), *chosen)
    assert {trial.state for trial in complete} == {"complete"}
    assert last.state == "pruned"
    assert len(last.scores) == FIRST_EPOCH_TO_PRUNE_AFTER < EPOCHS
    assert best_trial([*complete, last]) == complete[0]


def test_a_trial_without_a_finite_score_is_pruned_and_never_the_best(
    training: Training, splits: Path, tmp_path: Path
) -> None:
    by_loss = training.model_copy(
        update={
            "early_stopping": EarlyStopping(metric="loss"),
            "search": TextSearch.model_validate({"weight_decay": {"choices": [0.0, 1e30]}}),
        }
    )
    sane, mad = tune(
        job(by_loss, splits, tmp_path / "study.db", 2), {"weight_decay": 0.0}, {"weight_decay": 1e30}
    )
    assert mad.state == "pruned"
    assert math.isnan(mad.score)
    assert best_trial([mad, sane]) == sane
    assert sane.score == max(sane.scores) < 0 < sane.shown_score("loss")  # the loss is negated to be compared
    assert best_trial([mad]) is None


def test_only_epochs_are_reported_to_a_study(tmp_path: Path) -> None:
    folder = tmp_path / "{in braces}"
    folder.mkdir()
    study = open_study(folder / "study.db", "tiny")
    assert (folder / "study.db").is_file()
    tracker = TrialTracker(study.ask(), "loss", epochs=3)
    tracker.log_metrics({"step/loss": 0.7}, 17)
    tracker.log_metrics({"validation_loss": 0.5, "validation_macro_f1": 0.8}, 1)
    [trial] = study.get_trials()
    assert trial.intermediate_values == {1: -0.5}


def test_no_trial_begins_after_the_deadline(training: Training, splits: Path, tmp_path: Path) -> None:
    assert tune(job(training, splits, tmp_path / "study.db", 3, deadline=0.0)) == []


def test_a_study_goes_on_only_with_what_its_scores_can_be_compared_with(training: Training) -> None:
    def name(section: Training = training, seed: int = 1, data: str = "0" * 64) -> str:
        return study_name("tiny", "text_classification", seed, section, data)

    other_space = TextSearch.model_validate({"epochs": {"low": 1, "high": 2}})
    cheaper = training.resources.model_copy(update={"max_hours": 1.0})
    assert name() == name(training.model_copy(update={"resources": cheaper}))
    others = [
        name(training.model_copy(update={"epochs": 9})),
        name(training.model_copy(update={"search": other_space})),
        name(seed=2),
        name(data="1" * 64),
    ]
    assert len({name(), *others}) == 1 + len(others)


def test_a_job_of_any_task_reaches_its_process_as_it_was(training: Training, tmp_path: Path) -> None:
    images = ImageTraining(filters=(8,), search=ImageSearch.model_validate({"depth": {"low": 1, "high": 3}}))
    for section, task in ((training, "text_classification"), (images, "image_classification")):
        told = job(section, tmp_path, tmp_path / "study.db", 3, task=task)
        read = TuningJob.model_validate_json(told.model_dump_json(exclude_none=True))
        assert (read.training, read.search) == (section.model_copy(update={"search": None}), section.search)
        assert type(read.training) is type(section)
