"""Vertex AI Experiments: what is sent is read back with the library's own classes."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from typing import Any

import grpc
import pytest
from google.cloud import aiplatform

from gauntlet.backends.factory import open_tracking
from gauntlet.backends.google import calls
from gauntlet.backends.google import tracking as vertex_tracking
from gauntlet.backends.google.location import VertexLocation, valid_id
from gauntlet.manifests.errors import UsageError
from tests.fakes.cloud import FakeCloud
from tests.fakes.google_api import Failure

PROJECT = "demo"
BOARD = f"projects/{PROJECT}/locations/{FakeCloud.LOCATION}/tensorboards/42"
PLAIN = f"vertex://{PROJECT}/{FakeCloud.LOCATION}"
WHOLE = f"{PLAIN}?tensorboard=42&staging=gs://bucket/runs"


@pytest.fixture
def board(cloud: FakeCloud) -> None:
    """A Vertex AI TensorBoard."""
    cloud.resources.add(BOARD.rsplit("/", 2)[0], "tensorboards", "42", aiplatform.gapic.Tensorboard())


@pytest.fixture
def quiet_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenths of a second instead of seconds."""
    monkeypatch.setattr(calls, "SECONDS_TO_ANSWER", 0.3)
    monkeypatch.setattr(calls, "SECONDS_OF_RETRIES", 0.6)


def read_run(name: str, experiment: str = "emotion-training") -> Any:
    """The run, as the library reads it."""
    aiplatform.init(project=PROJECT, location=FakeCloud.LOCATION)
    return aiplatform.ExperimentRun(name, experiment)


def series(run: Any, name: str) -> list[tuple[int, float]]:
    frame = run.get_time_series_data_frame()
    return [
        (step, value) for step, value in zip(frame["step"], frame[name], strict=True) if not math.isnan(value)
    ]


