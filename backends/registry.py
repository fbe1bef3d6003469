"""The model registry: versions of a model, and the aliases that say which of them is which.

An alias is a name that points to one version of a model:

- `challenger`: registered last and not promoted yet.
- `staging`: the one that people may try, of a model whose manifest has promotion stages.
- `champion`: the one that serves, and that the next challenger is compared with.
- `previous`: the champion before this one; `rollback` makes it champion again.

Promoting and rolling back only move aliases; nothing is copied, and no version is ever changed or removed.

A version's bundle lies in the registry's own folder under its sha256, which is that of `bundle.json`: that
file names every other file with its sha256, so it stands for the whole content, figures and lineage
included. Converting a model twice makes two bundles, because their timings differ. One bundle is registered
once: a step that runs again finds its version, and a scheduled run whose bundle came from the cache finds the
version that has been champion, which it leaves alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from gauntlet.backends.google.location import SCHEME, VertexLocation
from gauntlet.backends.kubeflow import require_outliving_pods
from gauntlet.backends.local.mlflow_server import EXAMPLE, SCHEMES, MlflowServer
from gauntlet.manifests.errors import GauntletError, UsageError

CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"
STAGING = "staging"

BUNDLE_TAG = "bundle_sha256"
RUN_TAG = "run_id"
EVIDENCE_TAG = "evidence_sha256"
"""On a version that has evidence, which a model with promotion stages is promoted by."""
APPROVED_BY_TAG = "approved_by"
APPROVED_AT_TAG = "approved_at"
ANY_CHAMPION = "any"
PROMOTED_TAG = "promoted_at"
"""On a version that has been champion; ISO 8601, UTC, of the first time."""
TURNS_TAG = "champion_turns"
"""A tag on a version that has been champion: each time that it became champion, as `TIME promote` or
`TIME rollback`, separated by commas."""
REASON_TAG = "promotion_reason"
OVERRULED_TAG = "overruled"
"""A tag on a version that the gate rejected and a person promoted: the rules that it failed."""


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model. `created` is in UTC; `bundle_uri` is a folder, here, in a bucket
    or on an MLflow server."""

    name: str
    version: str
    bundle_uri: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    created: datetime


@dataclass(frozen=True)
class AnswerScores:
    """What a language model's version scored on the test split. `bleu` is sacrebleu's of all rows, 0 to 1."""

    bleu: float


@dataclass(frozen=True)
class Scores:
    """What a classifier's version scored on the test split.

    `confusion` has true classes as rows, predicted as columns.
    """

    labels: tuple[str, ...]
    accuracy: float
    macro_f1: float
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Turn:
    """A moment when a version became champion. `at` is ISO 8601, UTC."""

    at: str
    kind: Literal["promote", "rollback"]
    version: str


@dataclass(frozen=True)
class Approval:
    """Who promotes a version and why, as recorded on the version."""

    by: str
    reason: str = ""

    def tags(self, at: str) -> dict[str, str]:
        """The tags that the version gets."""
        reason = {REASON_TAG: self.reason} if self.reason else {}
        return {APPROVED_BY_TAG: self.by, APPROVED_AT_TAG: at, **reason}


@dataclass(frozen=True)
class Move:
    """What promoting or rolling back came to. Not `moved`: the champion was already the one asked for."""

    champion: ModelVersion
    previous: ModelVersion | None
    moved: bool

    def __str__(self) -> str:
        now = f"{self.champion.name} {self.champion.version}"
        if not self.moved:
            return f"{now} is already champion: nothing to move"
        return f"{now} is champion" + (f", {self.previous.version} is previous" if self.previous else "")


def went_through_stages(version: ModelVersion | None) -> bool:
    """Whether there is such a version, and it has evidence: one without any is not to take its place."""
    return version is not None and EVIDENCE_TAG in version.tags


