"""The local registry: MLflow's model registry on SQLite, with the bundles in a folder beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from backends.mlflow_database import explained, locked, open_client
from backends.registry import (
    ANY_CHAMPION,
    BUNDLE_TAG,
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    PROMOTED_TAG,
    RUN_TAG,
    ModelVersion,
    Move,
    Scores,
    require_bundle,
    version_to_promote,
    version_to_roll_back_to,
    with_alias,
)
from manifests.errors import GauntletError, UsageError

_MOVE_TAG = "gauntlet.move"
"""On a model while its aliases are being moved: what is to be done, so that the next call can finish it."""


class MlflowRegistry:
    """A `Registry` on a database that MLflow can show, with the bundles in `models/` beside it.

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
        with explained(self._database):
            model = self._model(name)
            if model is None or alias not in model.aliases:
                return None
            return self._describe(model, self._client.get_model_version(name, str(model.aliases[alias])))

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions by descending number."""
        with explained(self._database):
            model = self._model(name)
            if model is None:
                raise UsageError(
                    f"model {name!r}: not in {self._database}, which has "
                    f"{', '.join(self.names()) or 'none yet'}. Run its pipeline first, or correct the name."
                )
            found = all_pages(
                lambda token: self._client.search_model_versions(f"name='{name}'", page_token=token)
            )
            described = [self._describe(model, version) for version in found]
        return sorted(described, key=lambda version: int(version.version), reverse=True)

    def names(self) -> list[str]:
        """Empty when there is no database."""
        if not self._database.exists():
            return []
        with explained(self._database):
            models = all_pages(lambda token: self._client.search_registered_models(page_token=token))
        return sorted(model.name for model in models)

    # --- writing ---

    def register(
        self,
        name: str,
        bundle: Path,
        tags: Mapping[str, str],
        scores: Scores | None = None,  # noqa: ARG002
    ) -> ModelVersion:
        """Every write can be repeated, so a registration that was cut short is simply run again.

        Of the scores only what the tags say is kept; the run's report has them all.

        Raises:
            GauntletError: The bundle is incomplete or altered.
        """
        from serving.bundle import BUNDLE_FILE, file_sha256

        sha256 = file_sha256(bundle / BUNDLE_FILE)
        with self._writing():
            kept = self._keep(bundle, self._bundle_folder(name, sha256))
            if self._model(name) is None:
                self._client.create_registered_model(name)
            identity = {BUNDLE_TAG: sha256, RUN_TAG: tags.get(RUN_TAG, "")}
            known = [v for v in self.versions(name) if identity.items() <= dict(v.tags).items()]
            number = known[0].version if known else self._create(name, kept, {**tags, **identity})
            if not known or PROMOTED_TAG not in known[0].tags:
                self._client.set_registered_model_alias(name, CHALLENGER, number)
            return next(version for version in self.versions(name) if version.version == number)

    def promote(
        self, name: str, version: str | None = None, compared_with: str | None = ANY_CHAMPION
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
            return self._move("promote", target, champion)

    def rollback(self, name: str) -> Move:
        """A rollback that was cut short is finished, instead of being undone.

        Raises:
            UsageError: There is no such model, or no champion before this one.
        """
        self.versions(name)
        with self._writing():
            if self._finish_move(name) == "rollback":
                return self._outcome(name, moved=True)
            versions = self.versions(name)
            previous = version_to_roll_back_to(name, versions)
            return self._move("rollback", previous, with_alias(versions, CHAMPION))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        _ = self._client  # making a database takes the same lock
        with locked(self._database), explained(self._database):
            yield

    # --- moving aliases ---

    def _move(self, kind: str, target: ModelVersion, champion: ModelVersion | None) -> Move:
        require_bundle(target)
        note = " ".join([kind, target.version, *([champion.version] if champion else [])])
        self._client.set_registered_model_tag(target.name, _MOVE_TAG, note)
        self._finish_move(target.name)
        return self._outcome(target.name, moved=True)

    def _finish_move(self, name: str) -> str | None:
        """Do what is noted, some of which may be done already. Returns which kind of move it was."""
        note = self._model(name).tags.get(_MOVE_TAG)
        if note is None:
            return None
        kind, champion, *previous = note.split()
        self._client.set_registered_model_alias(name, CHAMPION, champion)
        for version in previous:
            self._client.set_registered_model_alias(name, PREVIOUS, version)
        if self._alias(name, CHALLENGER) == champion:
            self._client.delete_registered_model_alias(name, CHALLENGER)
        if PROMOTED_TAG not in self._client.get_model_version(name, champion).tags:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._client.set_model_version_tag(name, champion, PROMOTED_TAG, now)
        self._client.delete_registered_model_tag(name, _MOVE_TAG)
        return str(kind)

    def _outcome(self, name: str, moved: bool) -> Move:
        champion = self.champion(name)
        assert champion is not None, f"{name} has no champion after one was set"
        return Move(champion, self.by_alias(name, PREVIOUS), moved)

    # --- bundles ---

    def _bundle_folder(self, name: str, sha256: str) -> Path:
        return self._database.parent / "models" / name / sha256

    def _keep(self, bundle: Path, kept: Path) -> Path:
        """Copy the bundle to `kept`, whole or not at all. A copy that was altered there is replaced."""
        from serving.bundle import BundleError, read_info

        with suppress(BundleError):
            read_info(kept, sha256=kept.name)
            return kept
        temporary = kept.with_name(kept.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            for file in bundle.iterdir():
                shutil.copyfile(file, temporary / file.name)
            read_info(temporary, sha256=kept.name)
            shutil.rmtree(kept, ignore_errors=True)
            temporary.replace(kept)
        except BundleError as error:
            shutil.rmtree(temporary)
            fault = str(error).replace(str(temporary), str(bundle))
            raise GauntletError(f"{fault}. Convert the model again.") from None
        except BaseException:  # a full disk, Ctrl-C: no half of a bundle stays
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return kept

    # --- MLflow ---

    @cached_property
    def _client(self) -> Any:
        return open_client(self._database)

    def _model(self, name: str) -> Any:
        """MLflow's registered model with its aliases and tags, or None."""
        if not self._database.exists():
            return None
        client = self._client
        from mlflow.exceptions import MlflowException

        try:
            return client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def _alias(self, name: str, alias: str) -> str | None:
        number = self._model(name).aliases.get(alias)
        return None if number is None else str(number)

    def _create(self, name: str, kept: Path, tags: Mapping[str, str]) -> str:
        return str(self._client.create_model_version(name, str(kept), tags=dict(tags)).version)

    def _describe(self, model: Any, version: Any) -> ModelVersion:
        number = str(version.version)
        sha256 = version.tags.get(BUNDLE_TAG)
        return ModelVersion(
            name=version.name,
            version=number,
            # By sha256 and not by the path that MLflow has: the registry's folder may have been moved.
            bundle_uri=str(self._bundle_folder(version.name, sha256)) if sha256 else version.source,
            aliases=tuple(sorted(alias for alias, at in model.aliases.items() if str(at) == number)),
            tags=dict(version.tags),
            created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        )


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
