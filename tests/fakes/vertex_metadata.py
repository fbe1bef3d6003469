"""Vertex ML Metadata: the part that experiments take."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from google.cloud import aiplatform_v1 as vertex
from google.longrunning.operations_pb2 import Operation

from tests.fakes.google_api import invalid
from tests.fakes.resources import Resources

METADATA_BYTES = 200_000
CONDITION = re.compile(r'(schema_title|display_name|parent_contexts)[=:]"([^"]*)"')


class MetadataService:
    """The methods that are called by an experiment's runs, and by those who read them.

    Attributes:
        artifacts: The names of each context's artifacts.
    """

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self.artifacts: defaultdict[str, list[str]] = defaultdict(list)

    def CreateMetadataStore(self, request: vertex.CreateMetadataStoreRequest) -> Operation:
        store = self._resources.add(
            request.parent, "metadataStores", request.metadata_store_id, request.metadata_store
        )
        done = Operation(name=f"{request.parent}/operations/1", done=True)
        done.response.Pack(vertex.MetadataStore.pb(store))
        return done

    def GetMetadataStore(self, request: vertex.GetMetadataStoreRequest) -> Any:
        return self._resources.get(request.name)

    def CreateContext(self, request: vertex.CreateContextRequest) -> Any:
        _require_sound(request.context)
        if len(request.context_id) < 4:
            raise invalid(f"context_id: {request.context_id!r} is too short")
        return self._resources.add(request.parent, "contexts", request.context_id, request.context)

    def GetContext(self, request: vertex.GetContextRequest) -> Any:
        return self._resources.get(request.name)

    def ListContexts(self, request: vertex.ListContextsRequest) -> Any:
        asked = [CONDITION.fullmatch(part) for part in request.filter.split(" AND ")]
        if not all(asked):
            raise invalid(f"filter: {request.filter!r} is not in this fake")
        found = [
            context
            for context in self._resources.below(request.parent, "contexts")
            if all(value in _values(context, key) for key, value in (one.groups() for one in asked if one))
        ]
        return vertex.ListContextsResponse(contexts=found)

    def UpdateContext(self, request: vertex.UpdateContextRequest) -> Any:
        if list(request.update_mask.paths) != ["metadata"]:
            raise invalid(f"update_mask: {request.update_mask.paths} is not in this fake")
        _require_sound(request.context)
        context = self._resources.get(request.context.name)
        context.metadata = request.context.metadata
        return context

    def AddContextChildren(self, request: vertex.AddContextChildrenRequest) -> Any:
        self._resources.get(request.context)
        for name in request.child_contexts:
            child = self._resources.get(name)
            if request.context not in child.parent_contexts:
                child.parent_contexts.append(request.context)
        return vertex.AddContextChildrenResponse()

    def CreateArtifact(self, request: vertex.CreateArtifactRequest) -> Any:
        _require_sound(request.artifact)
        return self._resources.add(request.parent, "artifacts", request.artifact_id, request.artifact)

    def GetArtifact(self, request: vertex.GetArtifactRequest) -> Any:
        return self._resources.get(request.name)

    def AddContextArtifactsAndExecutions(
        self, request: vertex.AddContextArtifactsAndExecutionsRequest
    ) -> Any:
        self._resources.get(request.context)
        for name in request.artifacts:
            self._resources.get(name)
            if name not in self.artifacts[request.context]:
                self.artifacts[request.context].append(name)
        return vertex.AddContextArtifactsAndExecutionsResponse()


def _values(context: vertex.Context, key: str) -> list[str]:
    value = getattr(context, key)
    return [value] if isinstance(value, str) else list(value)


def _require_sound(resource: vertex.Context | vertex.Artifact) -> None:
    """Refuse metadata that no JSON holds, and what is too large."""
    leaves = _leaves(resource.metadata or {})
    if not all(math.isfinite(value) for value in leaves if isinstance(value, float)):
        raise invalid("metadata: a number is not finite")
    if type(resource).pb(resource).metadata.ByteSize() > METADATA_BYTES:
        raise invalid(f"metadata: more than {METADATA_BYTES} bytes")


def _leaves(value: Any) -> Iterator[Any]:
    if hasattr(value, "values"):
        for inner in value.values():
            yield from _leaves(inner)
    else:
        yield value