class Registry(Protocol):
    """Where models are registered. What fails for a user's reason raises a GauntletError that says it."""

    def register(
        self,
        name: str,
        bundle: Path,
        tags: Mapping[str, str],
        evidence: Mapping[str, Any] | None = None,
        scores: Scores | AnswerScores | None = None,
    ) -> ModelVersion:
        """Copy a bundle into the registry and make it a version of `name`, with what it proved, as JSON.

        `scores` are kept where the registry has a place for them.

        The new version becomes `challenger`. The same bundle with the same `run_id` tag is the same version.
        A bundle that is champion, or has been, is not registered again whatever the run: its version is
        returned with its aliases and tags as they are.
        """

    def champion(self, name: str) -> ModelVersion | None:
        """The version that serves; none when no version of `name` has been promoted."""

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that an alias points to, or none."""

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions, newest first. An unknown name is a UsageError."""

    def names(self) -> list[str]:
        """The names of all models, sorted."""

    def evidence(self, version: ModelVersion) -> dict[str, Any] | None:
        """What the version proved, unaltered; none was recorded."""

    def stage(self, name: str, version: str) -> ModelVersion:
        """Point the alias `staging` to a version."""

    def promote(
        self,
        name: str,
        version: str | None = None,
        compared_with: str | None = ANY_CHAMPION,
        approval: Approval | None = None,
    ) -> Move:
        """Make `version`, or else the challenger, the champion; the old champion becomes `previous`.

        `compared_with` is the champion's version that the new one was found no worse than, None for none:
        with another champion by now nothing is moved, which is a GauntletError. `approval` is recorded on the
        version, with the time.
        """

    def rollback(self, name: str, version: str | None = None) -> Move:
        """Make `previous`, or `version`, which has been champion, the champion again.

        Directly after a rollback `version` is needed: `previous` is then the version that was just rolled
        back.
        """


def open_registry(registry_uri: str) -> Registry:
    """The registry that a URI names. Nothing is made or read yet.

    Args:
        registry_uri: Such as `sqlite:////path/gauntlet.db`, `mlflow+https://HOST`, or
            `vertex://my-project/europe-west4?staging=gs://BUCKET/FOLDER`.

    Raises:
        UsageError: The URI is of a kind that is not supported, or names a file in a pod of Kubeflow's.
    """
    if registry_uri.startswith(SCHEME):
        from gauntlet.backends.google.registry import VertexRegistry

        return VertexRegistry(VertexLocation.of(registry_uri, "registry URI"))
    if registry_uri.startswith(SCHEMES):
        from gauntlet.backends.local.mlflow_server_registry import MlflowServerRegistry

        return MlflowServerRegistry(MlflowServer(registry_uri, "registry URI"))
    from gauntlet.backends.local.mlflow_database import database_path
    from gauntlet.backends.local.registry import MlflowRegistry

    require_outliving_pods(registry_uri, "registry URI")
    others = f"or {EXAMPLE}, or {SCHEME}PROJECT/LOCATION?…"
    return MlflowRegistry(database_path(registry_uri, "registry URI", others))


@contextmanager
def bundle_folder(version: ModelVersion) -> Iterator[Path]:
    """A version's bundle on this machine: where it lies, or a copy that goes with the block.

    Raises:
        UsageError: It is not there any more, or may not be read.
        GauntletError: The bucket, or the MLflow server, is unavailable.
    """
    from gauntlet.backends.storage import download

    if "://" not in version.bundle_uri:
        yield Path(version.bundle_uri)
        return
    with tempfile.TemporaryDirectory() as copy:
        if version.bundle_uri.startswith(SCHEMES):
            from gauntlet.backends.local.mlflow_server_registry import download_bundle

            yield download_bundle(version.bundle_uri, Path(copy))
        else:
            download(version.bundle_uri, Path(copy))
            yield Path(copy)


# --- what every registry decides alike ---


