"""A deployed model meets a change: alarm, labels, training, gate, canary, and a window that is healthy again.

python -m pytest -m acceptance -s tests/end_to_end/test_closed_loop.py
"""

from __future__ import annotations

import csv
import json
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow.dataset as ds
import pytest
import yaml

from gauntlet.backends.factory import open_registry
from gauntlet.backends.local.deployment import LocalGateway
from gauntlet.backends.rollouts import open_monitoring
from gauntlet.contracts.monitoring import MonitoringRecord
from gauntlet.pipelines.home import Home
from tests.conftest import CLASS_WORDS
from tests.end_to_end.conftest import System, manifest_content

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3000)]

SECONDS = 300
WINDOW_HOURS = 744
KNOWN, NEW = slice(0, 3), slice(3, 5)
"""The words of each class that the first training has seen, and those that people use later on."""


def rows(words: slice, count: int, start: int) -> list[tuple[str, str]]:
    """Distinct texts with their classes; no two have the same number, and all numbers have five digits."""
    draw = random.Random(start)
    labels = sorted(CLASS_WORDS)
    found = []
    for number in range(start, start + count):
        label = labels[number % len(labels)]
        some = draw.choices(CLASS_WORDS[label][words], k=draw.randint(3, 5))
        found.append((" ".join([*some, str(number)]), label))
    return found


@pytest.fixture
def system(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    monkeypatch.setenv("GAUNTLET_TRIGGER_COOL_DOWN_HOURS", "0")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    data, log = tmp_path / "data", tmp_path / "log"
    data.mkdir()
    lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows(KNOWN, 900, 50_000)]
    (data / "first.jsonl").write_text("".join(lines))
    content = manifest_content(tiny_encoder, data / "*.jsonl") | {
        "deployment": {
            "target": "local",
            "steps": [20, 100],
            "min_requests": 20,
            "min_seconds": 1,
            "keep_previous_seconds": 1,
            # the new version has learnt the change and answers otherwise; the machine has other work
            "tolerance": {"labels": 0.9, "slow": 0.95},
            "local": {"port": port, "request_log": str(log), "store": "full"},
        },
        "monitoring": {
            "log": str(log),
            "labels": str(tmp_path / "labels"),
            "rows": str(data),
            "window_hours": WINDOW_HOURS,
            "min_new_rows": 300,
        },
    }
    manifest = tmp_path / "tiny.yaml"
    manifest.write_text(yaml.safe_dump(content))
    home = Home(tmp_path / "home")
    yield System(manifest, home)
    LocalGateway(home.folder).end()


class Users:
    """Those who ask the deployed model, and people who label what was asked."""

    def __init__(self, system: System) -> None:
        content = yaml.safe_load(system.manifest.read_text())
        self.system = system
        self.log = Path(content["monitoring"]["log"])
        self.url = f"http://127.0.0.1:{content['deployment']['local']['port']}/predict"

    def ask(self, asked: Sequence[tuple[str, str]], name: str) -> float:
        """Ask each text, wait until all are in the log; the share that got another class than it has."""
        logged = self._logged(name)
        wrong = 0
        with httpx.Client(timeout=SECONDS) as client:
            for number, (text, label) in enumerate(asked):
                headers = {"X-Gauntlet-Event": f"{name}{number}"}
                answer = client.post(self.url, json={"instances": [text]}, headers=headers).raise_for_status()
                wrong += answer.json()["predictions"][0]["label"] != label
        ends = time.monotonic() + SECONDS
        while self._logged(name) < logged + len(asked):
            assert time.monotonic() < ends, "the rows were not logged"
            time.sleep(0.2)
        return wrong / len(asked)

    def _logged(self, name: str) -> int:
        parts = [str(part) for part in self.log.rglob("*.parquet")]
        if not parts:
            return 0
        events = ds.dataset(parts, format="parquet").to_table(columns=["event_id"])["event_id"].to_pylist()
        return sum(event.startswith(name) for event in events)

    def label(self, asked: Sequence[tuple[str, str]], name: str) -> None:
        file = self.system.manifest.parent / f"{name}.csv"
        with file.open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["event_id", "label"])
            table.writerows((f"{name}{number}-0", label) for number, (_, label) in enumerate(asked))
        done = self.system.gauntlet("label", "import", str(file), str(self.system.manifest))
        assert done.returncode == 0, done.stderr
        assert f"{len(asked)} new" in done.stdout, done.stdout

    @contextmanager
    def at_work(self, asked: Sequence[tuple[str, str]]) -> Iterator[None]:
        """Requests all the time, as a canary needs them; each must be answered."""
        is_over, failed = threading.Event(), []

        def work() -> None:
            with httpx.Client(timeout=SECONDS) as client:
                while not is_over.wait(0.02):
                    text, _ = random.choice(asked)
                    answer = client.post(self.url, json={"instances": [text]})
                    if answer.status_code != 200:
                        failed.append(answer.text)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
        assert not failed


