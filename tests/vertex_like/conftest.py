"""A project of Google Cloud on loopback whose pipeline jobs are run as Vertex AI runs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from google.cloud import aiplatform_v1 as vertex

from tests.fakes.cloud import FakeCloud
from tests.pipelines.test_cli import gauntlet
from tests.vertex_like.machine import Machine
from tests.vertex_like.network import Network
from tests.vertex_like.pipeline_run import Interruption, PipelineRun
from tests.vertex_like.requirements import missing

REPOSITORY = Path(__file__).parents[2]
REGISTRY = f"vertex://demo/{FakeCloud.LOCATION}?staging=gs://bucket/gauntlet"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        if reason and item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(frozen=True)
class VertexLike:
    """The project, and the machine that its containers run on."""

    cloud: FakeCloud
    machine: Machine

    def submit(self, manifest: Path, *overrides: str) -> vertex.PipelineJob:
        """What `gauntlet submit` makes of a manifest, as the service has it."""
        options = [part for override in overrides for part in ("--set", override)]
        assert gauntlet("submit", str(manifest), *options) == 0
        asked = self.cloud.api.requests("CreatePipelineJob")[-1]
        job: vertex.PipelineJob = self.cloud.resources.get(
            f"{asked.parent}/pipelineJobs/{asked.pipeline_job_id}"
        )
        return job

    def run(self, job: vertex.PipelineJob, interruptions: Sequence[Interruption] = ()) -> PipelineRun:
        """The job, to be executed."""
        return PipelineRun(job, self.machine, self.cloud.bucket, self.cloud.jobs, interruptions)


@pytest.fixture
def machine(cloud: FakeCloud, tmp_path: Path) -> Iterator[Machine]:
    """A machine whose containers are clients of the fakes."""
    urls = (cloud.bucket.url, cloud.proxy.url)
    network = Network([urlsplit(url).port or 0 for url in urls])
    keys = Path(cloud.environment["GOOGLE_APPLICATION_CREDENTIALS"]).parent
    keys.chmod(0o755)  # for the user of the containers
    storage = f'{{"token": "anon", "endpoint_url": "{cloud.bucket.url}"}}'
    variables = {
        **cloud.environment,
        "FSSPEC_GS": storage,
        "PYTHONPATH": str(REPOSITORY),  # in an image it is installed
        "HF_HUB_OFFLINE": "1",
    }
    yield Machine(tmp_path / "machine", cloud.bucket.url, network, (REPOSITORY, keys), variables)
    network.close()


@pytest.fixture
def vertex_like(place: FakeCloud, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> VertexLike:
    monkeypatch.setenv("GAUNTLET_REGISTRY", REGISTRY)
    return VertexLike(place, machine)
