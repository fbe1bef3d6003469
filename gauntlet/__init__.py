"""Retrain, convert, prove and promote models: one manifest, one Kubeflow/Vertex pipeline."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("gauntlet")
