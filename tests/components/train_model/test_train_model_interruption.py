"""The component in a process of its own that is asked to end, as Vertex asks a spot machine's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gauntlet.components.step import ERROR_FILE
from gauntlet.tasks.text_classification.manifest import TextTraining

pytestmark = pytest.mark.usefixtures("warm_processes")
COMPONENT = """
import json, os, signal, sys
from types import SimpleNamespace
from gauntlet.components.train_model.component import train_model
from torch.optim.optimizer import register_optimizer_step_post_hook

folder, splits, training = sys.argv[1:]
register_optimizer_step_post_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
def at(name):
    return SimpleNamespace(path=folder + "/" + name, log_metric=lambda *_: None)
train_model.python_func(
    training=json.loads(training), name="tiny", task="text_classification", seed=1, tracking_uri="",
    splits_sha256="f" * 64,
    splits=SimpleNamespace(path=splits), checkpoint=at("checkpoint"), history=at("history"),
    curves=at("curves"), metrics=at("metrics"),
)
"""


def test_the_step_ends_with_143_on_sigterm_so_that_nothing_half_trained_is_handed_on(
    tiny_encoder: Path, tiny_splits: Path, tmp_path: Path
) -> None:
    step, states = tmp_path / "step", tmp_path / "states"
    section = TextTraining(encoder=str(tiny_encoder), epochs=2, batch_size=8)
    training = section.model_dump_json(exclude_none=True)
    done = subprocess.run(
        [sys.executable, "-c", COMPONENT, str(step), str(tiny_splits), training],
        env=os.environ | {"AIP_CHECKPOINT_DIR": str(states)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    error = json.loads((step / ERROR_FILE).read_text())
    assert error["exit_code"] == 143
    assert "ended by SIGTERM after step 1" in error["message"]
    assert [path.name for path in states.iterdir()] == ["epoch-0001-batch-000001"]
    assert not (step / "checkpoint").exists()
    assert "Traceback" not in done.stderr
