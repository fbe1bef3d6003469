"""The model registry: what every registry offers, and the decisions that all of them make alike.

A model has versions. An alias points to one version of a model:

- `challenger`: the version that was registered last, until it is promoted.
- `staging`: the version that people may try, for a model whose manifest has promotion stages.
- `champion`: the version in production, which the next challenger is compared with.
- `previous`: the champion before this one; `rollback` makes it champion again.

Promotion and rollback only move aliases. No bundle is copied, and no version is removed.

The registry stores a version's bundle under the sha256 of its `bundle.json`. That file has the sha256 of
every other file, the metrics and the lineage, so this hash identifies the whole bundle. Converting a model
twice gives two bundles, because their timings differ. Registration is idempotent: a step that runs again
finds its version. A scheduled run whose bundle is a cache hit finds the version that has been champion, and
leaves its aliases as they are.

`factory.open_registry` opens a registry by its URI.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from gauntlet.manifests.errors import GauntletError, UsageError

CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"
STAGING = "staging"

BUNDLE_TAG = "bundle_sha256"
RUN_TAG = "run_id"
EVIDENCE_TAG = "evidence_sha256"
"""A tag on a version with evidence, by which a model with promotion stages is promoted."""
APPROVED_BY_TAG = "approved_by"
APPROVED_AT_TAG = "approved_at"
ANY_CHAMPION = "any"
PROMOTED_TAG = "promoted_at"
"""A tag on a version that has been champion: when it first became that; ISO 8601, UTC."""
TURNS_TAG = "champion_turns"
"""A tag on a version that has been champion: each time that it became champion, as `TIME promote` or
`TIME rollback`, separated by commas."""
REASON_TAG = "promotion_reason"
OVERRULED_TAG = "overruled"
"""A tag on a version that the gate rejected and a person promoted: the rules that it failed."""


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model. `created` is in UTC; `bundle_uri` is a folder on this machine, in a bucket or
    on an MLflow server."""

    name: str
    version: str
    bundle_uri: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    created: datetime


@dataclass(frozen=True)
class AnswerScores:
    """A language model's scores on the test split. `bleu` is sacrebleu's corpus BLEU, scaled to 0 to 1."""

    bleu: float


@dataclass(frozen=True)
class Scores:
    """A classifier's scores on the test split. `confusion` has true classes as rows, predicted as columns."""

    labels: tuple[str, ...]
    accuracy: float
    macro_f1: float
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Turn:
    """One time that a version became champion. `at` is ISO 8601, UTC."""

    at: str
    kind: Literal["promote", "rollback"]
    version: str


@dataclass(frozen=True)
class Approval:
    """Who promotes a version and why, as the version's tags record it."""

    by: str
    reason: str = ""

    def tags(self, at: str) -> dict[str, str]:
        """The tags for the version."""
        reason = {REASON_TAG: self.reason} if self.reason else {}
        return {APPROVED_BY_TAG: self.by, APPROVED_AT_TAG: at, **reason}


@dataclass(frozen=True)
class Move:
    """Result of a promotion or rollback. `moved` is False if the requested version was already champion."""

    champion: ModelVersion
    previous: ModelVersion | None
    moved: bool

    def __str__(self) -> str:
        now = f"{self.champion.name} {self.champion.version}"
        if not self.moved:
            return f"{now} is already champion: nothing to move"
        return f"{now} is champion" + (f", {self.previous.version} is previous" if self.previous else "")


def went_through_stages(version: ModelVersion | None) -> bool:
    """Whether there is a version and it has evidence. A version without any must not replace it."""
    return version is not None and EVIDENCE_TAG in version.tags