def monitor(system: System) -> tuple[subprocess.CompletedProcess[str], MonitoringRecord]:
    """Judge the window that has everything of this test in it, and act."""
    at = datetime.now(UTC) + timedelta(hours=WINDOW_HOURS)
    done = system.gauntlet("monitor", str(system.manifest), "--at", at.isoformat())
    record, _ = open_monitoring("tiny", system.home.registry_uri).read()
    assert record is not None, done.stdout + done.stderr
    return done, record


def champion(system: System) -> Any:
    found = open_registry(system.home.registry_uri).champion("tiny")
    assert found is not None
    return found.version


def served(system: System) -> dict[str, int]:
    service = LocalGateway(system.home.folder).call("service", model="tiny")
    return {one["version"]: one["weight"] for one in service["revisions"] if one["weight"]}


def test_a_change_is_noticed_labelled_learnt_and_deployed_and_the_window_is_healthy_again(
    system: System,
) -> None:
    users = Users(system)
    first = system.gauntlet("run", str(system.manifest))
    assert first.returncode == 0, first.stdout + first.stderr
    assert served(system) == {"1": 100}
    usual, changed = rows(KNOWN, 300, 10_000), rows(NEW, 450, 20_000)

    assert users.ask(usual, "usual") < 0.05
    healthy, record = monitor(system)
    assert record.windows[-1].outcome == "none", healthy.stdout

    error = users.ask(changed, "changed")
    assert error > 0.3
    noticed, record = monitor(system)
    assert record.windows[-1].outcome in ("watch", "label"), noticed.stdout  # harm needs labels
    assert record.episode is None

    users.label(changed, "changed")
    with users.at_work(changed):
        cured, record = monitor(system)
    print(cured.stdout)
    assert cured.returncode == 0, cured.stdout + cured.stderr
    assert "retrain: " in cured.stdout
    assert champion(system) == "2"
    assert served(system) == {"2": 100}
    episode = record.episode
    assert episode is not None
    assert [one.progress for one in episode.attempts] == ["started"]
    assert episode.ended, episode
    assert not episode.for_people

    later = rows(NEW, 300, 30_000)
    assert users.ask(later, "later") < error / 3
    users.label(later, "later")
    after, record = monitor(system)
    assert record.windows[-1].version == "2"
    assert record.windows[-1].outcome in ("none", "watch"), after.stdout
    assert record.episode == episode
    assert champion(system) == "2"


def test_a_fault_of_the_log_is_investigated_and_no_training_is_asked_for(system: System) -> None:
    users = Users(system)
    first = system.gauntlet("run", str(system.manifest))
    assert first.returncode == 0, first.stdout + first.stderr
    changed = rows(NEW, 450, 20_000)
    users.ask(changed, "changed")
    users.ask(changed, "changed")  # a client that sends everything twice
    users.label(changed, "changed")
    found, record = monitor(system)
    assert record.windows[-1].outcome == "investigate", found.stdout
    assert record.episode is None
    assert champion(system) == "1"
