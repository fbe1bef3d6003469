"""The registry on Google Cloud: Vertex AI Model Registry, with the bundles in a bucket.

Vertex AI's own alias `default` always points to a version: to the first one, because Vertex AI sets it, and
after a promotion to the champion. An endpoint gets it when it asks for no version.

The tags of a version are the lines of its description, because a label can hold neither a dot nor a whole
sha256. Labels are for searching in the console. The scores are a model evaluation of the version.

Without a `serving_image` a version is a reference model: it has no container and no artifact folder, so its
bundle's folder is among the tags, and it cannot be deployed to an endpoint.
https://cloud.google.com/vertex-ai/docs/model-monitoring/set-up-model-monitoring
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from gauntlet.backends.content_store import read_evidence, require_bundle, store_bundle, store_evidence
from gauntlet.backends.google.calls import ask, ask_once, explained, find_or_make, vertex_client
from gauntlet.backends.google.jobs import PipelineJobs
from gauntlet.backends.google.location import VertexLocation, valid_label
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
    with_alias,
    with_turn,
)
from gauntlet.backends.storage import join
from gauntlet.manifests.errors import GauntletError, UsageError

DEFAULT = "default"
BUNDLE_URI_TAG = "bundle_uri"
"""A tag on a version without an artifact folder: the folder of its bundle."""
BEFORE_TAG = "champion_before"
"""A tag on a champion: the version that was champion before it, and gets the alias `previous`."""

LABELS = (RUN_TAG, BUNDLE_TAG, "manifest_sha256", "data_sha256", "git_commit")
SECONDS_TO_UPLOAD = 300.0

PREDICT_ROUTE = "/predict"
HEALTH_ROUTE = "/health"
PORT = 8080
"""Where Vertex AI sends requests to the serving image."""

SCHEMAS = "gs://google-cloud-aiplatform/schema/modelevaluation/"
CLASSIFICATION = f"{SCHEMAS}classification_metrics_1.0.0.yaml"
TEXT_GENERATION = f"{SCHEMAS}general_text_generation_metrics_1.0.0.yaml"
EVALUATION_NAME = "test split"


class VertexRegistry(Registry):
    """A `Registry` in one project and region of Vertex AI.

    Every write is idempotent; one whose answer may be lost is looked for before it is repeated. Vertex AI has
    no lock: of two promotions at the same time the later wins, and the earlier gets an error.
    """

    def __init__(self, uri: str) -> None:
        """Check the URI, or raise a `UsageError` if it is no location with a folder for bundles."""
        self._location = VertexLocation.of(uri, "registry URI")
        if self._location.staging is None:
            raise UsageError(
                "registry URI: found no staging, expected vertex://PROJECT/REGION?staging=gs://BUCKET/FOLDER:"
                " the registry stores bundles in that folder."
            )
        self._staging = self._location.staging

    # --- reading ---

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """None also for a name that Vertex AI does not accept."""
        return with_alias(self._known(name), alias)

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions by descending number."""
        known = self._known(name)
        if not known:
            raise unknown_model(name, self._location.parent, self.names())
        return known

    def names(self) -> list[str]:
        """Of the models that Gauntlet registered; others in the same project are left out."""
        ours = f"labels.{BUNDLE_TAG}:*"
        with explained(self._location.host):
            models = list(ask(self._service.list_models, parent=self._location.parent, filter=ours))
        return sorted(_model_id(model) for model in models)

    # --- writing ---

    def _store(self, name: str, bundle: Path, sha256: str) -> str:
        bundle_uri = join(self._folder(name), sha256)
        store_bundle(bundle, bundle_uri)
        return bundle_uri

    def _store_evidence(self, name: str, stored: str, evidence: Mapping[str, Any]) -> str:  # noqa: ARG002
        return store_evidence(self._folder(name), evidence)

    def _create(
        self, name: str, stored: str, tags: Mapping[str, str], scores: Scores | AnswerScores | None
    ) -> ModelVersion:
        """The scores become a model evaluation of the version."""
        version = find_or_make(
            lambda: version_of_bundle(self._known(name), tags[BUNDLE_TAG], tags[RUN_TAG])[0],
            lambda: self._upload(name, stored, tags),
        )
        if scores is not None and version.tags.get(RUN_TAG) == tags[RUN_TAG]:
            self._import_evaluation(version, scores)
        return version

    # --- moving aliases ---

    def _writing(self) -> AbstractContextManager[None]:
        return explained(self._location.host)

    def _require_bundle(self, version: ModelVersion, alias: str) -> None:
        require_bundle(version, alias)

    def _move(
        self, kind: str, target: ModelVersion, champion: ModelVersion | None, approval: Approval | None
    ) -> None:
        """Record on the version whom it replaces, move `champion` and `default` in one call, then `previous`.

        After each of these calls the aliases and tags say what is left to do.
        """
        at = now("milliseconds")
        recorded = {} if champion is None else {BEFORE_TAG: champion.version}
        recorded |= {TURNS_TAG: with_turn(target, kind, at), **(approval.tags(at) if approval else {})}
        leaving = [f"-{CHALLENGER}"] if CHALLENGER in target.aliases else []
        ask(
            self._service.update_model,
            model={
                "name": self._resource(target),
                "version_description": _as_text({PROMOTED_TAG: at, **target.tags, **recorded}),
            },
            update_mask={"paths": ["version_description"]},
        )
        self._set_alias(target, CHAMPION, DEFAULT, *leaving)
        self._finish_move(target.name)

    def _finish_move(self, name: str) -> str | None:
        """Point `previous` to the version that was champion before, unless it does that already."""
        versions = self.versions(name)
        champion = with_alias(versions, CHAMPION)
        number = None if champion is None else champion.tags.get(BEFORE_TAG)
        before = next((version for version in versions if version.version == number), None)
        if champion is None or before is None or PREVIOUS in before.aliases:
            return None
        self._set_alias(before, PREVIOUS)
        return "rollback" if PREVIOUS in champion.aliases else "promote"

    def _set_alias(self, version: ModelVersion, *aliases: str) -> None:
        """Point aliases to a version. An alias with a hyphen in front is removed from it."""
        ask(self._service.merge_version_aliases, name=self._resource(version), version_aliases=aliases)

    # --- versions ---

    def _known(self, name: str) -> list[ModelVersion]:
        from google.api_core.exceptions import NotFound

        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", name):
            return []
        parent = f"{self._location.parent}/models/{name}"
        with explained(self._location.host), suppress(NotFound):
            found = map(_describe, ask(self._service.list_model_versions, name=parent))
            return sorted(found, key=lambda version: int(version.version), reverse=True)
        return []

    def _upload(self, name: str, bundle_uri: str, tags: Mapping[str, str]) -> None:
        """Create a version without any alias; Vertex AI makes the first one `default`."""
        model = {
            "display_name": name,
            "labels": {key: valid_label(tags[key]) for key in LABELS if tags.get(key)},
            **self._content(bundle_uri, tags),
            "pipeline_job": self._pipeline_job(tags[RUN_TAG]),
        }
        parent = self._location.parent
        of_model = {"parent_model": f"{parent}/models/{name}"} if self._known(name) else {"model_id": name}
        operation = ask_once(self._service.upload_model, parent=parent, model=model, **of_model)
        try:
            operation.result(timeout=SECONDS_TO_UPLOAD)
        except TimeoutError:
            raise GauntletError(
                f"{self._location.host}: {bundle_uri} is not registered after {SECONDS_TO_UPLOAD:g} s. "
                "Run this again: if the version was created since then, it is found."
            ) from None

    def _content(self, bundle_uri: str, tags: Mapping[str, str]) -> dict[str, Any]:
        """The bundle and the container that serves it. Vertex AI accepts no artifact folder without one."""
        if self._location.serving_image is None:
            return {"version_description": _as_text({**tags, BUNDLE_URI_TAG: bundle_uri})}
        container = {
            "image_uri": self._location.serving_image,
            "predict_route": PREDICT_ROUTE,
            "health_route": HEALTH_ROUTE,
            "ports": [{"container_port": PORT}],
        }
        text = _as_text(tags)
        return {"version_description": text, "artifact_uri": bundle_uri, "container_spec": container}

    def _pipeline_job(self, run_id: str) -> str:
        """The pipeline job with this run id; empty for a run elsewhere."""
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,127}", run_id):
            return ""
        job = PipelineJobs(self._location).find(f"{self._location.parent}/pipelineJobs/{run_id}")
        return "" if job is None else str(job.name)

    def _import_evaluation(self, version: ModelVersion, scores: Scores | AnswerScores) -> None:
        """Give a version its model evaluation, unless it has one."""
        if isinstance(scores, AnswerScores):
            # On sacrebleu's scale, 0 to 100. The schema's rougeLSum is not our ROUGE-L, so it is left out.
            schema, metrics = TEXT_GENERATION, {"bleu": 100 * scores.bleu}
        else:
            schema, metrics = CLASSIFICATION, _classification_metrics(scores)
        evaluation = {"display_name": EVALUATION_NAME, "metrics_schema_uri": schema, "metrics": metrics}
        parent = self._resource(version)

        def find() -> Any:
            found = ask(self._service.list_model_evaluations, parent=parent)
            return next((one for one in found if one.display_name == EVALUATION_NAME), None)

        importing = self._service.import_model_evaluation
        find_or_make(find, lambda: ask_once(importing, parent=parent, model_evaluation=evaluation))

    # --- resources ---

    @cached_property
    def _service(self) -> Any:
        return vertex_client("ModelServiceClient", self._location)

    def _read_evidence(self, version: ModelVersion, sha256: str) -> dict[str, Any]:
        return read_evidence(self._folder(version.name), sha256)

    def _folder(self, name: str) -> str:
        return join(self._staging, f"models/{name}")

    def _resource(self, version: ModelVersion) -> str:
        return f"{self._location.parent}/models/{version.name}@{version.version}"


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


def _classification_metrics(scores: Scores) -> dict[str, Any]:
    """The scores in the form of the schema.

    With one label and one prediction per row, micro-averaged precision, recall and F1 equal the accuracy.
    """
    names = [{"id": str(at), "displayName": label} for at, label in enumerate(scores.labels)]
    at_all_thresholds = {
        "confidenceThreshold": 0.0,
        "maxPredictions": 1,
        "recall": scores.accuracy,
        "precision": scores.accuracy,
        "f1Score": scores.accuracy,
        "f1ScoreMicro": scores.accuracy,
        "f1ScoreMacro": scores.macro_f1,
    }
    return {
        "confidenceMetrics": [at_all_thresholds],
        "confusionMatrix": {"annotationSpecs": names, "rows": [list(row) for row in scores.confusion]},
    }
