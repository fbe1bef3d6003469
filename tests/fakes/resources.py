"""The resources that a fake of Vertex AI holds, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import grpc

from tests.fakes.google_api import ApiError, invalid

ID = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")
LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")


class Resources:
    """Made once, found by name. What the API documents as required is required here."""

    def __init__(self) -> None:
        self._by_name: dict[str, Any] = {}

    def add(self, parent: str, collection: str, id_: str, resource: Any) -> Any:
        """Keep a resource under its parent, which must be there unless it is a location."""
        if not re.fullmatch(r"projects/[^/]+/locations/[^/]+", parent):
            self.get(parent)
        if not ID.fullmatch(id_):
            raise invalid(f"{collection}: {id_!r} is no id")
        require_labels(getattr(resource, "labels", {}))
        name = f"{parent}/{collection}/{id_}"
        if name in self._by_name:
            raise ApiError(grpc.StatusCode.ALREADY_EXISTS, f"{name} already exists")
        resource.name = name
        self._by_name[name] = resource
        return resource

    def get(self, name: str) -> Any:
        if name not in self._by_name:
            raise ApiError(grpc.StatusCode.NOT_FOUND, f"{name} not found")
        return self._by_name[name]

    def holds(self, name: str) -> bool:
        return name in self._by_name

    def of_location(self, location: str, collection: str) -> list[Any]:
        """The resources directly under a location, which is always there."""
        prefix = f"{location}/{collection}/"
        return [resource for name, resource in self._by_name.items() if name.startswith(prefix)]

    def below(self, parent: str, collection: str) -> list[Any]:
        """The resources directly under a parent, which must be there."""
        self.get(parent)
        prefix = f"{parent}/{collection}/"
        return [resource for name, resource in self._by_name.items() if name.startswith(prefix)]


def require_labels(labels: Mapping[str, str]) -> None:
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key):
            raise invalid(f"label {key!r} is no key")
        if not LABEL_VALUE.fullmatch(value):
            raise invalid(f"label {key}: {value!r} is no value")
