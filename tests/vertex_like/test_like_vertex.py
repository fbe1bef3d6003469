"""`manifests/emotion_sample.yaml` on Vertex AI as `pipeline_run` has it, on a third of its rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pytest

from gauntlet.backends.factory import open_registry
from gauntlet.backends.registry import ModelVersion
from tests.fakes.cloud import FakeCloud
from tests.vertex_like.conftest import REGISTRY, REPOSITORY, VertexLike
from tests.vertex_like.pipeline_run import Interruption, Kind, PipelineRun

SAMPLE = REPOSITORY / "manifests" / "emotion_sample.yaml"
ROWS = REPOSITORY / "manifests" / "data" / "emotion_sample.csv"
DATA = "gs://bucket/data/emotion_sample.csv"
NAME = "emotion_sample"
STORE = f"projects/demo/locations/{FakeCloud.LOCATION}/metadataStores/default"
STEPS_IN_AN_EPOCH = 15
QUICK = (
    f"dataset.uri={DATA}",
    "dataset.size=null",  # every third row
    "dataset.checks.rows_per_class.min_rows=5",
    "training.resume.every_steps=8",
    "training.resources.strategy=spot",
    "conversion.candidates=[plain]",
    "conversion.batch_sizes=[1]",
    "evaluation.bootstrap_resamples=300",
    "gates.min_macro_f1=0.1",
    "gates.min_speedup=0.1",  # the machine that tests run on may be busy
    "gates.max_class_f1_drop=0.5",
)

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def project(vertex_like: VertexLike) -> VertexLike:
    """The project with the rows in its bucket."""
    third = pd.read_csv(ROWS).iloc[::3]
    vertex_like.cloud.bucket.objects[DATA] = third.to_csv(index=False).encode()
    return vertex_like


def test_a_second_run_whose_machine_is_taken_away_ends_with_the_same_weights_and_is_compared_with_the_first(
    project: VertexLike,
) -> None:
    first = project.run(project.submit(SAMPLE, *QUICK, "training.epochs=2"))
    require_success(first)
    assert champion().version == "1"

    job = project.submit(SAMPLE, *QUICK, "training.epochs=2")
    in_the_second_epoch = state_written(project, job.name.rpartition("/")[2], "epoch-0002-batch-000001")
    second = project.run(job, [Interruption("train-model", "preemption", in_the_second_epoch)])
    require_success(second)

    taken_away, restarted = (one.ended for one in second.attempts_of("train-model"))
    assert (taken_away.exit_code, restarted.exit_code) == (143, 0), taken_away.lines[-5:]
    [step] = re.findall(r"ended by SIGTERM after step (\d+)", "\n".join(taken_away.lines))
    assert STEPS_IN_AN_EPOCH < int(step) < 2 * STEPS_IN_AN_EPOCH
    assert weights(project, first) == weights(project, second)

    assert compared_with(project, first) is None
    assert compared_with(project, second) == "1"
    assert champion().version == "2"
    for run, version in ((first, 1), (second, 2)):
        assert f"Promoted as version {version}" in run.attempts_of("write-report")[0].ended.lines
    assert tracked_states(project) == ["COMPLETE", "CANCELLED", "COMPLETE"]


@pytest.mark.parametrize(("kind", "state"), [("cancellation", "CANCELLED"), ("deadline", "FAILED")])
def test_a_training_that_is_ended_from_outside_says_so_and_registers_nothing(
    project: VertexLike, kind: Kind, state: str
) -> None:
    run = project.run(
        project.submit(SAMPLE, *QUICK, "training.epochs=6", "training.resources.strategy=standard"),
        [Interruption("train-model", kind, printed("epoch 1/6"))],
    )

    ended_as = run.execute()
    assert ended_as == state, str(run)
    [training] = run.attempts_of("train-model")
    assert training.ended.exit_code == 143, training.ended.lines[-5:]
    error = json.loads(project.cloud.bucket.objects[f"{training.folder}/error.json"])
    assert error["exit_code"] == 143
    assert "ended by SIGTERM after step" in error["message"]
    assert tracked_states(project) == ["CANCELLED"]
    assert run.attempts_of("register-model") == []
    assert open_registry(REGISTRY).names() == []
    [report] = run.attempts_of("write-report")
    assert report.ended.exit_code == 0
    page = project.cloud.bucket.objects[f"{report.folder}/report"].decode()
    assert "ended by SIGTERM after step" in page


def require_success(run: PipelineRun) -> None:
    state = run.execute()
    assert state == "SUCCEEDED", str(run)


def printed(beginning: str) -> Callable[[Sequence[str]], bool]:
    """Whether a line that begins so was printed."""
    return lambda lines: any(line.startswith(beginning) for line in lines)


def state_written(project: VertexLike, job_id: str, name: str) -> Callable[[Sequence[str]], bool]:
    """Whether that training state is complete in the bucket."""
    manifest = f"gs://bucket/root/{job_id}-training/checkpoints/{name}/manifest.json"
    return lambda _: manifest in project.cloud.bucket.objects


def champion() -> ModelVersion:
    version = open_registry(REGISTRY).champion(NAME)
    assert version is not None
    return version


def weights(project: VertexLike, run: PipelineRun) -> bytes:
    folder = run.attempts_of("train-model")[-1].folder
    return project.cloud.bucket.objects[f"{folder}/checkpoint/model.safetensors"]


def compared_with(project: VertexLike, run: PipelineRun) -> Any:
    """The champion's version that evaluate-model had beside the new one."""
    folder = run.attempts_of("evaluate-model")[0].folder
    scores = json.loads(project.cloud.bucket.objects[f"{folder}/scores"])
    return scores.get("champion", {}).get("version")


def tracked_states(project: VertexLike) -> list[str]:
    """How each training ended by Vertex AI Experiments, the newest last."""
    contexts = project.cloud.resources.below(STORE, "contexts")
    return [one.metadata["_state"] for one in contexts if one.schema_title == "system.ExperimentRun"]
