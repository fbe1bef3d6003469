"""Processes of a rollout on this machine are killed at random moments: a rerun leaves all consistent.

python -m pytest -m acceptance -s tests/end_to_end/test_killed_processes.py
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from gauntlet.contracts.rollout import ENDED
from tests.deployed import MODEL, Deployed, body_of, middle, table, texts

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1200)]

KILLS = {"gateway": 13, "old server": 12, "new server": 13, "rollout": 12}
RATE = 100.0
SETTINGS = {
    "steps": [10, 50, 100],
    "min_requests": 20,
    "min_seconds": 1,
    "keep_previous_seconds": 1,
}
BODIES = [body_of([one]) for one in texts(5, 50)]
MOST_RERUNS = 2
ROLLED_BACK = 3


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    one = Deployed(tmp_path / "home", SETTINGS)
    for factor in (1.0, 1.1):
        one.add(factor)
    one.registry.promote(MODEL, "1")
    assert one.gauntlet("deploy", str(one.manifest))[0] == 0
    yield one
    one.gateway.end()


def kill(deployed: Deployed, victim: str, rollout: subprocess.Popen[str], old: str) -> str:
    """Kill a process if it is there; what the record said then."""
    phase = deployed.rollout().phase
    if victim == "rollout":
        if rollout.poll() is not None:
            return ""
        rollout.kill()
        return phase
    pid = int((deployed.gateway.folder / "lock").read_text())
    processes = [psutil.Process(pid)]
    if victim != "gateway":
        processes = [
            one
            for one in processes[0].children()
            if (f'"version": "{old}"' in one.cmdline()[-1]) == (victim == "old server")
        ]
    for one in processes:
        one.send_signal(signal.SIGKILL)
    return phase if processes else ""


def is_consistent(deployed: Deployed) -> list[str]:
    """What the record, the alias, the gateway and its state file say, if they differ."""
    rollout, shares = deployed.rollout(), deployed.shares()
    serves = rollout.version if rollout.phase == "done" else rollout.previous_version
    saved = json.loads((deployed.gateway.folder / "state.json").read_text())["models"][MODEL]
    versions = {one["id"]: one["version"] for one in saved["revisions"]}
    in_file = {versions[one]: weight for one, weight in saved["weights"].items() if weight}
    found = {
        "the record": {serves: 100} if rollout.phase in ENDED else rollout.phase,
        "the gateway": shares,
        "its file": in_file,
        "the alias": {deployed.champion(): 100},
    }
    return [] if len({str(one) for one in found.values()}) == 1 else [str(found)]


@pytest.mark.parametrize("victim", KILLS)
def test_a_rerun_after_a_kill_leaves_all_consistent(deployed: Deployed, victim: str) -> None:
    seed = sum(victim.encode())
    drawn = random.Random(seed)
    phases: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    faults, seconds, reruns, longest = [], [], 0, 11.0
    print(f"\n{victim}: seed {seed}")
    with deployed.load(RATE, BODIES) as load:
        while phases.total() < KILLS[victim]:
            old = next(iter(deployed.shares()))
            new = "2" if old == "1" else "1"
            deployed.registry.promote(MODEL, new)
            command = ("deploy", str(deployed.manifest), "--version", new, "--again")
            at = drawn.uniform(1.0, longest)
            with deployed.start(*command) as process:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(at)
                phase = ""
                with suppress(psutil.NoSuchProcess):
                    phase = kill(deployed, victim, process, old)
                killed = time.monotonic()
                said, _ = process.communicate()
            code = process.returncode
            for _ in range(MOST_RERUNS):
                if code in (0, ROLLED_BACK):
                    break
                code, said = deployed.gauntlet(*command[:-1])
                reruns += 1
            if phase:
                phases[phase] += 1
                seconds.append(time.monotonic() - killed)
                ended[deployed.rollout().phase] += 1
            with deployed.load(RATE, BODIES) as after:
                time.sleep(0.3)
            print(f"  {at:4.1f} s, {phase or 'no such process'}: exit code {code}", flush=True)
            faults += [
                f"after {at:.2f} s, in phase {phase!r}: {one}"
                for one in (
                    *is_consistent(deployed),
                    *(() if code in (0, ROLLED_BACK) else (said,)),
                    *(() if set(after.outcome.statuses) == {"200"} else (str(after.outcome.statuses),)),
                )
            ]
    lost = load.requests - load.outcome.statuses["200"]
    print(
        table(
            f"The {victim} is killed",
            ("times", "in the phases", "ended", "reruns", "s until it had ended", "requests", "lost"),
            [(phases.total(), dict(phases), dict(ended), reruns, middle(seconds), load.requests, lost)],
        )
    )
    assert not faults, "\n".join(faults)
    assert load.outcome.statuses["wrong answer"] == 0, load.wrong[:3]
