"""One training run: from validated splits to a checkpoint and its history."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gauntlet.backends.factory import open_tracking
from gauntlet.backends.storage import join, replace_folder
from gauntlet.backends.tracking import TrackedRun
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.metrics import as_json
from gauntlet.manifests.schema import canonical_json
from gauntlet.manifests.section import Section, flatten
from gauntlet.manifests.training import Training
from gauntlet.tasks.text_classification.manifest import Student
from gauntlet.tasks.text_classification.student import Learner, Lesson, take_lesson, wanted_student
from gauntlet.trainer.budget import Budget
from gauntlet.trainer.checkpoint import STUDENT_FOLDER, TRAINING_FILE, TrainingRecord, write_checkpoint
from gauntlet.trainer.class_report import class_report, tracked_class_metrics
from gauntlet.trainer.device import choose_device, describe, make_deterministic
from gauntlet.trainer.embedding import with_whole_tables
from gauntlet.trainer.history import BUDGET_REASONS, Epoch, History
from gauntlet.trainer.loop import Keep, fit
from gauntlet.trainer.parameters import aliases, count
from gauntlet.trainer.precision import choose_format, require_compiler
from gauntlet.trainer.preemption import noticing_sigterm
from gauntlet.trainer.ranks import World, process_group
from gauntlet.trainer.replica import Replica, Tensors
from gauntlet.trainer.splits import read_labels, read_statistics
from gauntlet.trainer.state_store import StateStore
from gauntlet.trainer.task import WEIGHTS_FILE, Task, load_task
from gauntlet.trainer.vertex_trial import vertex_trial

ALONE = World()
PHASE_FILE = "phase{phase}_best.safetensors"


@dataclass(frozen=True)
class TrainingRun:
    """What to train and where its outputs go.

    Attributes:
        tracking_uri: Where metrics go; empty: nowhere.
        checkpoint_uri: Where training states go, a path or any URI that fsspec opens, and from where training
            goes on when it was interrupted; empty: nowhere, and an interrupted training starts anew.
        tensorboard_dir: Where scalars go, a path or `gs://`; empty: nowhere.
        pipeline_run: What the pipeline's run is called that this is a part of; empty: of none.
        halvings: How often this training ran out of memory on several ranks; see `gauntlet.trainer.launch`.
    """

    section: Training
    name: str
    task: str
    seed: int
    splits: Path
    checkpoint: Path
    tracking_uri: str = ""
    checkpoint_uri: str = field(default_factory=lambda: os.environ.get("AIP_CHECKPOINT_DIR", ""))
    tensorboard_dir: str = field(default_factory=lambda: os.environ.get("AIP_TENSORBOARD_LOG_DIR", ""))
    halvings: int = 0
    pipeline_run: str = ""


def train(run: TrainingRun, world: World = ALONE) -> dict[str, Any]:
    """Train, write the best epoch's checkpoint to `run.checkpoint`, and return the history as JSON.

    The checkpoint is kept in a scratch folder and written to `run.checkpoint` once, when training is done: a
    versioned bucket would keep the weights of every epoch that was the best for a while.
    To be called in the main thread, since SIGTERM is noticed there, and on every rank; the first one writes.

    Raises:
        Preempted: SIGTERM came; the step under way was finished and the state written down.
        UsageError: The encoder, the device or the splits are not to be had, or the machine has no price.
        GauntletError: No epoch gave a finite validation metric, or training took more memory than it may.
    """
    with tempfile.TemporaryDirectory(prefix="gauntlet-training-") as scratch:
        return _train(run, replace(run, checkpoint=Path(scratch) / "checkpoint"), world)


def _train(given: TrainingRun, run: TrainingRun, world: World) -> dict[str, Any]:
    """`train`, where the checkpoint of `run` is the scratch one, and that of `given` the one to write."""
    section, budget = run.section, Budget.of(run.section.resources)
    device = choose_device(section.compute_target, world)
    require_compiler(section)
    make_deterministic(run.seed, world.local_size)
    task = load_task(section, run.splits)
    if world.size > len(task.train_lengths):
        raise UsageError(
            f"training: {world.size} ranks for {len(task.train_lengths)} rows. Use fewer devices."
        )
    model = task.build_model()
    trained, parameters = count(model), size_of(model)
    where = describe(device, section, world)
    if world.is_first:
        share = f"{trained / 1e6:.3g} M of them ({trained / parameters:.2%}) trained"
        size = f"{parameters / 1e6:.1f} M parameters, {share}"
        print("\n".join((f"{len(task.train_lengths)} rows, {size}, {where}", *task.remarks)), flush=True)
    student = None if vertex_trial(section.early_stopping.metric) else wanted_student(section, model)
    best: Tensors = {}  # what a student learns from; on the first rank
    write = checkpoint_writer(run, task, model, run.checkpoint)

    def keep(weights: Tensors, epoch: Epoch) -> None:
        write(weights, epoch)
        if student:
            best.update({name: tensor.clone() for name, tensor in weights.items()})

    with process_group(world, device), _tracking(run, world) as tracker:
        tracker.log_params(flatten(section.model_dump(mode="json")) | {"seed": str(run.seed)})
        with noticing_sigterm() as preempted:
            replica = Replica(task, model, section, device, world)
            states = state_store(run, device, world)
            torch.manual_seed(run.seed + world.rank)  # the same weights, but dropout of its own, on each rank
            history = fit(replica, section, run.seed, keep, tracker, states, preempted, run.halvings)
            require_finite(history, section)
            lesson = None
            if student and history.stopped not in BUDGET_REASONS:
                lesson = take_lesson(replica, model, best, student, run.seed, history.seconds)
            del replica
            learned = lesson and train_student(run, lesson, device, world, tracker, preempted)
            if world.is_first:
                replace_folder(run.checkpoint, str(given.checkpoint), last=TRAINING_FILE)
        facts = {
            "device": where,
            "parameters": parameters,
            "trained_parameters": trained,
            "host": platform.node(),
        }
        document = history.to_json() | facts | bill(section, budget, (learned or history).seconds)
        if learned:
            document["student"] = learned.to_json()
        track_classes(history, read_labels(run.splits), tracker)
        track_files(document, tracker)
    if run.tensorboard_dir and world.is_first:
        write_tensorboard(history, run.tensorboard_dir)
    return document


def keep_phases(section: Training, epoch: int, folder: Path, before: Path) -> None:
    """Beside the weights of a new checkpoint, each phase's best as `phase1_best.safetensors` and so on.

    Those of the phases before lie in the checkpoint `before`. A training of one phase has no such files.
    """
    if len(section.phases) == 1:
        return
    own = PHASE_FILE.format(phase=section.phase_of(epoch).number)
    for file in before.glob(PHASE_FILE.format(phase="*")):
        shutil.copyfile(file, folder / file.name)
    shutil.copyfile(folder / WEIGHTS_FILE, folder / own)


def size_of(model: nn.Module) -> int:
    """Numbers in all tensors of the model, as the pretrained architecture has them."""
    left_out = aliases(model)
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}
    return sum(tensor.numel() for tensor in with_whole_tables(model, state).values())


def train_student(
    run: TrainingRun,
    lesson: Lesson,
    device: torch.device,
    world: World,
    tracker: TrackedRun,
    preempted: Callable[[], bool],
) -> History:
    """Train the student that the section asks for; its checkpoint and its states lie inside its teacher's."""
    learner = Learner(run.section, lesson, run.splits, device, world)
    write = checkpoint_writer(run, learner.task, learner.model, run.checkpoint / STUDENT_FOLDER)
    states = state_store(run, device, world, lesson.student)
    torch.manual_seed(run.seed + world.rank)
    return learner.fit(run.seed, write, tracker, states, preempted, run.halvings)