class Registry(ABC):
    """A model registry. A backend implements the abstract methods.

    A failure that is not a bug is a GauntletError; a UsageError when a retry cannot help.
    """

    @abstractmethod
    def __init__(self, uri: str) -> None:
        """Check the URI. Nothing is read or created.

        Raises:
            UsageError: It is not the URI of such a registry.
        """

    def register(
        self,
        name: str,
        bundle: Path,
        tags: Mapping[str, str],
        evidence: Mapping[str, Any] | None = None,
        scores: Scores | AnswerScores | None = None,
    ) -> ModelVersion:
        """Copy a bundle into the registry as a new version of `name`, which becomes `challenger`.

        The same bundle with the same `run_id` tag is the same version. A bundle that is or has been champion
        is not registered again by any run: its version is returned with its aliases and tags unchanged.

        Args:
            name: The model's name.
            bundle: The bundle's folder.
            tags: The version's tags.
            evidence: The figures that a promotion by stages is judged by, as JSON.
            scores: The scores, for a registry that can show them.

        Raises:
            GauntletError: The bundle is incomplete or altered, or the service refuses.
        """
        from gauntlet.serving.bundle import BUNDLE_FILE, file_sha256

        sha256 = file_sha256(bundle / BUNDLE_FILE)
        with self._writing():
            stored = self._store(name, bundle, sha256)
            if evidence is not None:
                tags = {**tags, EVIDENCE_TAG: self._store_evidence(name, stored, evidence)}
            identity = {BUNDLE_TAG: sha256, RUN_TAG: tags.get(RUN_TAG, "")}
            version = self._create(name, stored, {**tags, **identity}, scores)
            served = version_of_bundle([version], sha256, identity[RUN_TAG])[1]
            if not served and CHALLENGER not in version.aliases:
                self._set_alias(version, CHALLENGER)
            return with_number(name, self.versions(name), version.version)

    @abstractmethod
    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that an alias points to, or None; None also for a name that the backend refuses."""

    @abstractmethod
    def versions(self, name: str) -> list[ModelVersion]:
        """All versions by descending number. For an unknown name raise `unknown_model`."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names of all models, sorted."""

    def champion(self, name: str) -> ModelVersion | None:
        """The champion; None when no version of `name` has been promoted."""
        return self.by_alias(name, CHAMPION)

    def evidence(self, version: ModelVersion) -> dict[str, Any] | None:
        """The version's evidence, if it has any; a `GauntletError` if the file is missing or was altered."""
        sha256 = version.tags.get(EVIDENCE_TAG)
        return None if sha256 is None else self._read_evidence(version, sha256)

    def stage(self, name: str, version: str) -> ModelVersion:
        """Point `staging` to a version. If it is the challenger, it stays that.

        Raises:
            UsageError: There is no such model or version.
            GauntletError: The bundle was altered.
        """
        with_number(name, self.versions(name), version)
        with self._writing():
            target = with_number(name, self.versions(name), version)
            self._require_bundle(target, STAGING)
            self._set_alias(target, STAGING)
            return with_number(name, self.versions(name), version)

    def promote(
        self,
        name: str,
        version: str | None = None,
        compared_with: str | None = ANY_CHAMPION,
        approval: Approval | None = None,
    ) -> Move:
        """Make `version`, or else the challenger, the champion; the old champion becomes `previous`.

        An interrupted promotion is completed first, and may be the requested one.

        Args:
            name: The model's name.
            version: The version to promote; None for the challenger.
            compared_with: The version of the champion that the gate compared it with; None if there was no
                champion. If the champion is another one by now, nothing is moved.
            approval: Recorded on the version, with the time.

        Raises:
            UsageError: There is no such model or version, or no challenger.
            GauntletError: The champion is not the one that was compared with, the bundle was altered, or
                another process promoted another version at the same time.
        """
        self.versions(name)
        with self._writing():
            finished = self._finish_move(name) == "promote"
            versions = self.versions(name)
            target = _version_to_promote(name, versions, version, compared_with, finished)
            champion = with_alias(versions, CHAMPION)
            if target == champion:
                return Move(target, with_alias(versions, PREVIOUS), moved=finished)
            return self._moved("promote", target, champion, approval)

    def rollback(self, name: str, version: str | None = None) -> Move:
        """Make `previous`, or a `version` that has been champion, the champion again.

        Directly after a rollback `version` is required, because `previous` is then the version that was just
        rolled back. An interrupted rollback is completed, instead of being undone.

        Raises:
            UsageError: There is no such model or version, no champion before this one, or no `version`.
            GauntletError: The bundle was altered, or another process promoted another version at the same
                time.
        """
        self.versions(name)
        with self._writing():
            finished = self._finish_move(name) == "rollback"
            versions = self.versions(name)
            champion, previous = with_alias(versions, CHAMPION), with_alias(versions, PREVIOUS)
            if champion is not None and finished and version in (None, champion.version):
                return Move(champion, previous, moved=True)
            target = _version_to_roll_back_to(name, versions, version)
            if target == champion:
                return Move(target, previous, moved=False)
            return self._moved("rollback", target, champion)

    def _moved(
        self, kind: str, target: ModelVersion, champion: ModelVersion | None, approval: Approval | None = None
    ) -> Move:
        self._require_bundle(target, CHAMPION)
        self._move(kind, target, champion, approval)
        versions = self.versions(target.name)
        now_champion = with_alias(versions, CHAMPION)
        if now_champion is None or now_champion.version != target.version:
            raise GauntletError(
                f"model {target.name!r}: another process made version "
                f"{now_champion.version if now_champion else '(none)'} champion while version "
                f"{target.version} was being promoted. See `gauntlet registry`, then promote one of them."
            )
        return Move(now_champion, with_alias(versions, PREVIOUS), moved=True)

    @abstractmethod
    def _writing(self) -> AbstractContextManager[None]:
        """Hold the registry's lock, where it has one, and turn its failures into a GauntletError."""

    @abstractmethod
    def _store(self, name: str, bundle: Path, sha256: str) -> str:
        """Copy a bundle, completely or not at all, and return what `_create` calls the copy. Idempotent."""

    @abstractmethod
    def _store_evidence(self, name: str, stored: str, evidence: Mapping[str, Any]) -> str:
        """Store the evidence of the bundle `stored`, and return its sha256."""

    @abstractmethod
    def _create(
        self, name: str, stored: str, tags: Mapping[str, str], scores: Scores | AnswerScores | None
    ) -> ModelVersion:
        """The version that `version_of_bundle` finds for these tags, or else a new one."""

    @abstractmethod
    def _require_bundle(self, version: ModelVersion, alias: str) -> None:
        """Raise a GauntletError if the bundle is missing or altered, by `content_store.require_bundle`."""

    @abstractmethod
    def _set_alias(self, version: ModelVersion, alias: str) -> None:
        """Point an alias to a version."""

    @abstractmethod
    def _move(
        self, kind: str, target: ModelVersion, champion: ModelVersion | None, approval: Approval | None
    ) -> None:
        """Move `champion` and `previous`, and record the turn, `PROMOTED_TAG` and the approval as tags.

        Before the first alias is moved, the move is recorded where `_finish_move` finds it.
        """

    @abstractmethod
    def _finish_move(self, name: str) -> str | None:
        """Complete an interrupted move. Returns `promote`, `rollback`, or None if none was."""

    @abstractmethod
    def _read_evidence(self, version: ModelVersion, sha256: str) -> dict[str, Any]:
        """The evidence, after its sha256 was checked."""


