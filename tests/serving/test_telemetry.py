"""ONNX Runtime reports its use over the network by default; a model that is converted or served must not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import importlib, importlib.abc, os, sys

class Look(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            print("ORT_DISABLE_TELEMETRY is", os.environ.get("ORT_DISABLE_TELEMETRY"))

sys.meta_path.insert(0, Look())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize(
    "module",
    [
        "gauntlet.serving.bundle",
        "gauntlet.serving.generation",
        "gauntlet.components.convert_to_onnx.run",
        "gauntlet.tasks.causal_lm.decoder",
    ],
)
@pytest.mark.parametrize(("given", "found"), [({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")])
def test_telemetry_is_off_when_onnxruntime_is_imported_unless_somebody_wants_it(
    module: str, given: dict[str, str], found: str
) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module],
        cwd=Path(__file__).parents[2],
        env=environment | given,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [f"ORT_DISABLE_TELEMETRY is {found}"]
