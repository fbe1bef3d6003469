"""What `collect` makes of the folders that the steps of a run leave."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import finished_runs as runs
import fsspec
import pytest
import step_outputs as outputs

from gauntlet.components.write_report.collect import collect
from gauntlet.components.write_report.record import STEPS, FinalStatus, freshness

VERTEX_JOB = "emotion-20261121090000"
VERTEX_TASK_ID = {name: (-1) ** at * (7_000_000_000 + at) for at, name in enumerate(STEPS)}


def states(root: str | Path, job: str = runs.JOB, final: FinalStatus | None = None) -> list[str]:
    return [step.state for step in collect(str(root), job, runs.TASK, final).steps]


def test_every_step_of_a_promoted_run_succeeded_and_every_artifact_is_read(tmp_path: Path) -> None:
    runs.promoted(runs.local(tmp_path))
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    assert [step.state for step in record.steps] == ["succeeded"] * 7
    assert record.statistics is not None and record.statistics.rows["test"] == 2000
    assert record.checks is not None and record.checks.passed
    assert record.history is not None and record.history.best_epoch == 3
    assert record.training is not None and record.training.encoder == "sentence-transformers/all-MiniLM-L6-v2"
    assert record.candidates is not None and record.candidates.chosen_speedup == {
        1: pytest.approx(9.84 / 1.89)
    }
    assert record.bundle is not None and record.bundle.lineage["git_commit"] == "9377eda0c2f4"
    assert record.scores is not None and record.scores.champion is not None
    assert record.scores.champion.version == "2"
    assert record.verdict is not None and len(record.verdict.rules) == 12
    assert record.version is not None and record.version.bundle_sha256 == outputs.BUNDLE_SHA256
    assert record.unreadable == ()


def of_run(folder: Path, run: str, **changes: object) -> None:
    """A promoted run on this machine whose statistics have these fields."""
    where = runs.local(folder / "runs" / run / "steps")
    runs.promoted(where)
    file = where("validate-data") / "splits" / "statistics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def news(folder: Path, run: str, *reused: str) -> str:
    """What is said of a run's data, if these steps were reused."""
    steps = folder / "runs" / run / "steps"
    for step in reused:
        (runs.local(steps)(step) / "reused.json").write_text('{"run": "emotion-20261121-090000"}')
    return freshness(collect(str(steps), runs.JOB, runs.TASK))


def test_a_run_says_whether_files_rows_or_nothing_of_its_data_changed(tmp_path: Path) -> None:
    of_run(tmp_path, "emotion-20261121-090000")
    assert news(tmp_path, "emotion-20261121-090000") == "new: 20,000 rows."
    of_run(tmp_path, "emotion_sample-20261121-093000", sha256="another system")
    of_run(tmp_path, "emotion-20261122-090000")
    same = "files, settings or code have changed, but none of the 20,000 rows"
    assert news(tmp_path, "emotion-20261122-090000") == f"{same}; the model was trained again."
    reused = news(tmp_path, "emotion-20261122-090000", "train-model")
    assert reused == f"{same}: the steps after validate-data were reused."
    of_run(tmp_path, "emotion-20261123-090000", sha256="others", rows={"train": 16_000, "test": 2_005})
    changed = "the rows have changed: 18,005 rows, 20,000 before; the model was trained again."
    assert news(tmp_path, "emotion-20261123-090000") == changed
    of_run(tmp_path, "emotion-20261124-090000")
    unchanged = "unchanged since emotion-20261121-090000: the splits were reused"
    assert news(tmp_path, "emotion-20261124-090000", "validate-data") == (
        f"{unchanged}; the model was trained again."
    )
    assert news(tmp_path, "emotion-20261124-090000", "validate-data", "train-model") == (
        f"{unchanged}, and so was the trained model."
    )


