"""The event that requests a run, and the envelopes that it arrives in.

An event is JSON, the same for every reason:

    {"manifest": "emotion", "reason": "drift", "detail": "PSI of text length 0.31, bound 0.2"}

It arrives as a Pub/Sub push, or as a CloudEvent (its attributes in headers or in the body) whose data is the
event itself or, through Eventarc, a Pub/Sub message.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.section import Name, Section

SPEC_VERSION = "1.0"


class Event(Section):
    """A request for a run.

    Attributes:
        manifest: The name of one of the receiver's manifests.
        reason: Why the run is requested. Only `manual` ignores the cool-down.
        id: Identifies the event if the envelope's ID does not: publish the same event twice with the same ID.
        detail: For people, in the receiver's log.
        dataset_uri: New data, instead of the manifest's; under its `dataset.uri` or one of its
            `dataset.roots`.
        dataset_version: The version of the new data.
    """

    manifest: Name
    reason: Literal["schedule", "drift", "new_data", "manual"]
    id: str | None = Field(None, min_length=1, max_length=200)
    detail: str = Field("", max_length=500)
    dataset_uri: str | None = Field(None, pattern=r"^(gs|https|hf)://\S+$")
    dataset_version: str | None = Field(None, min_length=1, max_length=100)

    @property
    def overrides(self) -> tuple[str, ...]:
        """The manifest's keys that the event sets, in the form of `--set`."""
        given = {"dataset.uri": self.dataset_uri, "dataset.version": self.dataset_version}
        return tuple(f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None)


@dataclass(frozen=True)
class Delivery:
    """An event with its ID, which is the same for every redelivery."""

    id: str
    event: Event

    @property
    def job_id(self) -> str:
        """The ID of this event's pipeline job, so that a redelivery creates no second one."""
        digest = hashlib.sha256(self.id.encode(errors="backslashreplace")).hexdigest()[:16]
        return "-".join((self.event.manifest, self.event.reason, digest)).replace("_", "-")


def read_delivery(headers: Mapping[str, str], body: bytes) -> Delivery:
    """Take the event out of its envelope.

    Args:
        headers: The request's, by lower-case name.
        body: The request's.

    Raises:
        UsageError: The event is not valid; all of its faults are named.
    """
    id_, data = _opened(headers, _parsed(body, "body"))
    if isinstance(data, dict) and "message" in data:
        message = _mapping(data["message"], "message")
        id_ = str(message.get("messageId") or message.get("message_id") or "")
        data = _parsed(_decoded(message.get("data"), "message.data"), "message.data")
    try:
        event = Event.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(_said(fault) for fault in error.errors())
        raise UsageError(f"{faults}. Correct the event and publish it again.") from None
    named = event.id or id_
    if not named:
        raise UsageError(
            "id: found none, expected that of a Pub/Sub message or a CloudEvent, or one in the event: "
            "without it a redelivery would make a second run."
        )
    return Delivery(named, event)


def _said(fault: Mapping[str, Any]) -> str:
    key = ".".join(map(str, fault["loc"])) or "event"
    found = "nothing" if fault["type"] == "missing" else repr(fault["input"])
    return f"{key}: found {found}: {fault['msg']}"


def _opened(headers: Mapping[str, str], content: Any) -> tuple[str, Any]:
    """The ID and the data of a CloudEvent; anything else has no ID and is the data itself."""
    kind = headers.get("content-type", "").partition(";")[0].strip()
    if kind == "application/cloudevents+json":
        attributes = _mapping(content, "body")
        if "data_base64" in attributes:
            data = _parsed(_decoded(attributes["data_base64"], "data_base64"), "data_base64")
        else:
            data = attributes.get("data")
    elif "ce-specversion" in headers:
        attributes = {key.removeprefix("ce-"): headers[key] for key in headers if key.startswith("ce-")}
        data = content
    else:
        return "", content
    missing = [key for key in ("specversion", "id", "source", "type") if not attributes.get(key)]
    if missing:
        raise UsageError(f"CloudEvent: found no {', '.join(missing)}, which are required.")
    if attributes["specversion"] != SPEC_VERSION:
        raise UsageError(
            f"CloudEvent: specversion: found {attributes['specversion']!r}, expected {SPEC_VERSION!r}."
        )
    return f"{attributes['source']} {attributes['id']}", data


def _parsed(content: bytes, where: str) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}.") from None


def _decoded(content: object, where: str) -> bytes:
    try:
        return base64.b64decode(str(content or ""), validate=True)
    except ValueError as error:  # binascii.Error, or a character that is not ASCII
        raise UsageError(f"{where}: not base64: {error}.") from None


def _mapping(content: object, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UsageError(f"{where}: found a JSON {type(content).__name__}, expected an object.")
    return content
