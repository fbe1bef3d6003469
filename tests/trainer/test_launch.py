from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.training import Resources, Training
from gauntlet.trainer.launch import Cluster, Ending, cut_finer, devices_here, root_cause
from gauntlet.trainer.run import TrainingRun
from tests.trainer.conftest import STEPS, Trainings

pytestmark = pytest.mark.usefixtures("warm_processes")

# As https://cloud.google.com/vertex-ai/docs/training/distributed-training shows it, with two worker pools.
SPEC = {
    "cluster": {
        "workerpool0": ["cmle-training-workerpool0-ab-0:2222"],
        "workerpool1": ["cmle-training-workerpool1-ab-0:2222", "cmle-training-workerpool1-ab-1:2222"],
    },
    "environment": "cloud",
    "task": {"type": "workerpool0", "index": 0},
}


@pytest.mark.parametrize(
    ("pool", "index", "number"), [("workerpool0", 0, 0), ("workerpool1", 0, 1), ("workerpool1", 1, 2)]
)
def test_a_machine_of_vertex_finds_its_number_and_the_first_one(pool: str, index: int, number: int) -> None:
    cluster = Cluster.from_spec(json.dumps({**SPEC, "task": {"type": pool, "index": index}}))
    assert cluster == Cluster(3, number, "cmle-training-workerpool0-ab-0", 2222)


def test_without_a_cluster_this_machine_is_alone() -> None:
    assert Cluster.from_spec("").machines == 1


@pytest.mark.parametrize(
    "spec",
    ["three machines", "[]", "{}", json.dumps({**SPEC, "task": {"type": "workerpool1", "index": 2}})],
)
def test_a_cluster_that_is_not_vertexs_is_a_mistake(spec: str) -> None:
    with pytest.raises(UsageError, match=r"CLUSTER_SPEC: found .* Unset it"):
        Cluster.from_spec(spec)


def test_more_gpus_than_there_are_is_a_mistake_and_auto_takes_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    four = Resources(machine_type="n1-standard-8", accelerator_type="NVIDIA_TESLA_T4", accelerator_count=4)
    assert devices_here(Training(resources=four)) == 2
    assert devices_here(Training()) == 1
    with pytest.raises(UsageError, match=r"accelerator_count: found 4, but torch sees 2 GPUs"):
        devices_here(Training(compute_target="gpu_multi", resources=four))
    with pytest.raises(UsageError, match=r"accelerator_count: found 4, but torch sees 2 GPUs"):
        devices_here(Training(compute_target="cloud_gpu", resources=four))


def test_gpus_whose_driver_is_too_old_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)  # by the driver's library, without CUDA
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    two = Resources(machine_type="n1-standard-8", accelerator_type="NVIDIA_TESLA_T4", accelerator_count=2)
    assert devices_here(Training(resources=two)) == 1


LOST = Ending("lost the others", "gloo: connection closed by peer")


@pytest.mark.parametrize(
    ("endings", "exit_codes", "words"),
    [
        ({0: LOST, 1: Ending("error", "the disk is full")}, {0: 1}, "the disk is full"),
        ({0: LOST, 1: Ending("out of memory", "CUDA out of memory")}, {0: 1}, "CUDA out of memory"),
        ({0: Ending("bug", "ZeroDivisionError"), 1: LOST}, {1: 1}, "ZeroDivisionError"),
        ({0: LOST}, {1: -9}, "rank 1 was ended by SIGKILL, so the other ranks were stopped"),
        ({0: LOST}, {0: 1}, "rank 1 ended without an error"),
        ({0: LOST, 1: LOST}, {0: 1}, "a rank on another machine ended"),
    ],
)
def test_of_several_failures_the_one_that_began_it_is_told(
    endings: dict[int, Ending], exit_codes: dict[int, int], words: str
) -> None:
    assert words in root_cause(endings, exit_codes, range(2)).message


def trainer(trainings: Trainings, output: str, *more: str) -> list[str]:
    attempt = trainings.attempt(output)
    return [sys.executable, "-m", "gauntlet.trainer", *attempt["arguments"], "--processes", "2", *more]


def wait_for_state(training: subprocess.Popen[str], folder: Path) -> None:
    """Return once a state is written, however long a busy machine takes for it."""
    while not list(folder.glob("epoch-*")):
        assert training.poll() is None, f"training ended before it wrote a state: {training.communicate()[1]}"
        time.sleep(0.05)


def ranks_of(launcher: int) -> list[int]:
    """Processes of multiprocessing's spawn are the ranks; its resource tracker is none."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


@contextmanager
def long_training(trainings: Trainings) -> Iterator[subprocess.Popen[str]]:
    """Two ranks that would go on for minutes, as they are after their first state."""
    long = ("--set", "training.epochs=400", "--set", "training.early_stopping.patience=400")
    with subprocess.Popen(
        trainer(trainings, "model", *long), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as launched:
        try:
            wait_for_state(launched, trainings.folder / "states")
            yield launched
        finally:
            launched.kill()  # a test that fails waits for no training of 400 epochs


def test_a_rank_that_dies_stops_the_others_with_one_message_and_the_same_command_goes_on(
    trainings: Trainings,
) -> None:
    with long_training(trainings) as launched:
        os.kill(ranks_of(launched.pid)[1], signal.SIGKILL)
        _, errors = launched.communicate()
    assert launched.returncode == 1
    (message,) = errors.splitlines()
    assert message.startswith("error: training: rank 1 ")
    assert message.endswith(
        f"The same command resumes from the newest state in {trainings.folder / 'states'}."
    )
    assert not (trainings.folder / "model").exists()


def test_sigterm_reaches_the_ranks_which_write_a_state_and_training_ends_with_143(
    trainings: Trainings,
) -> None:
    with long_training(trainings) as launched:
        launched.terminate()
        _, errors = launched.communicate()
    assert launched.returncode == 143, errors
    assert "ended by SIGTERM after step" in errors
    assert "Traceback" not in errors


def test_a_mistake_is_told_once_whatever_the_number_of_ranks(trainings: Trainings) -> None:
    done = subprocess.run(
        trainer(trainings, "model", "--set", "training.precision=tf32"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("training.precision: found tf32") == 1
    assert "Traceback" not in done.stderr


def test_two_processes_train_a_model_that_is_handed_on(trainings: Trainings) -> None:
    done = subprocess.run(trainer(trainings, "model"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    history = json.loads((trainings.folder / "model" / "history.json").read_text())
    assert len(history["steps"]) == STEPS
    assert history["device"].startswith("2 × CPU")
    assert done.stdout.count("epoch 1/3 done") == 1


def test_ranks_out_of_memory_start_again_with_half_the_rows_until_one_is_left(tmp_path: Path) -> None:
    section = Training(batch_size=16, gradient_accumulation=2)
    run = TrainingRun(section, "tiny", "text_classification", 0, tmp_path, tmp_path)
    assert cut_finer(run, ranks=2, cause="CUDA out of memory").halvings == 1
    with pytest.raises(GauntletError, match="a single row at a time on each rank"):
        cut_finer(replace(run, halvings=2), ranks=2, cause="CUDA out of memory")