def test_on_vertex_the_runs_before_are_the_jobs_beside_it(tmp_path: Path) -> None:
    def folders(job: str) -> runs.FolderOf:
        return lambda step: tmp_path / "42" / job / f"{step}_{VERTEX_TASK_ID[step]}"

    first, second = "emotion-20261121090000", "emotion-20261128090000"
    runs.promoted(folders(first))
    runs.promoted(folders(second))
    (folders("emotion-20261125090000")("validate-data")).mkdir(parents=True)  # it was refused
    statistics = folders(second)("validate-data") / "splits" / "statistics.json"
    statistics.write_text(json.dumps(json.loads(statistics.read_text()) | {"sha256": "others"}))
    found = freshness(collect(str(tmp_path), second, runs.TASK))
    assert found == "the rows have changed: 20,000 rows, 20,000 before; the model was trained again."


def test_a_vertex_run_is_found_under_its_project_number_with_task_ids(tmp_path: Path) -> None:
    def folder_of(step: str) -> Path:
        return tmp_path / "root" / "827804637" / VERTEX_JOB / f"{step}_{VERTEX_TASK_ID[step]}"

    runs.promoted(folder_of)
    (tmp_path / "root" / "827804637" / "another-job").mkdir()
    record = collect(str(tmp_path / "root"), VERTEX_JOB, runs.TASK)
    assert [step.state for step in record.steps] == ["succeeded"] * 7
    assert record.version is not None


def test_a_run_in_a_bucket_is_read_like_one_on_disk(tmp_path: Path) -> None:
    runs.rejected(runs.local(tmp_path))
    bucket = fsspec.filesystem("memory")
    bucket.put(str(tmp_path / runs.JOB), f"/bucket/root/42/{runs.JOB}", recursive=True)
    try:
        assert states("memory://bucket/root") == ["succeeded"] * 6 + ["skipped"]
    finally:
        bucket.rm("/bucket", recursive=True)


def test_of_a_step_that_was_retried_the_attempt_that_finished_counts(tmp_path: Path) -> None:
    job = tmp_path / "42" / VERTEX_JOB
    runs.fail(job / "validate-data_9", "503", exit_code=1)
    runs.validated(lambda step: job / f"{step}_1")
    runs.fail(job / "train-model_5", "out of memory", exit_code=1)
    record = collect(str(tmp_path), VERTEX_JOB, runs.TASK)
    assert record.step("validate-data").state == "succeeded"
    assert record.step("train-model").message == "out of memory"


def test_a_step_that_succeeded_after_a_failure_in_the_same_folder_succeeded(tmp_path: Path) -> None:
    folder_of = runs.local(tmp_path)
    runs.fail(folder_of("validate-data"), "the bucket is out of reach", exit_code=1)
    runs.validated(folder_of)
    assert states(tmp_path)[1] == "succeeded"


def test_the_failed_step_keeps_its_message_and_later_steps_were_not_reached(
    tmp_path: Path,
) -> None:
    runs.died_in_training(runs.local(tmp_path))
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    assert [step.state for step in record.steps] == ["succeeded"] * 2 + ["failed"] + ["not reached"] * 4
    assert record.failed_step is not None
    assert record.failed_step.message == "RuntimeError: CUDA error: device-side assert triggered"
    assert record.failed_step.exit_code == 1


def test_a_killed_step_is_failed_though_it_left_no_error(tmp_path: Path) -> None:
    runs.killed_in_training(runs.local(tmp_path))
    failed = collect(str(tmp_path), runs.JOB, runs.TASK).failed_step
    assert failed is not None and failed.name == "train-model"
    assert "killed" in (failed.message or "")


def test_a_step_that_left_no_folder_at_all_is_where_the_run_ended(tmp_path: Path) -> None:
    runs.validated(runs.local(tmp_path))
    failed = collect(str(tmp_path), runs.JOB, runs.TASK).failed_step
    assert failed is not None and failed.name == "train-model" and failed.folder is None


