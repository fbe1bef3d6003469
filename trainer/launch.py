"""Training on every device that the manifest asks for: one process per device, on this and other machines.

A training on one device runs in this process. For more, torchrun's launcher (torch.distributed.elastic)
starts the ranks, stops the others when one dies, and forwards SIGTERM. On Vertex AI every machine of a job
runs the same command, and the variable `CLUSTER_SPEC` says which machine it is:
https://cloud.google.com/vertex-ai/docs/training/distributed-training#cluster-variables
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from torch import distributed

from gauntlet.backends.processes import TOKENS_VARIABLE
from gauntlet.contracts.document import read_json, write_json
from gauntlet.manifests.errors import GauntletError, Preempted, UsageError
from gauntlet.manifests.training import Training
from gauntlet.trainer.gpus import require_bought_gpus, visible_gpus
from gauntlet.trainer.ranks import OutOfMemoryOnARank, World
from gauntlet.trainer.run import TrainingRun, train

CLUSTER_VARIABLE = "CLUSTER_SPEC"
SECONDS_TO_STOP = 30
"""After SIGTERM, for the ranks to finish a step and write a state: a spot machine gets this much notice."""


@dataclass(frozen=True)
class Cluster:
    """The machines of a job: how many, which of them this is, and where the first one listens."""

    machines: int = 1
    number: int = 0
    address: str = "localhost"
    port: int = 0

    @classmethod
    def from_spec(cls, spec: str) -> Self:
        """From Vertex AI's `CLUSTER_SPEC`; empty: this machine alone.

        Machines are numbered across worker pools: pool 0 has one machine, the first of pool 1 is number 1.

        Raises:
            UsageError: It is not what Vertex AI documents.
        """
        if not spec:
            return cls()
        try:
            content = json.loads(spec)
            pools = {name: list(addresses) for name, addresses in sorted(content["cluster"].items())}
            task = content["task"]
            before = [len(addresses) for name, addresses in pools.items() if name < task["type"]]
            host, _, port = pools["workerpool0"][0].rpartition(":")
            if not 0 <= int(task["index"]) < len(pools[task["type"]]):
                raise ValueError(f"task index {task['index']} of {task['type']}")
            machines, number = sum(map(len, pools.values())), sum(before) + int(task["index"])
            return cls(machines, number, host, int(port))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UsageError(
                f"{CLUSTER_VARIABLE}: found {spec!r}, expected the JSON that Vertex AI sets, with "
                f"cluster.workerpool0 and task ({error!r}). Unset it to train on this machine alone."
            ) from None


@dataclass(frozen=True)
class Ending:
    """How a rank ended. The rank writes it to a file for the launcher."""

    kind: Literal["error", "out of memory", "bug", "lost the others"]
    message: str = ""
    exit_code: int = 1
    halvings: int = 0


def launch(run: TrainingRun, processes: int | None = None) -> dict[str, Any] | None:
    """Train, and return the history as JSON; None on every machine and rank but the first.

    Args:
        run: What to train. Without `resume_dir`, several ranks that run out of memory start from the
            beginning.
        processes: On this machine; by default one per device that the manifest asks for.

    Raises:
        Preempted, UsageError, GauntletError: As `trainer.run.train`, a rank died, or the machine was bought
            with more GPUs than torch can use.
    """
    world = World.from_environment()
    if world.size > 1:  # started by torchrun
        try:
            history = train(run, world)
        except OutOfMemoryOnARank as error:
            raise GauntletError(
                f"training: rank {world.rank} is out of memory ({error}). Double "
                "training.gradient_accumulation: under torchrun itself micro-batches are not halved."
            ) from None
        return history if world.is_first else None
    require_bought_gpus()
    cluster = Cluster.from_spec(os.environ.get(CLUSTER_VARIABLE, ""))
    resources = run.section.resources
    if cluster.machines > 1 and cluster.machines != resources.replica_count:
        raise UsageError(
            f"training.resources.replica_count: found {resources.replica_count}, but the job has "
            f"{cluster.machines} machines. Set it to that number, since the budget is computed from it."
        )
    processes = processes or devices_here(run.section)
    if cluster.machines == processes == 1:
        return train(run)
    while True:
        try:
            return _launch_ranks(run, cluster, processes)
        except OutOfMemoryOnARank as error:
            run = cut_finer(replace(run, halvings=error.halvings), processes, str(error))


def devices_here(section: Training) -> int:
    """How many devices of this machine the manifest asks for; a `UsageError` if it has fewer."""
    wanted, found = section.resources.accelerator_count, visible_gpus()
    if section.compute_target in ("gpu_multi", "cloud_gpu") and found < wanted:
        raise UsageError(
            f"training.resources.accelerator_count: found {wanted}, but torch sees {found} GPUs on this "
            "machine. Set compute_target to auto to train on what there is."
        )
    if section.compute_target in ("cpu", "gpu_single"):
        return 1
    return max(1, min(wanted, found))


def root_cause(endings: Mapping[int, Ending], exit_codes: Mapping[int, int], ranks: range) -> Ending:
    """Why the ranks failed: the ending of the rank that failed first, not of those that it stopped.

    Args:
        endings: By rank, as far as ranks wrote one.
        exit_codes: Of the ranks whose failure the launcher saw; negative for a signal.
        ranks: This machine's ranks.
    """
    for kind in ("error", "out of memory", "bug"):
        for ending in endings.values():
            if ending.kind == kind:
                return ending
    for rank in ranks:
        if rank not in endings:
            code = exit_codes.get(rank, 0)
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else "ended without an error"
            return Ending("error", f"training: rank {rank} {how}, so the other ranks were stopped.")
    lost = "training: a rank on another machine ended, so the ranks on this one were stopped."
    return Ending("error", lost)


def cut_finer(run: TrainingRun, ranks: int, cause: str) -> TrainingRun:
    """The run with micro-batches half as large; a `GauntletError` if they have a single row already."""
    section = run.section
    rows = section.batch_size // (section.gradient_accumulation * ranks * 2**run.halvings)
    if rows <= 1:
        raise GauntletError(
            f"training: out of memory with a single row at a time on each rank ({cause}). "
            f"{section.memory_advice}, or take larger accelerators."
        )
    print(f"out of memory: the ranks start again with micro-batches half as large ({cause})", flush=True)
    return replace(run, halvings=run.halvings + 1)


def _launch_ranks(run: TrainingRun, cluster: Cluster, processes: int) -> dict[str, Any] | None:
    # 0.2 s, so only for several ranks
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    first = cluster.number * processes
    ranks = range(first, first + processes)
    alone = cluster.machines == 1
    config = LaunchConfig(
        min_nodes=cluster.machines,
        max_nodes=cluster.machines,
        nproc_per_node=processes,
        run_id="gauntlet",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="localhost:0" if alone else f"{cluster.address}:{cluster.port}",
        rdzv_configs={} if alone else {"rank": cluster.number},
        local_addr="localhost" if alone else None,
        max_restarts=0,
        shutdown_timeout=SECONDS_TO_STOP,
    )
    for noisy in ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing.spawn"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # one message reports all of it
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # for the ranks' sockets
    exit_codes: dict[int, int] = {}
    told_to_end: signal.Signals | None = None
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with tempfile.TemporaryDirectory() as folder:
        try:
            returned = elastic_launch(config, _train_rank)(run, folder)
        except ChildFailedError as error:
            exit_codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        except SignalException as told:
            told_to_end = told.sigval  # forwarded to the ranks, which have ended
        else:
            history: dict[str, Any] | None = returned.get(0)
            return history
        finally:
            for number, handler in before.items():  # the launcher does not restore them
                signal.signal(number, handler)
        endings = _read_endings(Path(folder))
    if told_to_end == signal.SIGINT:
        raise KeyboardInterrupt
    if told_to_end and not endings:
        raise Preempted("training: ended by SIGTERM before its first step or after its last.")
    cause = root_cause(endings, exit_codes, ranks)
    if cause.kind == "out of memory" and alone:
        raise OutOfMemoryOnARank(cause.message, cause.halvings)
    if cause.kind == "bug":
        raise RuntimeError(cause.message)
    raise _as_error(cause, run)


def _train_rank(run: TrainingRun, folder: str) -> dict[str, Any] | None:
    """One rank, in a process of its own. It writes its ending to `folder` if it fails."""
    os.environ.setdefault(TOKENS_VARIABLE, str(Path(folder) / "tokens"))
    world = World.from_environment()
    try:
        history = train(run, world)
    except Exception as error:
        ending = _ending(error)
        write_json(Path(folder) / f"{world.rank}.json", asdict(ending))
        sys.stdout.flush()
        os._exit(ending.exit_code)  # skip distributed shutdown: other ranks may be dead
    return history if world.is_first else None


def _ending(error: Exception) -> Ending:
    if isinstance(error, GauntletError):
        return Ending("error", str(error), error.exit_code)
    if isinstance(error, OutOfMemoryOnARank):
        return Ending("out of memory", str(error), halvings=error.halvings)
    # gloo has no error class of its own
    if isinstance(error, distributed.DistError) or "gloo" in str(error):
        return Ending("lost the others", str(error))
    return Ending("bug", "".join(traceback.format_exception(error)))


def _read_endings(folder: Path) -> dict[int, Ending]:
    return {int(path.stem): Ending(**read_json(path)) for path in sorted(folder.glob("*.json"))}


def _as_error(cause: Ending, run: TrainingRun) -> GauntletError:
    """The rank's error as an error of this process."""
    if cause.exit_code == Preempted.exit_code:
        return Preempted(cause.message)
    if cause.exit_code == UsageError.exit_code:
        return UsageError(cause.message)
    again = f" The same command resumes from the newest state in {run.resume_dir}." * bool(run.resume_dir)
    return GauntletError(cause.message + again)
