"""Settings and data with which any manifest of the kind trains in seconds, for `gauntlet smoke`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {
    "training.phase1_epochs": 1,
    "training.phase2_epochs": 1,
    "training.filters": [8, 8],
    "training.units": 16,
    "conversion.candidates": ["plain"],
    "conversion.pytorch": ["eager"],
}
SYNTHETIC = "synthetic://"
CARDS: dict[str, Any] = {
    "dataset.uri": f"{SYNTHETIC}cards?cards=160&seed=7",
    "dataset.shape": (66, 48),
    "dataset.checks.rows_per_class.severity": "warn",
    "dataset.checks.class_balance.severity": "warn",
}


def settings(manifest: Any, folder: Path, at_hand: bool) -> tuple[dict[str, Any], str]:  # noqa: ARG001
    """Manifest keys to set, and in words which cards are read: its own, or fewer, smaller synthetic ones."""
    if manifest.dataset.uri.startswith(SYNTHETIC):
        return CARDS | SETTINGS, "fewer cards"
    return (SETTINGS, "its own") if at_hand else (CARDS | SETTINGS, "drawn")
