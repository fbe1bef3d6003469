"""Vertex AI Model Registry: models, their versions and aliases, and what versions scored."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any

import grpc
from google.cloud import aiplatform_v1 as vertex
from google.longrunning.operations_pb2 import Operation

from tests.fakes.bucket import Bucket
from tests.fakes.google_api import ApiError, invalid
from tests.fakes.resources import require_labels

ALIAS = re.compile(r"[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]")
MODEL_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}")
ROUTE = re.compile(r"/[\w/.:-]*")
PAGE = 2
"""Versions and models in one answer, few so that clients have to turn pages."""


class ModelService:
    """The methods that a registry calls.

    Attributes:
        evaluations: By the version that they are of, as `projects/…/models/NAME@NUMBER`.
        failing_upload: What the operation of an upload ends with, if it is set, instead of a version.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.evaluations: defaultdict[str, list[Any]] = defaultdict(list)
        self.failing_upload = ""
        self._bucket = bucket
        self._models: dict[str, list[Any]] = {}
        self._numbers = count(1)

    def UploadModel(self, request: vertex.UploadModelRequest) -> Operation:
        model = request.model
        self._require_sound(model)
        done = Operation(name=f"{request.parent}/operations/{next(self._numbers)}", done=True)
        if self.failing_upload:
            done.error.code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
            done.error.message = self.failing_upload
            return done
        if request.parent_model:
            name = request.parent_model.partition("@")[0]
            versions = self._versions(name)
        else:
            if not MODEL_ID.fullmatch(request.model_id):
                raise invalid(f"model_id: {request.model_id!r} is no id")
            name = f"{request.parent}/models/{request.model_id}"
            if name in self._models:
                raise ApiError(grpc.StatusCode.ALREADY_EXISTS, f"{name} already exists")
            versions = self._models[name] = []
            model.version_aliases.append("default")
        model.name = name
        model.version_id = str(int(versions[-1].version_id) + 1 if versions else 1)
        model.version_create_time = datetime.now(UTC)
        versions.append(model)
        self._move(model, model.version_aliases)
        done.response.Pack(
            vertex.UploadModelResponse.pb(
                vertex.UploadModelResponse(model=name, model_version_id=model.version_id)
            )
        )
        return done

    def ListModels(self, request: vertex.ListModelsRequest) -> Any:
        label = re.fullmatch(r"labels\.(\w+):\*", request.filter)
        if label is None:
            raise invalid(f"filter: {request.filter!r} is not in this fake")
        found = [
            self._find(f"{name}@default")
            for name in self._models
            if name.startswith(f"{request.parent}/models/")
        ]
        page, token = _page([model for model in found if label[1] in model.labels], request.page_token)
        return vertex.ListModelsResponse(models=page, next_page_token=token)

    def ListModelVersions(self, request: vertex.ListModelVersionsRequest) -> Any:
        page, token = _page(self._versions(request.name), request.page_token)
        return vertex.ListModelVersionsResponse(models=page, next_page_token=token)

    def GetModel(self, request: vertex.GetModelRequest) -> Any:
        return self._find(request.name)

    def UpdateModel(self, request: vertex.UpdateModelRequest) -> Any:
        if list(request.update_mask.paths) != ["version_description"]:
            raise invalid(f"update_mask: {request.update_mask.paths} is not in this fake")
        if "@" not in request.model.name:
            raise ApiError(
                grpc.StatusCode.FAILED_PRECONDITION, "version_description is a version's, not a model's"
            )
        model = self._find(request.model.name)
        model.version_description = request.model.version_description
        return model

    def MergeVersionAliases(self, request: vertex.MergeVersionAliasesRequest) -> Any:
        model = self._find(request.name)
        self._move(model, request.version_aliases)
        return model

    def ImportModelEvaluation(self, request: vertex.ImportModelEvaluationRequest) -> Any:
        self._find(request.parent)
        evaluation = request.model_evaluation
        if not evaluation.metrics_schema_uri or not evaluation.metrics:
            raise invalid("metrics_schema_uri and metrics are required")
        evaluation.name = f"{request.parent}/evaluations/{next(self._numbers)}"
        self.evaluations[request.parent].append(evaluation)
        return evaluation

    def ListModelEvaluations(self, request: vertex.ListModelEvaluationsRequest) -> Any:
        self._find(request.parent)
        return vertex.ListModelEvaluationsResponse(model_evaluations=self.evaluations[request.parent])

    def _versions(self, name: str) -> list[Any]:
        if name not in self._models:
            raise ApiError(grpc.StatusCode.NOT_FOUND, f"{name} not found")
        return self._models[name]

    def _find(self, name: str) -> Any:
        """A version by its number or an alias, or the default one."""
        model, _, asked = name.partition("@")
        for version in self._versions(model):
            if (asked or "default") in (version.version_id, *version.version_aliases):
                return version
        raise ApiError(grpc.StatusCode.NOT_FOUND, f"{name} not found")

    def _move(self, model: Any, aliases: Sequence[str]) -> None:
        for alias in list(aliases):
            if alias == "-default":
                raise invalid("default cannot be removed")
            if not ALIAS.fullmatch(alias.removeprefix("-")):
                raise invalid(f"version_aliases: {alias!r} is no alias")
        for alias in list(aliases):
            for version in self._models[model.name]:
                kept = [one for one in version.version_aliases if one != alias.removeprefix("-")]
                version.version_aliases = kept
            if not alias.startswith("-"):
                model.version_aliases.append(alias)

    def _require_sound(self, model: Any) -> None:
        require_labels(model.labels)
        container = model.container_spec
        if not container.image_uri and not model.artifact_uri and not container:
            return  # a reference model, which is served elsewhere
        if not container.image_uri:
            raise invalid("model.container_spec.image_uri is required")
        for route in (container.predict_route, container.health_route):
            if not ROUTE.fullmatch(route):
                raise invalid(f"model.container_spec: {route!r} is no route")
        if not any(uri.startswith(f"{model.artifact_uri}/") for uri in self._bucket.objects):
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, f"{model.artifact_uri} holds no object")


def _page(found: Sequence[Any], token: str) -> tuple[Sequence[Any], str]:
    start = int(token or 0)
    return found[start : start + PAGE], str(start + PAGE) if start + PAGE < len(found) else ""
