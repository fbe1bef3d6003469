"""The local registry: MLflow's model registry on SQLite, with the bundles in a folder next to the database.

`mlflow_server_registry` has the same on a server. What differs is where bundles lie, what locks and how a
failure reads: `_where` to `_bundle_uri` below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from gauntlet.backends.content_store import keep_bundle, keep_evidence, read_evidence
from gauntlet.backends.local.mlflow_database import DatabaseReader, explained, locked, open_client
from gauntlet.backends.registry import (
    ANY_CHAMPION,
    BUNDLE_TAG,
    CHALLENGER,
    CHAMPION,
    EVIDENCE_TAG,
    PREVIOUS,
    PROMOTED_TAG,
    RUN_TAG,
    STAGING,
    TURNS_TAG,
    AnswerScores,
    Approval,
    ModelVersion,
    Move,
    Scores,
    now,
    require_bundle,
    version_of_bundle,
    version_to_promote,
    version_to_roll_back_to,
    with_alias,
    with_number,
    with_turn,
)
from gauntlet.manifests.errors import GauntletError, UsageError

_MOVE_TAG = "gauntlet.move"
"""On a model while its aliases are being moved: what is to be done, so that the next call can finish it."""


class MlflowRegistry:
    """A `Registry` on a database that MLflow can show, with the bundles in `models/` next to it.

    Reading does not make a database, so a first run does not wait for MLflow to learn that there is no
    champion. Writing holds one lock. A move of aliases is noted on the model and then done: should the
    process die in between, the next `promote` or `rollback` finishes it. A model that has had a champion
    has one at every moment.
    """

    def __init__(self, database: Path) -> None:
        self._database = database

    # --- reading ---

    def champion(self, name: str) -> ModelVersion | None:
        """The version with the alias `champion`."""
        return self.by_alias(name, CHAMPION)

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """None also for a name that MLflow would not take."""
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
                raise UsageError(
                    f"model {name!r}: not in {self._where}, which has "
                    f"{', '.join(self.names()) or 'none yet'}. Run its pipeline first, or correct the name."
                )
            described = [self._describe(model, version) for version in self._reader.versions(name)]
        return sorted(described, key=lambda version: int(version.version), reverse=True)

    def names(self) -> list[str]:
        """Empty when there is no database."""
        with self._explained():
            return sorted(self._reader.names())

    def evidence(self, version: ModelVersion) -> dict[str, Any] | None:
        """Read from the file whose sha256 the version has as a tag.

        Raises:
            GauntletError: It is gone, or was altered.
        """
        sha256 = version.tags.get(EVIDENCE_TAG)
        return None if sha256 is None else self._read_evidence(version, sha256)

    # --- writing ---

    def register(
        self,
        name: str,
        bundle: Path,
        tags: Mapping[str, str],
        evidence: Mapping[str, Any] | None = None,
        scores: Scores | AnswerScores | None = None,  # noqa: ARG002
    ) -> ModelVersion:
        """Every write can be repeated, so a registration that was cut short is simply run again.

        Of the scores only what the tags say is kept; the run's report has them all.

        Raises:
            GauntletError: The bundle is incomplete or altered.
        """
        from gauntlet.serving.bundle import BUNDLE_FILE, file_sha256

        sha256 = file_sha256(bundle / BUNDLE_FILE)
        with self._writing():
            kept = self._keep(name, bundle, sha256)
            if evidence is not None:
                tags = {**tags, EVIDENCE_TAG: self._keep_evidence(name, kept, evidence)}
            if self._reader.model(name) is None:
                self._client.create_registered_model(name)
            identity = {BUNDLE_TAG: sha256, RUN_TAG: tags.get(RUN_TAG, "")}
            known, served = version_of_bundle(self.versions(name), sha256, identity[RUN_TAG])
            number = known.version if known else self._create(name, kept, {**tags, **identity})
            if not served:
                self._client.set_registered_model_alias(name, CHALLENGER, number)
            return with_number(name, self.versions(name), number)

    def stage(self, name: str, version: str) -> ModelVersion:
        """The version stays challenger, if it is that.

        Raises:
            UsageError: There is no such model or version.
            GauntletError: The bundle was altered.
        """
        with_number(name, self.versions(name), version)
        with self._writing():
            require_bundle(with_number(name, self.versions(name), version), STAGING)
            self._client.set_registered_model_alias(name, STAGING, version)
            return with_number(name, self.versions(name), version)

    def promote(
        self,
        name: str,
        version: str | None = None,
        compared_with: str | None = ANY_CHAMPION,
        approval: Approval | None = None,
    ) -> Move:
        """A promotion that was cut short is finished, and counts as this one if that is what was asked.

        Raises:
            UsageError: There is no such model or version, or no challenger.
            GauntletError: The champion is not the one that was compared with, or the bundle was altered.
        """
        self.versions(name)
        with self._writing():
            finished = self._finish_move(name) == "promote"
            versions = self.versions(name)
            target = version_to_promote(name, versions, version, compared_with, finished)
            champion = with_alias(versions, CHAMPION)
            if target == champion:
                return self._outcome(name, moved=finished)
            require_bundle(target, CHAMPION)
            for tag, value in approval.tags(now()).items() if approval else ():
                self._tag(name, target.version, tag, value)
            return self._move("promote", target, champion)

    def rollback(self, name: str, version: str | None = None) -> Move:
        """A rollback that was cut short is finished, instead of being undone.

        Raises:
            UsageError: There is no such model or version, no champion before this one, or the champion is one
                by a rollback and no version is asked for.
        """
        self.versions(name)
        with self._writing():
            finished = self._finish_move(name) == "rollback"
            versions = self.versions(name)
            champion = with_alias(versions, CHAMPION)
            if finished and version in (None, champion and champion.version):
                return self._outcome(name, moved=True)
            target = version_to_roll_back_to(name, versions, version)
            if target == champion:
                return self._outcome(name, moved=False)
            require_bundle(target, CHAMPION)
            return self._move("rollback", target, champion)

    # --- moving aliases ---

    def _move(self, kind: str, target: ModelVersion, champion: ModelVersion | None) -> Move:
        at = now("milliseconds")
        note = " ".join([f"{kind}@{at}", target.version, *([champion.version] if champion else [])])
        self._client.set_registered_model_tag(target.name, _MOVE_TAG, note)
        self._finish_move(target.name)
        moved = self._outcome(target.name, moved=True)
        if moved.champion.version != target.version:
            raise GauntletError(
                f"model {target.name!r}: another process made version {moved.champion.version} the champion "
                f"while version {target.version} was. Look at `gauntlet registry`, then run this again."
            )
        return moved

    def _finish_move(self, name: str) -> str | None:
        """Do what is noted, some of which may be done already. Returns which kind of move it was."""
        note = self._reader.model(name).tags.get(_MOVE_TAG)
        if note is None:
            return None
        move, champion, *previous = note.split()
        kind, _, at = move.partition("@")
        self._client.set_registered_model_alias(name, CHAMPION, champion)
        for version in previous:
            self._client.set_registered_model_alias(name, PREVIOUS, version)
        if self._alias(name, CHALLENGER) == champion:
            self._client.delete_registered_model_alias(name, CHALLENGER)
        target = with_number(name, self.versions(name), champion)
        at = at or now("milliseconds")  # a note of a package that had no times
        self._tag(name, champion, TURNS_TAG, with_turn(target, kind, at))
        if PROMOTED_TAG not in target.tags:
            self._tag(name, champion, PROMOTED_TAG, at)
        self._client.delete_registered_model_tag(name, _MOVE_TAG)
        return str(kind)

    def _outcome(self, name: str, moved: bool) -> Move:
        champion = self.champion(name)
        assert champion is not None, f"{name} has no champion after one was set"
        return Move(champion, self.by_alias(name, PREVIOUS), moved)

    # --- where it lies ---

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
        _ = self._client  # making a database takes the same lock
        with locked(self._database), explained(self._database):
            yield

    def _keep(self, name: str, bundle: Path, sha256: str) -> str:
        """Copy the bundle, whole or not at all, and return what `_create` needs to know of the copy."""
        return str(keep_bundle(bundle, self._bundle_folder(name, sha256)))

    def _keep_evidence(self, name: str, kept: str, evidence: Mapping[str, Any]) -> str:  # noqa: ARG002
        return keep_evidence(self._models(name), evidence)

    def _read_evidence(self, version: ModelVersion, sha256: str) -> dict[str, Any]:
        return read_evidence(self._models(version.name), sha256)

    def _create(self, name: str, kept: str, tags: Mapping[str, str]) -> str:
        return str(self._client.create_model_version(name, kept, tags=dict(tags)).version)

    def _bundle_uri(self, version: Any) -> str:
        # By sha256 and not by the path that MLflow has: the registry's folder may have been moved.
        sha256 = version.tags.get(BUNDLE_TAG)
        return str(self._bundle_folder(version.name, sha256)) if sha256 else str(version.source)

    def _bundle_folder(self, name: str, sha256: str) -> Path:
        return self._models(name) / sha256

    def _models(self, name: str) -> Path:
        return self._database.parent / "models" / name

    @cached_property
    def _client(self) -> Any:
        return open_client(self._database)

    # --- MLflow ---

    def _alias(self, name: str, alias: str) -> str | None:
        number = self._reader.model(name).aliases.get(alias)
        return None if number is None else str(number)

    def _tag(self, name: str, number: str, tag: str, value: str) -> None:
        self._client.set_model_version_tag(name, number, tag, value)

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
