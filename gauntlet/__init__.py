"""Retrain, convert, prove and promote models: one manifest, one Kubeflow/Vertex pipeline."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gauntlet")
except PackageNotFoundError:  # where models are only served
    __version__ = version("gauntlet-serving")
