"""On Google Cloud itself, for who has a project: `pytest -m live`, with the variables of
docs/how-to/run_on_vertex.md set.

The authors had none, so these were never run.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.pipelines.test_cli import ROOT, SAMPLE, gauntlet

NEEDED = ("GAUNTLET_PROJECT", "GAUNTLET_REGION", "GAUNTLET_ROOT", "GAUNTLET_REGISTRY")
IMAGES = ("GAUNTLET_COMPONENTS_IMAGE", "GAUNTLET_TRAINER_IMAGE")

pytestmark = [pytest.mark.live, pytest.mark.timeout(3600)]


@pytest.fixture(autouse=True)
def project() -> None:
    missing = [name for name in (*NEEDED, *IMAGES) if name not in os.environ]
    if missing:
        pytest.skip(f"{', '.join(missing)} not set")


def test_a_dry_run_finds_everything_in_place() -> None:
    assert gauntlet("submit", SAMPLE, "--dry-run") == 0


def test_the_sample_goes_from_data_to_a_promoted_model(own_home: Path) -> None:
    assert gauntlet("submit", SAMPLE, "--wait") == 0
    assert gauntlet("logs", "latest", "--step", "train-model") == 0


def test_a_run_is_cancelled() -> None:
    assert gauntlet("submit", SAMPLE) == 0
    assert gauntlet("cancel", "latest") == 0


def test_schedules_are_compared_with_those_that_are_there() -> None:
    assert gauntlet("schedule", "apply", str(ROOT / "schedules.yaml"), "--diff") == 0
