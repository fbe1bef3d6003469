"""A small share of what `make fuzz` feeds: every damaged input ends in success or in one clean error."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from gauntlet.manifests.errors import DataError
from tests.fuzz import run
from tests.fuzz.run import attempt
from tests.fuzz.targets import TARGETS, Target, no_file

SHARE = 12


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_inputs_end_in_success_or_one_clean_error(
    target: Target, tmp_path: Path, own_home: Path
) -> None:
    prepared = target.prepare(tmp_path)
    for number in range(SHARE):
        folder = tmp_path / f"input-{number}"
        folder.mkdir()
        fault = attempt(target, number, folder, prepared)
        assert fault is None, (
            f"python -m tests.fuzz.run --target {target.name} --first {number} --inputs 1\n{fault}"
        )


def test_a_bug_a_panic_and_a_hang_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def feeding(ends: Any) -> Target:
        def feed(draw: random.Random, folder: Path, prepared: Any) -> None:
            raise ends

        return Target("failing", no_file, feed)

    def wait(draw: random.Random, folder: Path, prepared: Any) -> None:
        while True:
            time.sleep(0.01)

    assert "KeyError: 'bug'" in str(attempt(feeding(KeyError("bug")), 0, tmp_path, None))
    assert "PanicException" in str(attempt(feeding(PanicException()), 0, tmp_path, None))
    assert "DataError" in str(attempt(feeding(DataError("not caught by its target")), 0, tmp_path, None))
    monkeypatch.setattr(run, "WALL_SECONDS", 0.2)
    assert "Hang" in str(attempt(Target("waiting", no_file, wait), 0, tmp_path, None))
