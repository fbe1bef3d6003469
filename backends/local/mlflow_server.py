"""An MLflow server, and its model registry. Pods use one, because their own files are deleted with them.

The address is `mlflow+https://HOST[:PORT][/PATH]` or `mlflow+http://…`. MLflow's own variables hold the
credentials: `MLFLOW_TRACKING_TOKEN`, or `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`; and
`MLFLOW_TRACKING_SERVER_CERT_PATH` for a private certificate. https://mlflow.org/docs/latest/self-hosting/

A bundle is an artifact of a run of its own in the experiment `gauntlet-bundles`. The server itself reads and
writes its artifact store, as `mlflow server` does by default, so clients need no credentials for that store.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gauntlet.backends.content_store import read_evidence, require_complete, store_evidence
from gauntlet.backends.local.mlflow_database import set_environment
from gauntlet.backends.local.registry import MlflowRegistry
from gauntlet.backends.registry import ModelVersion
from gauntlet.manifests.errors import GauntletError, UsageError

ADDRESS = "mlflow+https://HOST[:PORT][/PATH]"

EXPERIMENT = "gauntlet-bundles"
SHA256_TAG = "gauntlet.bundle_sha256"
BUNDLE_FOLDER = "bundle"
EVIDENCE_FOLDER = "evidence"
RUN_QUERY = "?run="
"""In a version's `bundle_uri`, before the id of the run that has the bundle as an artifact."""

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",  # MLflow's default of 7, with exponential backoff, takes minutes
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""A value that the user has set has priority."""


class MlflowServer:
    """One server, by its URI."""

    def __init__(self, uri: str, setting: str) -> None:
        """Check the URI; nothing is asked yet. Errors name the `setting` that it was given for.

        Raises:
            UsageError: It is not the address of a server, or has a password in it.
        """
        not_valid = UsageError(f"{setting}: found {uri!r}, expected {ADDRESS}.")
        try:
            parts = urlsplit(uri)
            is_valid = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
        except ValueError:  # invalid brackets, or a port that is not a number
            raise not_valid from None
        if parts.username is not None or parts.password is not None:
            raise UsageError(
                f"{setting}: found a name or a password in the URI of {parts.hostname}, expected "
                f"{ADDRESS}. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN, instead."
            )
        if not is_valid:
            raise not_valid
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
        """Turn a failure into a `GauntletError`; a `UsageError` if the server refuses this account."""
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
                    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, of an account with that permission."
                ) from error
            raise GauntletError(
                f"{self.uri}: {cause}. Check that the server is running, then run this again."
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
            known = client.get_experiment_by_name(name)  # another process has created it since
        return str(known.experiment_id)


def _prepare() -> None:
    """Set MLflow's variables. It reads them when it is first imported and at its first request."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    set_environment()


def _is_refusal(error: Exception) -> bool:
    response = getattr(error, "response", None)  # artifacts are requested without MLflow's own exceptions
    if response is not None:
        return response.status_code in (401, 403)
    return getattr(error, "error_code", "") in ("PERMISSION_DENIED", "UNAUTHENTICATED")


