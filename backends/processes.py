"""The process of a step: what the pod's environment says about it, and how a process ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

PLATFORM_VARIABLE = "GAUNTLET_PLATFORM"
"""Compiling for Kubeflow sets this and the two below in the environment of its pods."""
KUBEFLOW = "kubeflow"
RUN_ID_VARIABLE = "GAUNTLET_RUN_ID"
"""The id of the pipeline run. As a parameter of train-model it would prevent every cache hit."""
STATES_VARIABLE = "GAUNTLET_STATES"
"""The folder on a persistent volume for training states, with one folder per run."""
TOKENS_VARIABLE = "GAUNTLET_TOKEN_CACHE"
"""The folder for token ids of splits, which trainings on one machine share."""

SQLITE = "sqlite:///"
SIGNAL_OFFSET = 128
"""A shell exits with this plus the signal's number when a signal ended its command."""


def how_ended(code: int) -> str:
    """An exit code in words: `was ended by SIGSEGV` or `ended with exit code 3`."""
    number = -code if code < 0 else code - SIGNAL_OFFSET
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"ended with exit code {code}"
    if number == signal.SIGKILL:
        return f"was ended by {name}, which the system sends when memory runs out, but others can send it too"
    return f"was ended by {name}"


def home_folder(registry_uri: str) -> Path:
    """`GAUNTLET_HOME`; in a step that is not told, the folder of the registry's database."""
    home = os.environ.get("GAUNTLET_HOME")
    if home is None and registry_uri.startswith(SQLITE):
        return Path(registry_uri.removeprefix(SQLITE)).parent
    return Path(home or ".gauntlet").absolute()
