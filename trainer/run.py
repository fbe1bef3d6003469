"""One training run: from validated splits to a checkpoint and its history."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gauntlet.backends.factory import open_tracking
from gauntlet.backends.storage import join, replace_folder
from gauntlet.backends.tracking import TrackedRun
from gauntlet.contracts.training import BUDGET_REASONS, Epoch, History, TrainingHistory, TrainingRecord
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.own_code import code_sha256
from gauntlet.manifests.schema import canonical_json
from gauntlet.manifests.section import Section, flatten
from gauntlet.manifests.training import Training
from gauntlet.trainer.device import (
    choose_device,
    choose_format,
    describe,
    make_deterministic,
    require_compiler,
)
from gauntlet.trainer.loop import Keep, fit
from gauntlet.trainer.own_network import record_of, require_usable
from gauntlet.trainer.process import noticing_sigterm
from gauntlet.trainer.ranks import World, process_group
from gauntlet.trainer.replica import Replica
from gauntlet.trainer.saved_model import STUDENT_FOLDER, TRAINING_FILE, write_checkpoint
from gauntlet.trainer.splits import read_statistics
from gauntlet.trainer.states import StateStore
from gauntlet.trainer.task import (
    WEIGHTS_FILE,
    Distillation,
    DistillationStage,
    Task,
    Tensors,
    load_task,
)
from gauntlet.trainer.tracking import (
    StudentTracker,
    track_classes,
    track_files,
    vertex_trial,
    write_tensorboard,
)
from gauntlet.trainer.watch import Budget

ALONE = World()
PHASE_FILE = "phase{phase}_best.safetensors"


@dataclass(frozen=True)
class TrainingRun:
    """What to train and where its outputs go.

    Attributes:
        tracking_uri: Where metrics go; empty: nowhere.
        resume_dir: Where training states go, a path or any URI that fsspec opens. An interrupted training
            resumes from the newest one. Empty: no states are written, and an interrupted training starts
            again.
        tensorboard_dir: Where scalars go, a path or `gs://`; empty: nowhere.
        pipeline_run: The name of the pipeline's run that this training is a part of; empty: none.
        halvings: How often this training ran out of memory on several ranks; see `gauntlet.trainer.launch`.
    """

    section: Training
    name: str
    task: str
    seed: int
    splits: Path
    checkpoint: Path
    tracking_uri: str = ""
    resume_dir: str = field(default_factory=lambda: os.environ.get("AIP_CHECKPOINT_DIR", ""))
    tensorboard_dir: str = field(default_factory=lambda: os.environ.get("AIP_TENSORBOARD_LOG_DIR", ""))
    halvings: int = 0
    pipeline_run: str = ""


def train(run: TrainingRun, world: World = ALONE) -> dict[str, Any]:
    """Train, write the best epoch's checkpoint to `run.checkpoint`, and return the history as JSON.

    Call it in the main thread, since it handles SIGTERM, and on every rank; the first rank writes.

    Features, by the keys of the manifest's section `training`:
        - Epochs of AdamW steps with a learning rate schedule in one phase or several (`schedule`,
          `warmup_fraction`); the best epoch of the last phase is kept, early stopping ends training
          (`early_stopping`).
        - Gradient accumulation (`gradient_accumulation`). The loss of a step is the mean over its rows,
          however they are divided into micro-batches and over ranks.
        - Several devices, with a copy of the model on each or a shard (`distribution`: ddp or fsdp2).
          Gradients are exchanged once a step.
        - Number formats (`precision`): bf16 and fp16 autocast, tf32. fp16 scales the loss.
        - `compile`: torch.compile; the first steps take minutes.
        - Out of memory: micro-batches are halved until a step fits. One rank repeats the step; several ranks
          start again from the newest state.
        - Resume (`resume`, `run.resume_dir`): a state after every epoch and every so many steps. It takes
          three times the size of the trained weights on disk (weights and two moments), and training waits
          while it is written. A resumed training ends in the same bits as an uninterrupted one on the same
          machine.
        - A budget of hours and of cost (`resources`): training ends when it is used up, after at least one
          step, and keeps its best epoch. Checked after each step.
        - Memory limits (`resources.max_memory_gb`, `resources.max_gpu_memory_gb`).
        - CPU kernels for dropout, attention and layer norm, on a CPU only (`gauntlet.trainer.cpu`).
        - Tracking (`tracking`, `run.tracking_uri`, `run.tensorboard_dir`): every step and epoch, usage of the
          machine every two seconds. A tracker that fails does not end training.
        - A network and a loss of the user's own (`network`, `loss`): tried on a few rows first.
        - A student (`student`, if the kind offers it): a second training of a smaller model, within the same
          budget. Its checkpoint lies in the teacher's.

    The checkpoint is built in a scratch folder and written to `run.checkpoint` once, when training is done: a
    versioned bucket would otherwise keep every epoch that was the best for a while.

    Raises:
        Preempted: SIGTERM came; the current step was finished, and its state written if there is a
            `resume_dir`.
        UsageError: The pretrained model, the device, the number format, the compiler or the splits are
            missing; the machine has no price; there are more ranks than rows; or the states in `resume_dir`
            are of a training with other settings.
        GauntletError: No epoch gave a finite validation metric, training used more memory than it may or than
            the device has for a single row, or a state or the checkpoint could not be written.
        OutOfMemoryOnARank: One of several ranks ran out of memory; `launch` starts them again.
    """
    with tempfile.TemporaryDirectory(prefix="gauntlet-training-") as scratch:
        return _train(run, replace(run, checkpoint=Path(scratch) / "checkpoint"), world)


def _train(given: TrainingRun, run: TrainingRun, world: World) -> dict[str, Any]:
    """`train`, where the checkpoint of `run` is the scratch one, and that of `given` the one to write."""
    section, budget = run.section, Budget.of(run.section.resources)
    device = choose_device(section.compute_target, world)
    require_compiler(section)
    make_deterministic(run.seed, world.local_size)
    task = load_task(run.task, section, run.splits)
    if world.size > len(task.train_lengths):
        raise UsageError(
            f"training: {world.size} ranks for {len(task.train_lengths)} rows. Use fewer devices."
        )
    model = task.build_model()
    require_usable(task, run.task, model, section)
    trained, parameters = trained_parameters(model), task.size(model)
    where = describe(device, section, world)
    if world.is_first:
        share = f"{trained / 1e6:.3g} M of them ({trained / parameters:.2%}) trained"
        size = f"{parameters / 1e6:.1f} M parameters, {share}"
        print("\n".join((f"{len(task.train_lengths)} rows, {size}, {where}", *task.remarks)), flush=True)
    distillation = None if vertex_trial(section.early_stopping.metric) else task.distillation(model)
    best: Tensors = {}  # what a student learns from; on the first rank
    write = checkpoint_writer(run, task, model, run.checkpoint)

    def keep(weights: Tensors, epoch: Epoch) -> None:
        write(weights, epoch)
        if distillation:
            best.update({name: tensor.clone() for name, tensor in weights.items()})

    with process_group(world, device), _tracking(run, world) as tracker:
        tracker.log_params(flatten(section.model_dump(mode="json")) | {"seed": str(run.seed)})
        with noticing_sigterm() as preempted:
            replica = Replica(task, model, section, device, world)
            states = state_store(run, device, world)
            torch.manual_seed(run.seed + world.rank)  # the same weights on each rank, but dropout of its own
            history = fit(replica, section, run.seed, keep, tracker, states, preempted, run.halvings)
            require_finite(history, section)
            student = None
            if distillation and history.stopped not in BUDGET_REASONS:
                began = time.monotonic()
                stage = _distillation_stage(distillation, task, replica, best, run.seed)
                del replica
                used = history.seconds + time.monotonic() - began
                student_states = state_store(run, device, world, distillation.student)
                student = _distil(run, stage, used, device, world, tracker, student_states, preempted)
            if world.is_first:
                replace_folder(run.checkpoint, str(given.checkpoint), last=TRAINING_FILE)
        seconds = (student or history).seconds
        facts = {
            **dict(history),
            "device": where,
            "parameters": parameters,
            "trained_parameters": trained,
            "host": platform.node(),
            "seconds": seconds,
            "machine": machine_name(section),
            "usd_per_hour": budget.usd_per_hour,
            "cost_usd": budget.cost_usd(seconds),
            "max_hours": budget.max_hours,
            "max_cost_usd": budget.max_cost_usd,
        }
        document = History(**facts | ({"student": student} if student else {})).as_json()
        track_classes(history, read_statistics(run.splits).labels, tracker)
        track_files(document, tracker)
    if run.tensorboard_dir and world.is_first:
        write_tensorboard(history, run.tensorboard_dir)
    return document


def _distillation_stage(
    distillation: Distillation, task: Task, teacher: Replica, best: Tensors, seed: int
) -> DistillationStage:
    """Score the training rows with the teacher's best weights; called on all ranks."""
    teacher.set_weights(best)
    outputs = teacher.outputs(task.train_lengths, lambda rows: task.training_batch(rows, (seed, 0)))
    return distillation.stage(best, outputs)


