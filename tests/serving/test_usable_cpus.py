from __future__ import annotations

import os
from pathlib import Path

import pytest

from gauntlet.serving.cpu import usable_cpus


@pytest.fixture
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 4),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("900000 100000", 4),
    ],
)
def test_a_container_quota_cuts_the_cpus_rounding_up(
    tmp_path: Path, four_cpus: None, quota: str, expected: int
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(f"{quota}\n")
    assert usable_cpus(file) == expected


def test_without_a_quota_the_affinity_counts(tmp_path: Path, four_cpus: None) -> None:
    assert usable_cpus(tmp_path / "absent") == 4
