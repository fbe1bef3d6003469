"""The registry on Google Cloud: Vertex AI Model Registry, with the bundles in a bucket.

What Vertex calls what: a model has versions, and an alias points to one version of a model. The alias
`default` always points to one: to the first version, because Vertex gives it that, and from then on to the
champion. It is what an endpoint gets that asks for no version in particular.

The tags of a version are the lines of its description, since a label holds neither a dot nor a whole sha256.
Labels are what versions are searched by in the console.

Without a `serving_image` a version is what Vertex calls a reference model: it has neither a container nor an
artifact folder, so its bundle's folder is among the tags. It cannot be deployed to an endpoint.
https://cloud.google.com/vertex-ai/docs/model-monitoring/set-up-model-monitoring
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from gauntlet.backends.content_store import fetch_evidence, upload_bundle, upload_evidence
from gauntlet.backends.google.calls import ask, ask_once, explained, find_or_make
from gauntlet.backends.google.evaluation import import_evaluation
from gauntlet.backends.google.jobs import PipelineJobs
from gauntlet.backends.google.location import VertexLocation, valid_label
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
from gauntlet.backends.storage import join
from gauntlet.manifests.errors import GauntletError, UsageError

DEFAULT = "default"
BUNDLE_URI_TAG = "bundle_uri"
"""On a version that has no artifact folder of its own: where its bundle is."""
BEFORE_TAG = "champion_before"
"""On a champion: the version that was champion before it, so that `previous` can be told from it."""

LABELS = (RUN_TAG, BUNDLE_TAG, "manifest_sha256", "data_sha256", "git_commit")
SECONDS_TO_UPLOAD = 300.0

PREDICT_ROUTE = "/predict"
HEALTH_ROUTE = "/health"
PORT = 8080
"""What Vertex asks the serving image at."""


class VertexRegistry:
    """A `Registry` in one project and location of Vertex AI.

    Every write can be repeated, and one whose answer was lost is looked for before it is repeated. A
    promotion that is cut short after `champion` has moved is finished by the next `promote` or `rollback`.
    Vertex has no lock: of two promotions at the same time the later wins, and the earlier gets an error.
    """

    def __init__(self, place: VertexLocation) -> None:
        """Ask nothing yet.

        Raises:
            UsageError: The place names no folder for bundles.
        """
        if place.staging is None:
            raise UsageError(
                "registry URI: found no staging, expected vertex://PROJECT/LOCATION?staging=gs://BUCKET/FOLDER:"
                " bundles are kept in the folder."
            )
        self._place = place
        self._staging = place.staging

    # --- reading ---

    def champion(self, name: str) -> ModelVersion | None:
        """The version with the alias `champion`."""
        return self.by_alias(name, CHAMPION)

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """None also for a name that Vertex would not take."""
        return with_alias(self._known(name), alias)

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions by descending number."""
        known = self._known(name)
        if not known:
            raise UsageError(
                f"model {name!r}: not in {self._place.parent}, which has "
                f"{', '.join(self.names()) or 'none yet'}. Run its pipeline first, or correct the name."
            )
        return known

    def names(self) -> list[str]:
        """Of the models that were registered here; others in the same project are left out."""
        ours = f"labels.{BUNDLE_TAG}:*"
        with explained(self._place.host):
            models = list(ask(self._service.list_models, parent=self._place.parent, filter=ours))
        return sorted(_model_id(model) for model in models)

    def evidence(self, version: ModelVersion) -> dict[str, Any] | None:
        """Read from the file in the bucket whose sha256 the version has as a tag.

        Raises:
            GauntletError: It is gone, or was altered.
        """
        sha256 = version.tags.get(EVIDENCE_TAG)
        return None if sha256 is None else fetch_evidence(self._kept(version.name), sha256)

    # --- writing ---

    def register(
        self,
        name: str,
        bundle: Path,
        tags: Mapping[str, str],
        evidence: Mapping[str, Any] | None = None,
        scores: Scores | AnswerScores | None = None,
    ) -> ModelVersion:
        """The scores become a model evaluation of the version.

        Raises:
            GauntletError: The bundle is incomplete or altered, or the service refuses.
        """
        from gauntlet.serving.bundle import BUNDLE_FILE, file_sha256

        sha256 = file_sha256(bundle / BUNDLE_FILE)
        kept = join(self._kept(name), sha256)
        upload_bundle(bundle, kept)
        if evidence is not None:
            tags = {**tags, EVIDENCE_TAG: upload_evidence(self._kept(name), evidence)}
        identity = {BUNDLE_TAG: sha256, RUN_TAG: tags.get(RUN_TAG, "")}
        with explained(self._place.host):
            version = find_or_make(
                lambda: self._registered(name, identity),
                lambda: self._upload(name, kept, {**tags, **identity}),
            )
            if scores is not None and version.tags.get(RUN_TAG) == identity[RUN_TAG]:
                import_evaluation(self._service, self._resource(version), scores)
            served = version_of_bundle([version], sha256, identity[RUN_TAG])[1]
            if not served and CHALLENGER not in version.aliases:
                self._merge_aliases(version, CHALLENGER)
        return with_number(name, self.versions(name), version.version)

    def stage(self, name: str, version: str) -> ModelVersion:
        """The version stays challenger, if it is that.

        Raises:
            UsageError: There is no such model or version.
            GauntletError: The bundle was altered.
        """
        target = with_number(name, self.versions(name), version)
        require_bundle(target, STAGING)
        with explained(self._place.host):
            self._merge_aliases(target, STAGING)
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
            GauntletError: The champion is not the one that was compared with, the bundle was altered, or
                another promotion came in between.
        """
        finished = self._finish_move(name) == "promote"
        versions = self.versions(name)
        target = version_to_promote(name, versions, version, compared_with, finished)
        champion = with_alias(versions, CHAMPION)
        if target == champion:
            return Move(target, with_alias(versions, PREVIOUS), moved=finished)
        return self._move("promote", target, champion, approval)

    def rollback(self, name: str, version: str | None = None) -> Move:
        """A rollback that was cut short is finished, instead of being undone.

        Raises:
            UsageError: There is no such model or version, no champion before this one, or the champion is one
                by a rollback and no version is asked for.
            GauntletError: The bundle was altered, or another promotion came in between.
        """
        finished = self._finish_move(name) == "rollback"
        versions = self.versions(name)
        champion, previous = with_alias(versions, CHAMPION), with_alias(versions, PREVIOUS)
        if champion is not None and finished and version in (None, champion.version):
            return Move(champion, previous, moved=True)
        target = version_to_roll_back_to(name, versions, version)
        if target == champion:
            return Move(target, previous, moved=False)
        return self._move("rollback", target, champion)

    # --- moving aliases ---

    def _move(
        self,
        kind: str,
        target: ModelVersion,
        champion: ModelVersion | None,
        approval: Approval | None = None,
    ) -> Move:
        """Say on the version whom it replaces, move `champion` and `default` in one call, then `previous`.

        After each of these the aliases and tags tell what is left to be done.
        """
        require_bundle(target, CHAMPION)
        at = now("milliseconds")
        noted = {} if champion is None else {BEFORE_TAG: champion.version}
        noted |= {TURNS_TAG: with_turn(target, kind, at), **(approval.tags(at) if approval else {})}
        leaving = [f"-{CHALLENGER}"] if CHALLENGER in target.aliases else []
        with explained(self._place.host):
            ask(
                self._service.update_model,
                model={
                    "name": self._resource(target),
                    "version_description": _as_text({PROMOTED_TAG: at, **target.tags, **noted}),
                },
                update_mask={"paths": ["version_description"]},
            )
            self._merge_aliases(target, CHAMPION, DEFAULT, *leaving)
        self._finish_move(target.name)
        versions = self.versions(target.name)
        found = with_alias(versions, CHAMPION)
        if found is None or found.version != target.version:
            winner = "(none)" if found is None else found.version
            raise GauntletError(
                f"model {target.name!r}: version {winner} became champion while "
                f"{target.version} was being promoted. See `gauntlet registry`, then promote the one to keep."
            )
        return Move(found, with_alias(versions, PREVIOUS), moved=True)

    def _finish_move(self, name: str) -> str | None:
        """Let `previous` follow `champion`. Returns which kind of move had been cut short, if one had."""
        versions = self.versions(name)
        champion = with_alias(versions, CHAMPION)
        number = None if champion is None else champion.tags.get(BEFORE_TAG)
        before = next((version for version in versions if version.version == number), None)
        if champion is None or before is None or PREVIOUS in before.aliases:
            return None
        with explained(self._place.host):
            self._merge_aliases(before, PREVIOUS)
        return "rollback" if PREVIOUS in champion.aliases else "promote"

    def _merge_aliases(self, version: ModelVersion, *aliases: str) -> None:
        """Point aliases to a version, whatever they pointed to; one with a hyphen before it goes."""
        request = {"name": self._resource(version), "version_aliases": aliases}
        ask(self._service.merge_version_aliases, **request)

    # --- versions ---

    def _known(self, name: str) -> list[ModelVersion]:
        from google.api_core.exceptions import NotFound

        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
            return []
        with explained(self._place.host), suppress(NotFound):
            models = list(ask(self._service.list_model_versions, name=f"{self._place.parent}/models/{name}"))
            return sorted(map(_describe, models), key=lambda version: int(version.version), reverse=True)
        return []

    def _registered(self, name: str, identity: Mapping[str, str]) -> ModelVersion | None:
        return version_of_bundle(self._known(name), identity[BUNDLE_TAG], identity[RUN_TAG])[0]

    def _upload(self, name: str, bundle_uri: str, tags: Mapping[str, str]) -> None:
        """Make a version without any alias, which is to say not the default one, unless it is the first."""
        model = {
            "display_name": name,
            "labels": {key: valid_label(tags[key]) for key in LABELS if tags.get(key)},
            **self._content(bundle_uri, tags),
            "pipeline_job": self._pipeline_job(tags[RUN_TAG]),
        }
        parent = self._place.parent
        of_model = {"parent_model": f"{parent}/models/{name}"} if self._known(name) else {"model_id": name}
        operation = ask_once(self._service.upload_model, parent=parent, model=model, **of_model)
        try:
            operation.result(timeout=SECONDS_TO_UPLOAD)
        except TimeoutError:
            raise GauntletError(
                f"{self._place.host}: {bundle_uri} is not registered after {SECONDS_TO_UPLOAD:g} s. "
                "Run this again: it finds what was registered meanwhile."
            ) from None

    def _content(self, bundle_uri: str, tags: Mapping[str, str]) -> dict[str, Any]:
        """The bundle, with the container that serves it: Vertex takes no artifact folder without one."""
        if self._place.serving_image is None:
            return {"version_description": _as_text({**tags, BUNDLE_URI_TAG: bundle_uri})}
        container = {
            "image_uri": self._place.serving_image,
            "predict_route": PREDICT_ROUTE,
            "health_route": HEALTH_ROUTE,
            "ports": [{"container_port": PORT}],
        }
        return {
            "version_description": _as_text(tags),
            "artifact_uri": bundle_uri,
            "container_spec": container,
        }

    def _pipeline_job(self, run_id: str) -> str:
        """The job on Vertex whose run this is; empty for a run elsewhere."""
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,127}", run_id):
            return ""
        job = PipelineJobs(self._place).find(f"{self._place.parent}/pipelineJobs/{run_id}")
        return "" if job is None else str(job.name)

    # --- Vertex ---

    @cached_property
    def _service(self) -> Any:
        from google.cloud import aiplatform_v1

        return aiplatform_v1.ModelServiceClient(client_options={"api_endpoint": self._place.host})

    def _kept(self, name: str) -> str:
        return join(self._staging, f"models/{name}")

    def _resource(self, version: ModelVersion) -> str:
        return f"{self._place.parent}/models/{version.name}@{version.version}"


def _describe(model: Any) -> ModelVersion:
    lines = (line.partition(":") for line in model.version_description.splitlines())
    tags = {key: value.strip() for key, _, value in lines}
    return ModelVersion(
        name=_model_id(model),
        version=model.version_id,
        bundle_uri=model.artifact_uri or tags.get(BUNDLE_URI_TAG, ""),
        aliases=tuple(sorted(model.version_aliases)),
        tags=tags,
        created=model.version_create_time,
    )


def _model_id(model: Any) -> str:
    return str(model.name).rpartition("/")[2].partition("@")[0]


def _as_text(tags: Mapping[str, str]) -> str:
    return "\n".join(f"{key}: {' '.join(value.splitlines())}" for key, value in tags.items())