def now(precision: str = "seconds") -> str:
    """The time as it is recorded: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec=precision)


def with_alias(versions: Sequence[ModelVersion], alias: str) -> ModelVersion | None:
    """The one of them that an alias points to."""
    return next((version for version in versions if alias in version.aliases), None)


def with_number(name: str, versions: Sequence[ModelVersion], number: str) -> ModelVersion:
    """The one of them that has this number.

    Raises:
        UsageError: None has.
    """
    for version in versions:
        if version.version == number:
            return version
    raise UsageError(f"model {name!r}: has no version {number!r}, only {_numbers(versions)}.")


def _numbers(versions: Sequence[ModelVersion]) -> str:
    return ", ".join(version.version for version in versions)


def version_of_bundle(
    versions: Sequence[ModelVersion], sha256: str, run_id: str
) -> tuple[ModelVersion | None, bool]:
    """The version that registering a bundle finds, if any, and whether it is or has been champion.

    Of several that have been champion it is the one that is champion now, else the newest. A version that is
    still the challenger has not been champion: its promotion was cut short after it was noted.
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
    # The first one, should an answer that was lost have made two.
    of_run = [version for version in same if version.tags.get(RUN_TAG, "") == run_id]
    return min(of_run, key=lambda one: int(one.version), default=None), False


def version_to_promote(
    name: str,
    versions: Sequence[ModelVersion],
    asked: str | None,
    compared_with: str | None,
    finished: bool,
) -> ModelVersion:
    """The version that a promotion is to make the champion.

    It may be that already: then it is the champion itself, also when another version has the same bundle.

    Args:
        name: The model's name.
        versions: All of its versions.
        asked: The version's number, or none for the challenger.
        compared_with: As in `Registry.promote`.
        finished: A promotion that had been cut short has just been finished, and may be the one asked for.

    Raises:
        UsageError: There is no such version, or no challenger.
        GauntletError: The champion is not the one that was compared with.
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
        return champion  # another version of the same bundle: moving would leave nothing to roll back to
    number = None if champion is None else champion.version
    if target != champion and compared_with not in (ANY_CHAMPION, number):
        raise GauntletError(
            f"model {name!r}: version {target.version} was compared with champion "
            f"{compared_with or '(none)'}, but the champion is {number or '(none)'} by now. "
            "Nothing was moved: run the pipeline again to compare with that one."
        )
    return target


def turns(versions: Sequence[ModelVersion]) -> list[Turn]:
    """When each version became champion, oldest first.

    For a version that an older release promoted, which recorded no turns, only the first time is known.
    """
    found = []
    for version in versions:
        if TURNS_TAG in version.tags:
            noted = [turn.partition(" ") for turn in version.tags[TURNS_TAG].split(", ")]
        else:
            noted = [(version.tags[PROMOTED_TAG], " ", "promote")] if PROMOTED_TAG in version.tags else []
        for at, _, kind in noted:
            found.append(Turn(at, "rollback" if kind == "rollback" else "promote", version.version))
    return sorted(found, key=lambda turn: turn.at)


def with_turn(version: ModelVersion, kind: str, at: str) -> str:
    """`TURNS_TAG` for a version that becomes champion; a move that is repeated is recorded once."""
    noted = [f"{turn.at} {turn.kind}" for turn in turns([version])]
    return ", ".join(dict.fromkeys([*noted, f"{at} {kind}"]))


def version_to_roll_back_to(
    name: str, versions: Sequence[ModelVersion], asked: str | None = None
) -> ModelVersion:
    """The version to roll back to: the one asked for, or the champion before this one.

    Raises:
        UsageError: There was none, it has never been champion, or the champion is one by a rollback and no
            version is asked for.
    """
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
            f"{previous.version}`, or an older one of `gauntlet registry {name}`."
        )
    if previous is None:
        raise UsageError(
            f"model {name!r}: has had no champion before {champion.version if champion else 'now'}, so there "
            "is none to roll back to. Promote one of its versions instead."
        )
    return previous


def require_bundle(version: ModelVersion, alias: str) -> None:
    """Refuse an alias to a version whose bundle is gone or altered.

    Raises:
        GauntletError: It is, or cannot be read.
    """
    from gauntlet.serving.bundle import BundleError, read_info

    try:
        with bundle_folder(version) as folder:
            read_info(folder, version.tags.get(BUNDLE_TAG))
    except (BundleError, UsageError) as error:
        raise GauntletError(
            f"model {version.name!r}: version {version.version} cannot become {alias}: {error}. Nothing was "
            "moved: restore the bundle, or promote another version."
        ) from None