# --- decisions that all registries share ---


def unknown_model(name: str, where: str, names: Sequence[str]) -> UsageError:
    """The error for a model that a registry does not have."""
    return UsageError(
        f"model {name!r}: not in {where}, which has {', '.join(names) or 'none yet'}. "
        "Run its pipeline first, or correct the name."
    )


def now(precision: str = "seconds") -> str:
    """The time as tags record it: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec=precision)


def with_alias(versions: Sequence[ModelVersion], alias: str) -> ModelVersion | None:
    """The version that an alias points to, or None."""
    return next((version for version in versions if alias in version.aliases), None)


def with_number(name: str, versions: Sequence[ModelVersion], number: str) -> ModelVersion:
    """The version with this number. Raises a `UsageError` if the model has no such version."""
    found = next((version for version in versions if version.version == number), None)
    if found is None:
        raise UsageError(f"model {name!r}: has no version {number!r}, only {_numbers(versions)}.")
    return found


def _numbers(versions: Sequence[ModelVersion]) -> str:
    return ", ".join(version.version for version in versions)


def version_of_bundle(
    versions: Sequence[ModelVersion], sha256: str, run_id: str
) -> tuple[ModelVersion | None, bool]:
    """The version that a bundle already has, if any, and whether that is or has been champion.

    If several versions have been champion, this is the current champion, else the newest of them. A version
    that is still challenger has not been champion: its promotion was interrupted after it was recorded.
    """
    same = [version for version in versions if version.tags.get(BUNDLE_TAG) == sha256]
    served = [
        one
        for one in same
        if CHAMPION in one.aliases or (PROMOTED_TAG in one.tags and CHALLENGER not in one.aliases)
    ]
    if served:
        newest = max(served, key=lambda one: (CHAMPION in one.aliases, int(one.version)))
        return newest, True
    # The first of two, as a retry after a lost answer may create.
    of_run = [version for version in same if version.tags.get(RUN_TAG, "") == run_id]
    return min(of_run, key=lambda one: int(one.version), default=None), False


def _version_to_promote(
    name: str,
    versions: Sequence[ModelVersion],
    asked: str | None,
    compared_with: str | None,
    finished: bool,
) -> ModelVersion:
    """The version that `Registry.promote` makes champion; the current champion if nothing is to be moved.

    `finished`: an interrupted promotion, perhaps the requested one, has just been completed.
    """
    champion, target = with_alias(versions, CHAMPION), with_alias(versions, CHALLENGER)
    if asked is not None:
        target = with_number(name, versions, asked)
    elif target is None and finished:
        target = champion
    if target is None:
        raise UsageError(
            f"model {name!r}: has no challenger to promote. Run its pipeline for a new one, "
            f"or name one of its versions: {_numbers(versions)}."
        )
    if champion is not None and target.tags.get(BUNDLE_TAG) == champion.tags.get(BUNDLE_TAG, ""):
        return champion  # the same bundle: after a move, rollback would not change what is in production
    number = None if champion is None else champion.version
    if target != champion and compared_with not in (ANY_CHAMPION, number):
        raise GauntletError(
            f"model {name!r}: version {target.version} was compared with champion "
            f"{compared_with or '(none)'}, but the champion is {number or '(none)'} by now. "
            "Nothing was moved: run the pipeline again to compare with that version."
        )
    return target


def turns(versions: Sequence[ModelVersion]) -> list[Turn]:
    """Each time that a version became champion, oldest first.

    Older releases recorded only the first time, so for their versions only that is known.
    """
    found = []
    for version in versions:
        noted = version.tags.get(TURNS_TAG) or version.tags.get(PROMOTED_TAG)
        for turn in noted.split(", ") if noted else ():
            at, _, kind = turn.partition(" ")
            found.append(Turn(at, "rollback" if kind == "rollback" else "promote", version.version))
    return sorted(found, key=lambda turn: turn.at)


def with_turn(version: ModelVersion, kind: str, at: str) -> str:
    """The value of `TURNS_TAG` for a version that becomes champion. A repeated move is recorded once."""
    noted = [f"{turn.at} {turn.kind}" for turn in turns([version])]
    return ", ".join(dict.fromkeys([*noted, f"{at} {kind}"]))


def _version_to_roll_back_to(
    name: str, versions: Sequence[ModelVersion], asked: str | None = None
) -> ModelVersion:
    """The version that `Registry.rollback` makes champion."""
    champion, previous = with_alias(versions, CHAMPION), with_alias(versions, PREVIOUS)
    if asked is not None:
        target = with_number(name, versions, asked)
        if target != champion and not turns([target]):
            raise UsageError(
                f"model {name!r}: version {asked} has never been champion. Make it champion with "
                f"`gauntlet promote {name} --version {asked}`."
            )
        return target
    last = max(turns(versions), key=lambda turn: turn.at, default=None)
    if champion and previous and last and (last.kind, last.version) == ("rollback", champion.version):
        raise UsageError(
            f"model {name!r}: version {champion.version} has been champion since the rollback from version "
            f"{previous.version} at {last.at[:19]} UTC, and a second rollback would make {previous.version} "
            f"champion again. Name the version that you mean: `gauntlet rollback {name} --version "
            f"{previous.version}`, or an older one that `gauntlet registry {name}` lists."
        )
    if previous is None:
        before = f"before version {champion.version}" if champion else "yet"
        raise UsageError(
            f"model {name!r}: no version has been champion {before}, so a rollback has no target. Promote "
            "one of its versions instead."
        )
    return previous
