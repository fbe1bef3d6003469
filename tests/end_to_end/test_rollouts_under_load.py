"""Deployments and rollbacks on this machine while requests come at a constant rate: none fails.

python -m pytest -m acceptance -s tests/end_to_end/test_rollouts_under_load.py
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployed import Deployed, body_of, middle, table, texts

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1200)]

DEPLOYMENTS, ROLLBACKS, INTERRUPTED = 25, 10, 5
RATE = 250.0
FEWEST_REQUESTS = 100_000
SETTINGS = {
    "steps": [10, 50, 100],
    "min_requests": 60,
    "min_seconds": 1,
    "keep_previous_seconds": 0,
    "shadow_share": 0.1,
    "tolerance": {"slow": 0.95},  # the versions are equal, and the machine may have other work
}
BODIES = [
    body_of(rows) for rows in (*([one] for one in texts(1, 60)), *(texts(seed, 3) for seed in range(9)))
]


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    one = Deployed(tmp_path / "home", SETTINGS)
    for number in range(DEPLOYMENTS + INTERRUPTED + 1):
        one.add(1 + number / 50)
    yield one
    one.gateway.end()


def test_no_request_fails_or_is_answered_wrongly_over_deployments_and_rollbacks(deployed: Deployed) -> None:
    """Every fifth version is rolled back after its rollout, and a version before it within its rollout."""
    first, *others = deployed.versions
    deployed.registry.promote("moods", first.version)
    assert deployed.gauntlet("deploy", str(deployed.manifest))[0] == 0
    serves = first.version
    took: dict[str, list[float]] = {"deploy": [], "rollback": [], "rollback within": []}

    def roll_back(kind: str, to: str) -> None:
        started = time.monotonic()
        code, said = deployed.gauntlet("rollback", "moods", "--by", "ada", "--reason", "a rehearsal")
        took[kind].append(time.monotonic() - started)
        assert code == 0, said
        assert deployed.shares() == {to: 100}
        assert deployed.champion() == to

    with deployed.load(RATE, BODIES) as load:
        for number, version in enumerate(others):
            before = serves
            deployed.registry.promote("moods", version.version)
            if number % 6 == 5:  # a rollback ends a rollout that is going on
                with deployed.start("deploy", str(deployed.manifest)) as process:
                    while deployed.shares() != {before: 90, version.version: 10}:
                        assert process.poll() is None
                        time.sleep(0.05)
                    roll_back("rollback within", before)
                    said, _ = process.communicate()
                    assert process.returncode != 0, said
                continue
            started = time.monotonic()
            code, said = deployed.gauntlet("deploy", str(deployed.manifest))
            took["deploy"].append(time.monotonic() - started)
            assert code == 0, said
            assert deployed.shares() == {version.version: 100}
            serves = version.version
            if number % 6 == 4:
                roll_back("rollback", before)
                serves = before
        while load.answers < FEWEST_REQUESTS:
            time.sleep(0.05)
    print(
        table(
            "Rollouts under constant load",
            ("deployments", "rollbacks", "requests", "per second", "failed", "wrong", "s per deployment",
             "s per rollback", "s per rollback within a rollout"),
            [(len(took["deploy"]), len(took["rollback"]) + len(took["rollback within"]), load.requests,
              f"{load.requests / load.outcome.seconds:.0f}", load.failures, len(load.wrong),
              *(middle(one) for one in took.values()))],
        )
    )  # fmt: skip
    assert len(took["deploy"]) == DEPLOYMENTS
    assert len(took["rollback"]) + len(took["rollback within"]) == ROLLBACKS
    assert load.requests >= FEWEST_REQUESTS
    assert set(load.outcome.statuses) == {"200"}, (load.outcome.statuses, load.wrong[:3])
    assert len(load.answered) == len(deployed.versions)  # every bundle has answered some
