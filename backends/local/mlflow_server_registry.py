"""The model registry of an MLflow server.

A bundle is an artifact of a run of its own in the experiment `gauntlet-bundles`. The server passes artifacts
on to where it keeps them, as `mlflow server` does by default, so nothing else needs credentials.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from gauntlet.backends.content_store import keep_evidence, read_evidence
from gauntlet.backends.local.mlflow_server import MlflowServer
from gauntlet.backends.local.registry import MlflowRegistry
from gauntlet.backends.registry import ModelVersion
from gauntlet.manifests.errors import GauntletError, UsageError

EXPERIMENT = "gauntlet-bundles"
SHA256_TAG = "gauntlet.bundle_sha256"
BUNDLE_FOLDER = "bundle"
EVIDENCE_FOLDER = "evidence"
RUN_QUERY = "?run="
"""In a version's `bundle_uri`, before the id of the run whose artifact the bundle is."""


class MlflowServerRegistry(MlflowRegistry):
    """A `Registry` on an MLflow server.

    The server has no lock and no conditional write. A move of aliases reads the champion, moves, and reads
    again: when another process moved it in between, that is an error. Two steps that register one bundle at
    the same moment may make two versions of it.
    """

    def __init__(self, server: MlflowServer) -> None:
        self._server = server

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

    def _keep(self, name: str, bundle: Path, sha256: str) -> str:
        """Upload the bundle, `bundle.json` last, so that a run that has that file has all of it."""
        from gauntlet.serving.bundle import BUNDLE_FILE, BundleError, read_info

        try:
            read_info(bundle)
        except BundleError as error:
            raise GauntletError(f"{error}. Convert the model again.") from None
        run = self._bundle_run(name, sha256)
        kept = {Path(file.path).name for file in self._client.list_artifacts(run.info.run_id, BUNDLE_FOLDER)}
        if BUNDLE_FILE not in kept:
            files = sorted(bundle.iterdir(), key=lambda file: file.name == BUNDLE_FILE)
            for file in files:
                self._client.log_artifact(run.info.run_id, str(file), BUNDLE_FOLDER)
            self._client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def _keep_evidence(self, name: str, kept: str, evidence: Mapping[str, Any]) -> str:  # noqa: ARG002
        with tempfile.TemporaryDirectory() as folder:
            sha256 = keep_evidence(Path(folder), evidence)
            [file] = Path(folder).iterdir()
            self._client.log_artifact(kept, str(file), EVIDENCE_FOLDER)
        return sha256

    def _read_evidence(self, version: ModelVersion, sha256: str) -> dict[str, Any]:
        run_id = version.bundle_uri.rpartition(RUN_QUERY)[2]
        with tempfile.TemporaryDirectory() as folder:
            with self._explained():
                self._client.download_artifacts(run_id, EVIDENCE_FOLDER, folder)
            try:
                return read_evidence(Path(folder, EVIDENCE_FOLDER), sha256)
            except GauntletError as error:
                raise GauntletError(str(error).replace(folder, self._where)) from None

    def _create(self, name: str, kept: str, tags: Mapping[str, str]) -> str:
        source = f"{self._client.get_run(kept).info.artifact_uri}/{BUNDLE_FOLDER}"
        made = self._client.create_model_version(name, source, run_id=kept, tags=dict(tags))
        return str(made.version)

    def _bundle_uri(self, version: Any) -> str:
        return f"{self._where}{RUN_QUERY}{version.run_id}"

    def _bundle_run(self, name: str, sha256: str) -> Any:
        experiment = self._server.experiment_id(EXPERIMENT)
        found = self._client.search_runs([experiment], f"tags.`{SHA256_TAG}` = '{sha256}'", max_results=1)
        if found:
            return found[0]
        return self._client.create_run(
            experiment, tags={SHA256_TAG: sha256}, run_name=f"{name}-{sha256[:12]}"
        )


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
    """Everything that a search of MLflow's finds, which it gives a page at a time."""
    found: list[Any] = []
    token = None
    while True:
        page = search(token)
        found.extend(page)
        token = page.token
        if not token:
            return found


def download_bundle(bundle_uri: str, folder: Path) -> Path:
    """Copy a version's bundle into `folder`, and return where its files are.

    Raises:
        UsageError: The server has the bundle no more, or refuses this account.
        GauntletError: The server is unavailable.
    """
    from mlflow.exceptions import MlflowException

    uri, _, run_id = bundle_uri.rpartition(RUN_QUERY)
    server = MlflowServer(uri, "bundle")
    with server.explained():
        try:
            there = server.client.list_artifacts(run_id, BUNDLE_FOLDER)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            there = []
        if not there:
            raise UsageError(f"{bundle_uri}: the server has no such bundle. Restore it from a copy.")
        return Path(server.client.download_artifacts(run_id, BUNDLE_FOLDER, str(folder)))
