"""The local registry: MLflow's model registry on SQLite, with the bundles in a folder next to the database.

`mlflow_server.MlflowServerRegistry` has the same on a server. It overrides what differs: where bundles are
stored, the lock, and the messages of failures (`_where` to `_client`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from gauntlet.backends.content_store import read_evidence, require_bundle, store_bundle, store_evidence
from gauntlet.backends.local.mlflow_database import (
    DatabaseReader,
    database_path,
    explained,
    locked,
    open_client,
)
from gauntlet.backends.registry import (
    BUNDLE_TAG,
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    PROMOTED_TAG,
    RUN_TAG,
    TURNS_TAG,
    AnswerScores,
    Approval,
    ModelVersion,
    Registry,
    Scores,
    now,
    unknown_model,
    version_of_bundle,
    with_number,
    with_turn,
)

_MOVE_TAG = "gauntlet.move"
"""A tag on a model while its aliases are being moved: the move, so that the next call can complete it."""


class MlflowRegistry(Registry):
    """A `Registry` on a SQLite database that MLflow can show, with the bundles in `models/` next to it.

    Reading does not create a database, so a first run does not wait for one only to learn that there is no
    champion. Writing holds a lock. A model that has had a champion has one at every moment, even if a process
    dies during a move.
    """

    def __init__(self, uri: str) -> None:
        """Check the URI, or raise a `UsageError` if it is no SQLite file that outlives this process."""
        self._database = database_path(uri, "registry URI")

    # --- reading ---

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """None also for a name that MLflow does not accept."""
        with self._explained():
            model = self._reader.model(name)
            if model is None or alias not in model.aliases:
                return None
            [version] = self._reader.versions(name, str(model.aliases[alias]))
            return self._describe(model, version)

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions by descending number."""
        with self._explained():
            model = self._reader.model(name)
            if model is None:
                raise unknown_model(name, self._where, self.names())
            described = [self._describe(model, version) for version in self._reader.versions(name)]
        return sorted(described, key=lambda version: int(version.version), reverse=True)

    def names(self) -> list[str]:
        """Empty when there is no database."""
        with self._explained():
            return sorted(self._reader.names())

    # --- writing ---

    def _create(
        self,
        name: str,
        stored: str,
        tags: Mapping[str, str],
        scores: Scores | AnswerScores | None,  # noqa: ARG002
    ) -> ModelVersion:
        """MLflow's registry has no place for the scores except the tags; the run's report has them all."""
        if self._reader.model(name) is None:
            self._client.create_registered_model(name)
        known, _ = version_of_bundle(self.versions(name), tags[BUNDLE_TAG], tags[RUN_TAG])
        number = known.version if known else self._new_version(name, stored, tags)
        return with_number(name, self.versions(name), number)

    # --- moving aliases ---

    def _require_bundle(self, version: ModelVersion, alias: str) -> None:
        require_bundle(version, alias)

    def _set_alias(self, version: ModelVersion, alias: str) -> None:
        self._client.set_registered_model_alias(version.name, alias, version.version)

    def _move(
        self, kind: str, target: ModelVersion, champion: ModelVersion | None, approval: Approval | None
    ) -> None:
        for tag, value in approval.tags(now()).items() if approval else ():
            self._client.set_model_version_tag(target.name, target.version, tag, value)
        at = now("milliseconds")
        move = " ".join([f"{kind}@{at}", target.version, *([champion.version] if champion else [])])
        self._client.set_registered_model_tag(target.name, _MOVE_TAG, move)
        self._finish_move(target.name)

    def _finish_move(self, name: str) -> str | None:
        """Do the steps of the recorded move, some of which may be done already."""
        recorded = self._reader.model(name).tags.get(_MOVE_TAG)
        if recorded is None:
            return None
        move, champion, *previous = recorded.split()
        kind, _, at = move.partition("@")
        self._client.set_registered_model_alias(name, CHAMPION, champion)
        for version in previous:
            self._client.set_registered_model_alias(name, PREVIOUS, version)
        if str(self._reader.model(name).aliases.get(CHALLENGER)) == champion:
            self._client.delete_registered_model_alias(name, CHALLENGER)
        target = with_number(name, self.versions(name), champion)
        at = at or now("milliseconds")  # recorded by a release that wrote no time
        self._client.set_model_version_tag(name, champion, TURNS_TAG, with_turn(target, kind, at))
        if PROMOTED_TAG not in target.tags:
            self._client.set_model_version_tag(name, champion, PROMOTED_TAG, at)
        self._client.delete_registered_model_tag(name, _MOVE_TAG)
        return str(kind)

    # --- the store, which a server overrides ---

    @property
    def _where(self) -> str:
        return str(self._database)

    @property
    def _reader(self) -> Any:
        return DatabaseReader(self._database)

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self._database)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        _ = self._client  # creating a database takes the same lock
        with locked(self._database), explained(self._database):
            yield

    def _store(self, name: str, bundle: Path, sha256: str) -> str:
        folder = str(self._models(name) / sha256)
        store_bundle(bundle, folder)
        return folder

    def _store_evidence(self, name: str, stored: str, evidence: Mapping[str, Any]) -> str:  # noqa: ARG002
        return store_evidence(str(self._models(name)), evidence)

    def _read_evidence(self, version: ModelVersion, sha256: str) -> dict[str, Any]:
        return read_evidence(str(self._models(version.name)), sha256)

    def _new_version(self, name: str, stored: str, tags: Mapping[str, str]) -> str:
        return str(self._client.create_model_version(name, stored, tags=dict(tags)).version)

    def _bundle_uri(self, version: Any) -> str:
        # By sha256 and not by the path in MLflow, because the registry's folder may have been moved.
        sha256 = version.tags.get(BUNDLE_TAG)
        return str(self._models(version.name) / sha256) if sha256 else str(version.source)

    def _models(self, name: str) -> Path:
        return self._database.parent / "models" / name

    @cached_property
    def _client(self) -> Any:
        return open_client(self._database)

    def _describe(self, model: Any, version: Any) -> ModelVersion:
        number = str(version.version)
        return ModelVersion(
            name=version.name,
            version=number,
            bundle_uri=self._bundle_uri(version),
            aliases=tuple(sorted(alias for alias, at in model.aliases.items() if str(at) == number)),
            tags=dict(version.tags),
            created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        )