def checkpoint_writer(run: TrainingRun, task: Task, model: nn.Module, folder: Path) -> Keep:
    """Writes an epoch's weights of a task's model as the checkpoint at `folder`."""

    def write(weights: Tensors, epoch: Epoch) -> None:
        record = TrainingRecord(
            task=run.task,
            labels=read_labels(run.splits),
            seed=run.seed,
            epoch=epoch.epoch,
            data_sha256=read_statistics(run.splits)["sha256"],
            training_sha256=section_sha256(run.section),
            **task.of_record,
        )

        def save(target: Path) -> None:
            task.save(model, weights, target)
            keep_phases(run.section, epoch.epoch, target, folder)

        write_checkpoint(folder, record, save)

    return write


def state_store(
    run: TrainingRun, device: torch.device, world: World, student: Student | None = None
) -> StateStore | None:
    """Where the states of the training, or of its student's, go, if anywhere."""
    if not run.checkpoint_uri:
        return None
    uri, settings = run.checkpoint_uri, fingerprint(run, device, world)
    if student:
        uri = join(uri, STUDENT_FOLDER)
        settings |= flatten({"training.student": student.model_dump(mode="json")})
    return StateStore(uri, settings, run.section.checkpoints)


def _tracking(run: TrainingRun, world: World) -> TrackedRun:
    if not world.is_first:
        return TrackedRun()
    section = run.section
    return vertex_trial(section.early_stopping.metric) or open_tracking(
        run.tracking_uri,
        run.name,
        run_name(run),
        {"task": run.task},
        section.tracking.wandb,
        run.pipeline_run,
        run.checkpoint_uri,
    )