@pytest.mark.usefixtures("board")
def test_a_run_is_recorded_with_its_parameters_metrics_curves_files_and_state(
    cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_tracking(WHOLE, "emotion", "emotion-1", {"task": "text_classification"}) as run:
        run.log_params({"learning_rate": "0.0001", "early_stopping.metric": "macro_f1"})
        run.log_metrics({"step/loss": 2.5}, step=1)
        run.log_metrics({"step/loss": 1.5}, step=2)
        run.log_metrics({"macro_f1": 0.5}, step=1)
        run.log_metrics({"macro_f1": 0.75}, step=2)
        run.log_text("curve.svg", "<svg/>")

    record = read_run("emotion-1")
    assert record.get_params() == {"learning_rate": "0.0001", "early_stopping.metric": "macro_f1"}
    assert record.get_metrics() == {"step/loss": 1.5, "macro_f1": 0.75}
    assert series(record, "macro_f1") == [(1, 0.5), (2, 0.75)]
    assert series(record, "step/loss") == [(1, 2.5), (2, 1.5)]
    assert record.get_state() == "COMPLETE"
    context = cloud.resources.get(record.resource_name)
    assert dict(context.labels) == {"task": "text_classification"}
    [kept] = [name for name in cloud.metadata.artifacts[context.name] if name.endswith("curve-svg")]
    assert cloud.bucket.objects[cloud.resources.get(kept).uri] == b"<svg/>"
    assert cloud.resources.get(kept).uri == "gs://bucket/runs/emotion-training/emotion-1/curve.svg"
    assert capsys.readouterr().err == ""


def test_without_a_tensorboard_the_last_values_are_kept_and_that_is_said_once(
    cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_tracking(PLAIN, "emotion", "run", {}) as run:
        run.log_metrics({"macro_f1": 0.5}, step=1)
        run.log_metrics({"macro_f1": 0.75}, step=2)
        run.log_text("curve.svg", "<svg/>")

    assert read_run("run").get_metrics() == {"macro_f1": 0.75}
    assert cloud.bucket.objects == {}
    assert capsys.readouterr().err == (
        "note: the tracking URI has no tensorboard, so only the last value of each metric is stored, and no "
        "staging, so no files are stored\n"
    )


@pytest.mark.usefixtures("board")
def test_metrics_of_every_step_are_written_in_few_calls_and_none_is_lost(
    cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_tracking(WHOLE, "emotion", "run", {}) as run:
        cloud.api.calls.clear()
        for step in range(1, 3001):
            run.log_metrics({"step/loss": 1 / step, "step/learning_rate": 1e-4}, step)
        assert cloud.api.calls == []
        monkeypatch.setattr(vertex_tracking, "SECONDS_BETWEEN_WRITES", 0)
        run.log_metrics({"step/loss": 0.0}, 3001)
        # The service takes 5000 points at once, of the 6001 that there are.
        assert len(cloud.api.requests("WriteTensorboardRunData")) == 2
        assert len(cloud.api.requests("UpdateContext")) == 1

    record = read_run("run")
    assert series(record, "step/loss") == [*((step, 1 / step) for step in range(1, 3001)), (3001, 0.0)]
    assert len(series(record, "step/learning_rate")) == 3000


@pytest.mark.usefixtures("board")
def test_a_run_of_the_same_name_goes_on_and_its_steps_are_replaced(cloud: FakeCloud) -> None:
    with pytest.raises(KeyboardInterrupt), open_tracking(WHOLE, "emotion", "run", {}) as run:
        run.log_params({"seed": "1"})
        run.log_metrics({"macro_f1": 0.5, "validation_loss": 1.0}, step=1)
        raise KeyboardInterrupt
    assert read_run("run").get_state() == "CANCELLED"

    with open_tracking(WHOLE, "emotion", "run", {}) as run:
        run.log_metrics({"macro_f1": 0.5}, step=1)
        assert read_run("run").get_state() == "RUNNING"
        run.log_metrics({"macro_f1": 0.75}, step=2)

    record = read_run("run")
    assert record.get_state() == "COMPLETE"
    assert record.get_params() == {"seed": "1"}
    assert record.get_metrics() == {"macro_f1": 0.75, "validation_loss": 1.0}
    assert series(record, "macro_f1") == [(1, 0.5), (2, 0.75)]


WRITES = (
    "CreateMetadataStore",
    "CreateContext",
    "AddContextChildren",
    "CreateTensorboardExperiment",
    "CreateTensorboardRun",
    "BatchCreateTensorboardTimeSeries",
    "WriteTensorboardRunData",
    "CreateArtifact",
    "AddContextArtifactsAndExecutions",
    "UpdateContext",
)


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("status", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_answers_that_are_lost_leave_the_same_run(
    cloud: FakeCloud,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: grpc.StatusCode,
    written: bool,
) -> None:
    monkeypatch.setattr(calls, "SECONDS_BEFORE_THE_FIRST_RETRY", 0.01)
    for method in WRITES:
        cloud.api.failures[method] = [Failure(status, after_the_write=written)]
    with open_tracking(WHOLE, "emotion", "run", {}) as run:
        run.log_params({"seed": "1"})
        run.log_metrics({"macro_f1": 0.5}, step=1)
        run.log_text("curve.svg", "<svg/>")

    assert capsys.readouterr().err == ""
    assert not any(cloud.api.failures.values())
    record = read_run("run")
    assert (record.get_state(), record.get_params()) == ("COMPLETE", {"seed": "1"})
    assert series(record, "macro_f1") == [(1, 0.5)]
    kept = cloud.metadata.artifacts[record.resource_name]
    assert [name.rpartition("run-")[2] for name in kept] == ["tb-run", "curve-svg"]


def test_a_training_that_is_a_step_of_a_pipelines_run_leads_to_its_job(
    cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    location = f"projects/{PROJECT}/locations/{FakeCloud.LOCATION}"
    store = f"{location}/metadataStores/default"
    cloud.resources.add(location, "metadataStores", "default", aiplatform.gapic.MetadataStore())
    cloud.resources.add(location, "pipelineJobs", "emotion-1", aiplatform.gapic.PipelineJob())
    for name in ("emotion-1", "emotion-2"):
        context = aiplatform.gapic.Context(schema_title="system.PipelineRun", display_name=name)
        cloud.resources.add(store, "contexts", name, context)

    for run, pipeline_run in (("first", "emotion-1"), ("second", "a-local-run"), ("third", "")):
        with open_tracking(PLAIN, "emotion", run, {}, pipeline_run=pipeline_run):
            pass

    assert "warning" not in capsys.readouterr().err
    jobs = {
        name: [job.resource_name for job in read_run(name).get_logged_pipeline_jobs()]
        for name in ("first", "second", "third")
    }
    assert jobs == {"first": [f"{location}/pipelineJobs/emotion-1"], "second": [], "third": []}


def test_a_pipelines_run_that_may_not_be_looked_for_stops_no_tracking(
    cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.api.failures["ListContexts"] = [Failure(grpc.StatusCode.PERMISSION_DENIED, "contexts.list denied")]
    with open_tracking(PLAIN, "emotion", "run", {}, pipeline_run="emotion-1") as run:
        run.log_metrics({"macro_f1": 0.5}, step=1)

    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and "contexts.list denied" in warnings[0]
    assert read_run("run").get_metrics() == {"macro_f1": 0.5}
    assert read_run("run").get_state() == "COMPLETE"


def test_two_runs_share_an_experiment_and_a_store_that_is_made_once(cloud: FakeCloud) -> None:
    for name in ("first", "second"):
        with open_tracking(PLAIN, "emotion", name, {}):
            pass

    contexts = [cloud.resources.get(read_run(name).resource_name) for name in ("first", "second")]
    [experiment] = {parent for context in contexts for parent in context.parent_contexts}
    assert cloud.resources.get(experiment).schema_title == "system.Experiment"
    assert len(cloud.api.requests("CreateMetadataStore")) == 1


def test_a_run_that_raises_has_failed(cloud: FakeCloud) -> None:
    with pytest.raises(RuntimeError), open_tracking(PLAIN, "emotion", "run", {}):
        raise RuntimeError

    assert read_run("run").get_state() == "FAILED"


@pytest.mark.usefixtures("board")
def test_a_metric_that_is_not_a_number_is_recorded_as_one_that_is_not(cloud: FakeCloud) -> None:
    with open_tracking(WHOLE, "emotion", "run", {}) as run:
        run.log_metrics({"train_loss": math.nan}, step=1)

    assert read_run("run").get_metrics() == {"train_loss": "nan"}
    [request] = cloud.api.requests("WriteTensorboardRunData")
    assert math.isnan(request.time_series_data[0].values[0].scalar.value)


def test_names_that_vertex_would_refuse_are_made_valid(
    cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = "a" * 63
    names = ["11/all-MiniLM-L6-v2/Moods", "x" * 200, "x" * 199 + "y", "___"]
    for name in names:
        with open_tracking(PLAIN, experiment, name, {"task": "Text Classification"}):
            pass

    assert "warning" not in capsys.readouterr().err
    runs = [
        request.context for request in cloud.api.requests("CreateContext") if "task" in request.context.labels
    ]
    assert runs[0].display_name == "11-all-minilm-l6-v2-moods"
    assert len({run.display_name for run in runs}) == 4  # the two long ones are told apart
    for run in runs:
        assert read_run(run.display_name, f"{experiment}-training").get_state() == "COMPLETE"


def test_an_experiment_is_not_mixed_up_with_the_pipelines_context_of_the_same_name(
    cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    location = PLAIN.replace("vertex://demo/", "projects/demo/locations/")
    cloud.resources.add(location, "metadataStores", "default", aiplatform.gapic.MetadataStore())
    for name in ("emotion", "moods-training"):
        context = aiplatform.gapic.Context(schema_title="system.Pipeline")
        cloud.resources.add(f"{location}/metadataStores/default", "contexts", name, context)

    with open_tracking(PLAIN, "emotion", "run", {}):
        pass
    assert read_run("run").get_state() == "COMPLETE"

    with open_tracking(PLAIN, "moods", "run", {}):
        pass
    assert "found a system.Pipeline, expected a system.Experiment" in capsys.readouterr().err


@pytest.mark.usefixtures("quiet_service", "cloud")
@pytest.mark.parametrize("location", [FakeCloud.LOCATION_THAT_REFUSES, FakeCloud.LOCATION_THAT_IS_SILENT])
def test_a_service_that_is_down_costs_one_warning_and_bounded_time_and_not_the_run(
    location: str, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    with open_tracking(f"vertex://demo/{location}", "emotion", "run", {}) as run:
        run.log_params({"epochs": "1"})
        run.log_metrics({"loss": 1.0}, step=1)

    assert time.monotonic() - began < 60  # a busy machine takes some of them
    err = capsys.readouterr().err
    assert err.startswith("warning: tracking with Vertex AI Experiments stopped: ")
    assert f"{location}-aiplatform.googleapis.com: cannot be reached (" in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("quiet_service")
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (grpc.StatusCode.UNAVAILABLE, "cannot be reached (told to fail)"),
        (grpc.StatusCode.INTERNAL, "aiplatform.googleapis.com: told to fail"),
        (
            grpc.StatusCode.PERMISSION_DENIED,
            "Give this account the role Vertex AI User, roles/aiplatform.user",
        ),
        (grpc.StatusCode.UNAUTHENTICATED, "not logged in (told to fail). Run `gcloud auth"),
    ],
)
def test_a_service_that_fails_half_way_costs_one_warning_and_keeps_what_was_tracked(
    cloud: FakeCloud, status: grpc.StatusCode, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_tracking(WHOLE.replace("tensorboard=42&", ""), "emotion", "run", {}) as run:
        run.log_params({"epochs": "2"})
        capsys.readouterr()
        cloud.api.failing = status
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_metrics({"loss": 0.5}, step=2)

    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    cloud.api.failing = None
    assert read_run("run").get_params() == {"epochs": "2"}


def test_a_tensorboard_that_is_not_there_costs_one_warning_that_names_it(
    cloud: FakeCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_tracking(WHOLE, "emotion", "run", {}) as run:
        run.log_params({"epochs": "2"})

    err = capsys.readouterr().err
    assert f"{BOARD} not found" in err
    assert err.count("\n") == 1


def test_nobody_logged_in_is_one_message_that_says_how(
    cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/key.json")

    with open_tracking(PLAIN, "emotion", "run", {}):
        pass

    err = capsys.readouterr().err
    assert "not logged in (File /no/such/key.json was not found.). Run `gcloud auth" in err


def test_a_uri_says_where() -> None:
    assert VertexLocation.of(WHOLE) == VertexLocation("demo", "europe-west4", "42", "gs://bucket/runs")
    assert VertexLocation.of("vertex://example.com:p/us-central1").project == "example.com:p"


@pytest.mark.parametrize(
    "uri",
    [
        "vertex://",
        "vertex://demo",
        "vertex://demo/Europe",
        "vertex:///europe-west4",
        f"{PLAIN}/experiments",
        f"{PLAIN}?board=42",
        f"{PLAIN}?tensorboard",
        f"{PLAIN}?tensorboard=",
        f"{PLAIN}?tensorboard={BOARD}",
        f"{PLAIN}?staging=/tmp/runs",
        f"{PLAIN}#runs",
    ],
)
def test_another_uri_is_refused_before_anything_runs(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_tracking(uri, "emotion", "run", {})
    assert f"tracking URI: found {uri!r}, expected vertex://PROJECT/REGION" in str(caught.value)


def test_an_id_that_is_too_long_ends_in_the_hash_of_the_whole_name() -> None:
    assert valid_id("Moods_of/2026", 20) == "moods-of-2026"
    assert valid_id("moods-of-a-long-year", 20) == "moods-of-a-long-year"
    # printf %s moods-of-a-very-long-year | sha256sum
    assert valid_id("moods-of-a-very-long-year", 20) == "moods-of-a-8aebd20d"


def test_googles_library_is_not_imported_before_it_is_needed() -> None:
    modules = "gauntlet.backends.tracking, gauntlet.backends.google.tracking, gauntlet.trainer.run"
    command = (
        f"import sys, {modules}; print('google.cloud.aiplatform_v1' in sys.modules, 'grpc' in sys.modules)"
    )

    output = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)

    assert output.stdout == "False False\n"