def _distil(
    run: TrainingRun,
    stage: DistillationStage,
    seconds_before: float,
    device: torch.device,
    world: World,
    tracker: TrackedRun,
    states: StateStore | None,
    preempted: Callable[[], bool],
) -> TrainingHistory:
    """Train a student. Its checkpoint and its states lie inside its teacher's."""
    model = stage.task.build_model()
    model.load_state_dict(world.from_first(stage.weights))
    if world.is_first:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(f"a student of {parameters / 1e6:.1f} M trained parameters", flush=True)
    write = checkpoint_writer(run, stage.task, model, run.checkpoint / STUDENT_FOLDER)
    torch.manual_seed(run.seed + world.rank)
    replica = Replica(stage.task, model, stage.section, device, world)
    return fit(
        replica,
        stage.section,
        run.seed,
        write,
        StudentTracker(tracker),
        states,
        preempted,
        run.halvings,
        seconds_before,
    )


def _keep_phases(section: Training, epoch: int, folder: Path, before: Path) -> None:
    """Add the best weights of each phase to a new checkpoint; earlier ones lie in the checkpoint `before`."""
    if len(section.phases) == 1:
        return
    own = PHASE_FILE.format(phase=section.phase_of(epoch).number)
    for file in before.glob(PHASE_FILE.format(phase="*")):
        shutil.copyfile(file, folder / file.name)
    shutil.copyfile(folder / WEIGHTS_FILE, folder / own)