@pytest.mark.parametrize("root", ["there", "not-there"])
def test_a_run_that_left_nothing_failed_in_its_first_step(tmp_path: Path, root: str) -> None:
    (tmp_path / "there").mkdir()
    assert states(tmp_path / root) == ["failed", *["not reached"] * 6]


def test_a_step_between_others_that_left_nothing_was_taken_from_the_cache(tmp_path: Path) -> None:
    folder_of = runs.local(tmp_path)
    runs.validated(folder_of)
    runs.evaluated(folder_of, with_champion=False)
    runs.finish(folder_of("gate-model"), {"verdict": outputs.verdict(failing=("cost",), with_champion=False)})
    after_validation = ["reused", "reused", "succeeded", "succeeded", "skipped"]
    assert states(tmp_path) == ["succeeded", "succeeded", *after_validation]


def test_a_cancelled_run_says_so(tmp_path: Path) -> None:
    runs.killed_in_training(runs.local(tmp_path))
    failed = collect(str(tmp_path), runs.JOB, runs.TASK, FinalStatus("CANCELLED")).failed_step
    assert failed is not None and "cancelled" in (failed.message or "")


def test_a_gate_without_a_readable_verdict_has_failed(tmp_path: Path) -> None:
    folder_of = runs.local(tmp_path)
    runs.rejected(folder_of)
    (folder_of("gate-model") / "verdict").write_text('{"decision": "rej')
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    assert record.step("gate-model").state == "failed"
    assert record.step("register-model").state == "not reached"
    assert len(record.unreadable) == 1 and "gate-model/verdict" in record.unreadable[0]


def test_an_unreadable_artifact_is_named_and_does_not_hide_the_others(tmp_path: Path) -> None:
    folder_of = runs.local(tmp_path)
    runs.promoted(folder_of)
    (folder_of("train-model") / "history").write_bytes(b"\xff\xfe")
    (folder_of("evaluate-model") / "scores").write_text('{"challenger": {"accuracy": [1]}}')
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    assert record.history is None and record.scores.challenger.accuracy is None
    assert record.version is not None
    assert "train-model/history" in record.unreadable[0]
    assert "challenger.accuracy" in record.unreadable[1]


def test_a_figure_that_is_nan_or_missing_is_absent(tmp_path: Path) -> None:
    folder_of = runs.local(tmp_path)
    runs.validated(folder_of)
    history = outputs.history()
    history["cost_usd"] = float("nan")
    del history["usd_per_hour"]
    runs.finish(folder_of("train-model"), {"history": history})
    read = collect(str(tmp_path), runs.JOB, runs.TASK).history
    assert read is not None and read.cost_usd is None and read.usd_per_hour is None


def test_a_step_lasts_from_the_end_of_the_one_before_it(tmp_path: Path) -> None:
    runs.promoted(runs.local(tmp_path))
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    seconds = [step.duration.total_seconds() if step.duration else None for step in record.steps[2:]]
    assert seconds == pytest.approx([161, 42, 12, 0.4, 2.6], abs=1e-3)


def test_the_first_step_lasts_from_the_time_in_the_name_of_a_local_job(tmp_path: Path) -> None:
    runs.validated(runs.local(tmp_path))
    first, second, *_ = collect(str(tmp_path), runs.JOB, runs.TASK).steps
    assert (first.duration, second.duration) == (timedelta(seconds=1), timedelta(seconds=3))


def test_the_first_step_of_another_job_has_no_known_start(tmp_path: Path) -> None:
    runs.validated(lambda step: tmp_path / "42" / VERTEX_JOB / f"{step}_1")
    assert collect(str(tmp_path), VERTEX_JOB, runs.TASK).steps[0].duration is None


def test_other_folders_of_the_job_are_no_steps(tmp_path: Path) -> None:
    folder_of = runs.local(tmp_path)
    runs.rejected(folder_of)
    (tmp_path / runs.JOB / "write-report").mkdir()
    (tmp_path / runs.JOB / "register-model.txt").write_text(json.dumps({}))
    assert states(tmp_path)[-1] == "skipped"
