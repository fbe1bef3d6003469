"""Weights & Biases beside MLflow; the tests that need it are skipped where it is not installed."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gauntlet.backends.factory import open_tracking


def test_without_wandb_there_is_one_warning_and_mlflow_has_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # what Python keeps of a module that is not there
    with open_tracking("", "emotion", "run", {}, wandb_project="moods") as run:
        run.log_params({"epochs": "1"})
        run.log_metrics({"macro_f1": 0.5}, step=1)
        run.log_text("history.json", "{}")
    assert capsys.readouterr().err == (
        "warning: tracking with Weights & Biases stopped: training.tracking.wandb: "
        "wandb is not installed. `pip install wandb`, or remove the key.\n"
    )


needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb is an extra, and is not installed"
)
TRACKED = """
from gauntlet.backends.factory import open_tracking

with open_tracking("", "emotion", "emotion-1", {"task": "text_classification"}, wandb_project="moods") as run:
    run.log_params({"learning_rate": "0.0001"})
    run.log_metrics({"step/loss": 0.75, "step/learning_rate": 1e-4}, step=1)
    run.log_metrics({"step/loss": 0.5}, step=2)
    run.log_metrics({"macro_f1": 0.875}, step=1)
    run.log_text("history.json", "{}")
print("trained")
"""
BLOCK = 32_768  # LevelDB's log format, which wandb writes: a header of 7 bytes, then blocks of chunks


def records(file: Path) -> Iterator[Any]:
    """What an offline run wrote, as wandb's own messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, waiting = file.read_bytes(), 7, b""
    while at < len(content):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        waiting += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole message, or the last part of one
            yield Record.FromString(waiting)
            waiting = b""


@needs_wandb
def test_an_offline_run_holds_each_metric_over_its_own_axis(tmp_path: Path) -> None:
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", TRACKED], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("trained\n", "", 0)
    [file] = tmp_path.glob("wandb/offline-run-*/*.wandb")
    found = list(records(file))
    [run] = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.run_group, run.display_name) == ("moods", "emotion", "emotion-1")
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]
    shown = [{key: value for key, value in row.items() if key[0] != "_"} for row in rows]
    assert shown == [
        {"step/loss": 0.75, "step/learning_rate": 1e-4, "optimizer_step": 1},
        {"step/loss": 0.5, "optimizer_step": 2},
        {"macro_f1": 0.875, "epoch": 1},
    ]
    axes = {record.metric.name: record.metric.step_metric for record in found if record.metric.name}
    assert axes["step/loss"] == "optimizer_step"
    assert axes["macro_f1"] == "epoch"
    [kept] = tmp_path.glob("wandb/offline-run-*/files/history.json")
    assert kept.read_text() == "{}"


@needs_wandb
def test_nobody_logged_in_costs_a_warning_and_no_question_even_at_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", TRACKED],
        env=environment | {"HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)},
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=60,
        check=False,
    )
    assert done.stdout == b"trained\n"
    said = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert "not logged in to Weights & Biases" in said
    assert "Enter your choice" not in said