def trained_parameters(model: nn.Module) -> int:
    """Numbers in the parameters that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def checkpoint_writer(run: TrainingRun, task: Task, model: nn.Module, folder: Path) -> Keep:
    """A function that writes an epoch's weights of the task's model as the checkpoint at `folder`."""
    own_code = record_of(run.section, task)

    def write(weights: Tensors, epoch: Epoch) -> None:
        record = TrainingRecord(
            task=run.task,
            labels=read_statistics(run.splits).labels,
            seed=run.seed,
            epoch=epoch.epoch,
            data_sha256=read_statistics(run.splits).sha256,
            training_sha256=hashlib.sha256(canonical_json(run.section).encode()).hexdigest(),
            **own_code,
            **task.of_record,
        )

        def save(target: Path) -> None:
            task.save(model, weights, target)
            _keep_phases(run.section, epoch.epoch, target, folder)

        write_checkpoint(folder, record, save)

    return write


def state_store(
    run: TrainingRun, device: torch.device, world: World, student: Section | None = None
) -> StateStore | None:
    """The states of the training, or of its student's; None if none are written."""
    if not run.resume_dir:
        return None
    uri, settings = run.resume_dir, fingerprint(run, device, world)
    if student:
        uri = join(uri, STUDENT_FOLDER)
        settings |= flatten({"training.student": student.model_dump(mode="json")})
    return StateStore(uri, settings, run.section.resume)


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
        run.resume_dir,
    )


def require_finite(history: TrainingHistory, section: Training) -> None:
    """Raise a `GauntletError` for a training of which no epoch gave a finite validation metric."""
    begun = section.phase_of(len(history.epochs))
    if history.best_epoch <= begun.before:
        raise GauntletError(
            f"training: no epoch gave a finite {section.early_stopping.metric}; the last training loss "
            f"was {history.epochs[-1].training['loss']}. "
            f"Lower the learning rate, which is {begun.learning_rate:g}."
        )


def fingerprint(run: TrainingRun, device: torch.device, world: World) -> dict[str, str]:
    """What an optimizer step depends on besides the state: it must be the same when training resumes.

    The budget, how often a state is written and what is tracked may change.
    """
    free = {"resources", "resume", "compute_target", "prefetch_batches", "precision", "tracking"}
    free.add("student")  # trained afterwards
    settings = run.section.model_dump(mode="json", exclude=free)
    own_code = [*(run.section.network_code or ())[1:], run.section.own_loss]
    return flatten({"training": settings}) | {
        "task": run.task,
        "seed": str(run.seed),
        "the data's sha256": read_statistics(run.splits).sha256,
        "the device": device.type,
        "the number format": choose_format(run.section, device),
        "the number of ranks": str(world.size),
        **{f"the code of {path}": code_sha256(path) for path in own_code if path},
    }


def machine_name(section: Training) -> str:
    """The machine that the manifest buys. The cost is that of this machine, wherever training runs."""
    resources = section.resources
    machine = resources.machine_type
    if resources.accelerator_type is not None:
        machine += f" + {resources.accelerator_count} × {resources.accelerator_type}"
    return machine if resources.replica_count == 1 else f"{resources.replica_count} × ({machine})"


def run_name(run: TrainingRun) -> str:
    """The run's name in a tracker, from `training.tracking.run_name`."""
    return run.section.tracking.run_name.format(
        name=run.name,
        arch=run.section.model_name,
        seed=run.seed,
        timestamp=f"{datetime.now(UTC):%Y%m%d-%H%M%S}",
    )
