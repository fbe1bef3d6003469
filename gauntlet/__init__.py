"""Retrain, convert, prove and promote models: one manifest, one Kubeflow/Vertex pipeline.

The names in `__all__` are the public API. Each is imported when it is first used, so `import gauntlet` is
cheap, and the distribution `gauntlet-serving`, which has only some of them, can be imported too.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gauntlet.manifests.errors import DataError, GauntletError, UsageError
    from gauntlet.manifests.kinds import Metric, TaskKind, task_kind
    from gauntlet.manifests.loading import load_manifest
    from gauntlet.manifests.schema import Manifest
    from gauntlet.pipelines.local.run import FinishedRun, run
    from gauntlet.serving.bundle import open_model
    from gauntlet.serving.interface import Answer, Request

__all__ = [
    "Answer",
    "DataError",
    "FinishedRun",
    "GauntletError",
    "Manifest",
    "Metric",
    "Request",
    "TaskKind",
    "UsageError",
    "__version__",
    "load_manifest",
    "open_model",
    "run",
    "task_kind",
]
_MODULES = {
    "Answer": "serving.interface",
    "DataError": "manifests.errors",
    "FinishedRun": "pipelines.local.run",
    "GauntletError": "manifests.errors",
    "Manifest": "manifests.schema",
    "Metric": "manifests.kinds",
    "Request": "serving.interface",
    "TaskKind": "manifests.kinds",
    "UsageError": "manifests.errors",
    "load_manifest": "manifests.loading",
    "open_model": "serving.bundle",
    "run": "pipelines.local.run",
    "task_kind": "manifests.kinds",
}

# ONNX Runtime reports its use to its makers unless this is set when it is imported. Set 0 to let it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    __version__ = version("gauntlet")
except PackageNotFoundError:  # where models are only served
    __version__ = version("gauntlet-serving")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
