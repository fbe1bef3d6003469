"""What Google's APIs say of every request, held against those that the fakes are sent.

The clients' messages carry no annotations, but their documentation is made of the API's own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any

import proto

REQUIRED = re.compile(r"^ +(\w+) \([^\n]*(?:\n[^\n]*)?\):\n +Required\.", re.MULTILINE)
RESOURCE = re.compile(r"projects/[^/\s]+(?:/locations/(?P<location>[a-z0-9-]+)(?:/[a-zA-Z]+/[^/\s]+)*)?")
NAMES = ("name", "parent", "context", "tensorboard_run", "tensorboard")
ZERO_IS_A_VALUE = ("view",)
"""Enumerations whose first value, which is not on the wire, means something."""
MAKING = ("Create", "BatchCreate", "Upload", "Import")


def fault(method: str, request: Any, locations: Collection[str]) -> str | None:
    """What is missing of what is documented as required, or a resource whose name is none or is elsewhere.

    Inside of what is made, all that is required counts; of what is updated, only the fields in its mask.
    """
    if not isinstance(request, proto.Message):
        return None
    missing = _missing_inside(request) if method.startswith(MAKING) else _missing(request)
    for field in missing:
        return f"{field} is required"
    for field in NAMES:
        name = getattr(request, field, "")
        if not isinstance(name, str) or not name:
            continue
        found = RESOURCE.fullmatch(name)
        if found is None:
            return f"{field}: {name!r} is no resource's name"
        if found["location"] not in (None, *locations):
            return f"{field}: {name!r} is not in {' or '.join(locations)}"
    return None


def _missing(message: proto.Message) -> Iterator[str]:
    yield from (field for field in _required(type(message)) if field not in message)


def _missing_inside(message: proto.Message, path: str = "") -> Iterator[str]:
    yield from (path + field for field in _missing(message))
    for field in type(message).meta.fields:
        value = getattr(message, field)
        for inner in value if isinstance(value, Sequence) else (value,):
            if isinstance(inner, proto.Message) and field in message:
                yield from _missing_inside(inner, f"{path}{field}.")


@cache
def _required(kind: type[proto.Message]) -> tuple[str, ...]:
    required = REQUIRED.findall(kind.__doc__ or "")
    return tuple(name for name in required if name in kind.meta.fields and name not in ZERO_IS_A_VALUE)
