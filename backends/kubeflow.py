"""What a step can know about the pod that it runs in, by variables that compiling for Kubeflow sets."""

from __future__ import annotations

import os

from gauntlet.manifests.errors import UsageError

PLATFORM_VARIABLE = "GAUNTLET_PLATFORM"
KUBEFLOW = "kubeflow"
RUN_ID_VARIABLE = "GAUNTLET_RUN_ID"
"""The id of the pipeline's run. No parameter of train-model has it, since its cached result would be lost."""
STATES_VARIABLE = "GAUNTLET_STATES"
"""The folder on a persistent volume that training states are kept in, one folder per run."""


def require_outliving_pods(uri: str, setting: str) -> None:
    """Refuse a database that lies in a pod and is deleted with it.

    Raises:
        UsageError: This is a pod of Kubeflow's, and the URI names a SQLite file.
    """
    if os.environ.get(PLATFORM_VARIABLE) == KUBEFLOW and uri.startswith("sqlite:"):
        raise UsageError(
            f"{setting}: found {uri!r}, a file that is deleted with this pod, expected a server. Start the "
            "run with mlflow+https://HOST or mlflow+http://HOST:PORT, or with vertex://PROJECT/LOCATION?…."
        )