def require_finite(history: History, section: Training) -> None:
    """Refuse a training that has no best epoch.

    Raises:
        GauntletError: No epoch gave a finite validation metric.
    """
    begun = section.phase_of(len(history.epochs))
    if history.best_epoch <= begun.before:
        raise GauntletError(
            f"training: no epoch gave a finite {section.early_stopping.metric}; the last training loss "
            f"was {history.epochs[-1].training['loss']}. "
            f"Lower the learning rate, which is {begun.learning_rate:g}."
        )


def track_classes(history: History, labels: Sequence[str], tracker: TrackedRun) -> None:
    """Hand how the kept epoch does on each class to a tracker, where rows have one."""
    if history.confusion:
        tracker.log_metrics(tracked_class_metrics(history.confusion, labels), history.best_epoch)
        tracker.log_text("classes.txt", class_report(history.confusion, labels))


def track_files(document: dict[str, Any], tracker: TrackedRun) -> None:
    """Hand the history and its curves to a tracker, if there is one."""
    if tracker.has_trackers:
        from gauntlet.trainer.curves import curves_svg

        tracker.log_text("history.json", json.dumps(as_json(document), indent=2))
        tracker.log_text("curves.svg", curves_svg(document))


def bill(section: Training, budget: Budget, seconds: float) -> dict[str, Any]:
    """What a training took and cost, as the machine that its manifest buys, and what it might have cost."""
    return {
        "seconds": seconds,
        "machine": machine_name(section),
        "usd_per_hour": budget.usd_per_hour,
        "cost_usd": budget.cost_usd(seconds),
        "max_hours": budget.max_hours,
        "max_cost_usd": budget.max_cost_usd,
    }


def fingerprint(run: TrainingRun, device: torch.device, world: World) -> dict[str, str]:
    """All that an optimizer step depends on beside the state: what must not change when training goes on.

    Time and money, how often a state is written and what is tracked may change.
    """
    free = {"resources", "checkpoints", "compute_target", "prefetch_batches", "precision", "tracking"}
    free.add("student")  # trained afterwards
    settings = run.section.model_dump(mode="json", exclude=free)
    return flatten({"training": settings}) | {
        "task": run.task,
        "seed": str(run.seed),
        "the data's sha256": read_statistics(run.splits)["sha256"],
        "the device": device.type,
        "the number format": choose_format(run.section, device),
        "the number of ranks": str(world.size),
    }


def section_sha256(section: Section) -> str:
    """Hash of a section's content, defaults included."""
    return hashlib.sha256(canonical_json(section).encode()).hexdigest()


def machine_name(section: Training) -> str:
    """The machine that the manifest buys, which is what the cost is reckoned with on any machine."""
    resources = section.resources
    machine = resources.machine_type
    if resources.accelerator_type is not None:
        machine += f" + {resources.accelerator_count} × {resources.accelerator_type}"
    return machine if resources.replica_count == 1 else f"{resources.replica_count} × ({machine})"


def run_name(run: TrainingRun) -> str:
    """What a tracker calls the run, by the manifest's `training.tracking.run_name`."""
    return run.section.tracking.run_name.format(
        name=run.name,
        arch=run.section.architecture,
        seed=run.seed,
        timestamp=f"{datetime.now(UTC):%Y%m%d-%H%M%S}",
    )


def write_tensorboard(history: History, folder: str) -> None:
    """Write the history as TensorBoard scalars, to a path or `gs://`."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        for step in history.steps:
            writer.add_scalar("train/loss", step.loss, step.step)
            writer.add_scalar("train/learning_rate", step.learning_rate, step.step)
        for epoch in history.epochs:
            for key, value in epoch.tracked().items():
                writer.add_scalar(f"epoch/{key}", value, epoch.epoch)