class MlflowServerRegistry(MlflowRegistry):
    """A `Registry` on an MLflow server.

    The server has no lock and no conditional write. A promotion reads the champion, moves the aliases, and
    reads again; it is an error if another process moved them in between. Two steps that register one bundle
    at the same moment may create two versions of it.
    """

    def __init__(self, uri: str) -> None:
        """Check the URI, as `MlflowServer` does."""
        self._server = MlflowServer(uri, "registry URI")

    @property
    def _where(self) -> str:
        return self._server.uri

    @property
    def _client(self) -> Any:
        return self._server.client

    @property
    def _reader(self) -> ServerReader:
        return ServerReader(self._server.client)

    def _explained(self) -> AbstractContextManager[None]:
        return self._server.explained()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._server.explained():
            yield

    def _store(self, name: str, bundle: Path, sha256: str) -> str:
        """Upload the bundle with `bundle.json` last, so a run that has that file has the whole bundle."""
        from gauntlet.serving.bundle import BUNDLE_FILE

        require_complete(bundle)
        run = self._bundle_run(name, sha256)
        stored = self._client.list_artifacts(run.info.run_id, BUNDLE_FOLDER)
        if BUNDLE_FILE not in {Path(file.path).name for file in stored}:
            for file in sorted(bundle.iterdir(), key=lambda file: file.name == BUNDLE_FILE):
                self._client.log_artifact(run.info.run_id, str(file), BUNDLE_FOLDER)
            self._client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def _store_evidence(self, name: str, stored: str, evidence: Mapping[str, Any]) -> str:  # noqa: ARG002
        with tempfile.TemporaryDirectory() as folder:
            sha256 = store_evidence(folder, evidence)
            [file] = Path(folder).iterdir()
            self._client.log_artifact(stored, str(file), EVIDENCE_FOLDER)
        return sha256

    def _read_evidence(self, version: ModelVersion, sha256: str) -> dict[str, Any]:
        run_id = version.bundle_uri.rpartition(RUN_QUERY)[2]
        with tempfile.TemporaryDirectory() as folder:
            with self._explained():
                self._client.download_artifacts(run_id, EVIDENCE_FOLDER, folder)
            try:
                return read_evidence(f"{folder}/{EVIDENCE_FOLDER}", sha256)
            except GauntletError as error:
                raise GauntletError(str(error).replace(folder, self._where)) from None

    def _new_version(self, name: str, stored: str, tags: Mapping[str, str]) -> str:
        source = f"{self._client.get_run(stored).info.artifact_uri}/{BUNDLE_FOLDER}"
        made = self._client.create_model_version(name, source, run_id=stored, tags=dict(tags))
        return str(made.version)

    def _bundle_uri(self, version: Any) -> str:
        return f"{self._where}{RUN_QUERY}{version.run_id}"

    def _bundle_run(self, name: str, sha256: str) -> Any:
        experiment = self._server.experiment_id(EXPERIMENT)
        found = self._client.search_runs([experiment], f"tags.`{SHA256_TAG}` = '{sha256}'", max_results=1)
        if found:
            return found[0]
        run_name = f"{name}-{sha256[:12]}"
        return self._client.create_run(experiment, tags={SHA256_TAG: sha256}, run_name=run_name)


class ServerReader:
    """Reads the model registry of a server as `DatabaseReader` reads that of a database."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def names(self) -> list[str]:
        """The names of all models."""
        models = all_pages(lambda token: self._client.search_registered_models(page_token=token))
        return [model.name for model in models]

    def model(self, name: str) -> Any:
        """MLflow's registered model with its aliases and tags, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def versions(self, name: str, number: str | None = None) -> list[Any]:
        """All versions of a model, or the one with a number."""
        if number is not None:
            return [self._client.get_model_version(name, number)]
        return all_pages(lambda token: self._client.search_model_versions(f"name='{name}'", page_token=token))


def all_pages(search: Callable[[str | None], Any]) -> list[Any]:
    """Everything that a search of MLflow finds, which returns a page at a time."""
    page = search(None)
    found = list(page)
    while page.token:
        page = search(page.token)
        found += page
    return found


def download_bundle(bundle_uri: str, folder: Path) -> Path:
    """Copy a version's bundle into `folder`, and return the folder with its files.

    Raises:
        UsageError: The server does not have the bundle any more, or refuses this account.
        GauntletError: The server is unavailable.
    """
    from mlflow.exceptions import MlflowException

    uri, _, run_id = bundle_uri.rpartition(RUN_QUERY)
    server = MlflowServer(uri, "bundle")
    with server.explained():
        try:
            files = server.client.list_artifacts(run_id, BUNDLE_FOLDER)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            files = []
        if not files:
            raise UsageError(f"{bundle_uri}: the server has no such bundle. Restore it from a copy.")
        return Path(server.client.download_artifacts(run_id, BUNDLE_FOLDER, str(folder)))
