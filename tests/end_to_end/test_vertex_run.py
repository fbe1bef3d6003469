"""A whole run by `gauntlet submit --wait`: the job's own spec is executed, on data from the bucket."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from backends.registry import open_registry
from pipelines.vertex import follow
from tests.drawn_images import FILES, draw, write_files
from tests.end_to_end.test_images import manifest_content
from tests.fakes.cloud import FakeCloud
from tests.fakes.execution import Execution
from tests.pipelines.test_cli import gauntlet


def test_a_submitted_job_trains_proves_and_registers_what_the_bucket_holds(
    place: FakeCloud,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(follow, "SECONDS_BETWEEN_LOOKS", 0.2)
    store = f"sqlite:///{tmp_path / 'store.db'}"
    drawn = write_files(tmp_path / "drawn", draw(100, seed=1), draw(40, seed=2))
    for name in FILES.values():
        place.bucket.objects[f"gs://bucket/drawn/{name}"] = (drawn / name).read_bytes()
    content = manifest_content(drawn)
    content["dataset"]["uri"] = "gs://bucket/drawn"
    content["conversion"]["candidates"] = ["plain"]
    manifest = tmp_path / "shapes.yaml"
    manifest.write_text(yaml.safe_dump(content))
    execution = Execution(tmp_path / "execution", place.bucket)
    place.pipelines.on_create, place.pipelines.is_done = execution.start, execution.is_done

    code = gauntlet("submit", str(manifest), "--wait", "--registry", store, "--tracking", store)

    assert code == 0, (execution.folder / "log").read_text()
    assert "Promoted as version 1" in capsys.readouterr().out
    champion = open_registry(store).champion("shapes")
    assert champion is not None and champion.version == "1"
    [request] = place.api.requests("CreatePipelineJob")
    assert (
        champion.tags["manifest_sha256"]
        == request.pipeline_job.runtime_config.parameter_values["manifest_sha256"]
    )
