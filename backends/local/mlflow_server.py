"""An MLflow server as registry and tracking server: for pods, whose own files are deleted with them.

The address is `mlflow+https://HOST[:PORT][/PATH]` or `mlflow+http://…`. Who may use it is for MLflow's own
variables to say: `MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`; and
`MLFLOW_TRACKING_SERVER_CERT_PATH` for a certificate of one's own. https://mlflow.org/docs/latest/self-hosting/
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from gauntlet.backends.local.mlflow_database import set_environment
from gauntlet.manifests.errors import GauntletError, UsageError

SCHEMES = ("mlflow+http://", "mlflow+https://")
EXAMPLE = "mlflow+https://HOST"

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",  # MLflow's own seven, each after twice the time, take minutes
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""A value that the user has set stays."""


class MlflowServer:
    """One server, by its URI."""

    def __init__(self, uri: str, setting: str) -> None:
        """Read the URI; nothing is asked yet.

        Args:
            uri: Such as `mlflow+https://mlflow.example.com/path`.
            setting: What the URI was given for, as an error is to name it.

        Raises:
            UsageError: It names no server, or holds a password.
        """
        try:
            parts = urlsplit(uri)
            is_sound = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
        except ValueError:  # no address, or no port
            raise UsageError(f"{setting}: found {uri!r}, expected {EXAMPLE}[:PORT][/PATH].") from None
        if parts.username is not None or parts.password is not None:
            raise UsageError(
                f"{setting}: found a name or a password in the URI of {parts.hostname}, expected "
                f"{EXAMPLE}[:PORT][/PATH]. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN, instead."
            )
        if not is_sound:
            raise UsageError(f"{setting}: found {uri!r}, expected {EXAMPLE}[:PORT][/PATH].")
        self.uri = uri.rstrip("/")

    @cached_property
    def client(self) -> Any:
        """MLflow's client of the server."""
        _prepare()
        from mlflow import MlflowClient

        url = self.uri.removeprefix("mlflow+")
        return MlflowClient(tracking_uri=url, registry_uri=url)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn a failure of the server, or of the way there, into one message.

        Raises:
            UsageError: The server refuses this account.
            GauntletError: The server is unavailable, or refuses for another reason.
        """
        _prepare()
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        try:
            yield
        except (MlflowException, RequestException) as error:
            cause = str(error).partition("\n")[0]
            if _is_refusal(error):
                raise UsageError(
                    f"{self.uri}: refuses this account ({cause}). Set MLFLOW_TRACKING_USERNAME and "
                    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, of one that may do it."
                ) from error
            raise GauntletError(
                f"{self.uri}: {cause}. Look whether the server is running, then run this again."
            ) from error

    def experiment_id(self, name: str) -> str:
        """The id of an experiment, which is created if it does not exist."""
        from mlflow.exceptions import MlflowException

        client = self.client
        known = client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(client.create_experiment(name))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            known = client.get_experiment_by_name(name)  # another process has made it in the meantime
        return str(known.experiment_id)


def _prepare() -> None:
    """Set MLflow's variables, which it reads when it is first imported and when it first asks a server."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    set_environment()


def _is_refusal(error: Exception) -> bool:
    response = getattr(error, "response", None)  # artifacts come by plain requests
    if response is not None:
        return response.status_code in (401, 403)
    return getattr(error, "error_code", "") in ("PERMISSION_DENIED", "UNAUTHENTICATED")
