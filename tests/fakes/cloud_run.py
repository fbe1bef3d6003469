"""Cloud Run: services, their revisions and how requests are split, and what is served at their URLs."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any

import grpc
from google.cloud import run_v2
from google.longrunning.operations_pb2 import GetOperationRequest, Operation

from tests.fakes.google_api import ApiError, invalid
from tests.fakes.resources import require_labels

State = run_v2.Condition.State
LATEST = run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST
TAG = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
FIELDS = {"template", "traffic", "annotations", "labels", "scaling"}
TAG_AND_SERVICE = 46


class CloudRun:
    """The services `Services`, `Revisions` and `Operations`.

    Attributes:
        looks_until_settled: How many times a changed service is seen as it was before.
        failing: The condition of each revision that cannot start, by its bundle's first 12 digits.
        failing_traffic: Whether updates are accepted and then fail, so that traffic stays.
        answers: The predictions for instances, by the bundle's sha256.
        requests: Each revision that was asked at its URL, and the path.
    """

    def __init__(self) -> None:
        self.looks_until_settled = 0
        self.failing: dict[str, dict[str, Any]] = {}
        self.failing_traffic = False
        self.answers: Callable[[str, list[Any]], list[Any]] = lambda _, __: []
        self.requests: list[tuple[str, str]] = []
        self._services: dict[str, run_v2.Service] = {}
        self._revisions: dict[str, run_v2.Revision] = {}
        self._unsettled: dict[str, int] = {}
        self._numbers = count(1)

    # --- Services ---

    def CreateService(self, request: run_v2.CreateServiceRequest) -> Operation:
        name = f"{request.parent}/services/{request.service_id}"
        if name in self._services:
            raise ApiError(grpc.StatusCode.ALREADY_EXISTS, f"{name} already exists")
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?", request.service_id):
            raise invalid(f"service_id: {request.service_id!r} is no id")
        service = request.service
        service.name, service.generation = name, 0
        service.uri = f"https://{request.service_id}-x-ew.a.run.app"
        self._require_sound(service)
        self._services[name] = service
        self._make_revision(service)
        return self._changed(service)

    def UpdateService(self, request: run_v2.UpdateServiceRequest) -> Operation:
        stored = self._find(request.service.name)
        if request.service.etag and request.service.etag != stored.etag:
            raise ApiError(
                grpc.StatusCode.ABORTED, f"{stored.name}: etag {request.service.etag} is not current"
            )
        paths = set(request.update_mask.paths) or FIELDS
        if paths - FIELDS:
            raise invalid(f"update_mask: {sorted(paths - FIELDS)} are not in this fake")
        changed = run_v2.Service(stored)
        for path in paths:
            setattr(changed, path, getattr(request.service, path))
        self._require_sound(changed)
        named = f"{stored.name}/revisions/{changed.template.revision}"
        if "template" in paths and changed.template.revision and named in self._revisions:
            raise ApiError(
                grpc.StatusCode.ALREADY_EXISTS,
                f"Revision named '{changed.template.revision}' with different configuration already exists.",
            )
        self._services[stored.name] = changed
        if changed.template != stored.template:
            self._make_revision(changed)
        return self._changed(changed)

    def GetService(self, request: run_v2.GetServiceRequest) -> run_v2.Service:
        service = self._find(request.name)
        if self._unsettled.get(service.name):
            self._unsettled[service.name] -= 1
        else:
            self._settle(service)
        return service

    def ListRevisions(self, request: run_v2.ListRevisionsRequest) -> run_v2.ListRevisionsResponse:
        self._find(request.parent)
        found = [one for name, one in self._revisions.items() if name.startswith(f"{request.parent}/")]
        start = int(request.page_token or 0)
        more = str(start + 2) if start + 2 < len(found) else ""
        return run_v2.ListRevisionsResponse(revisions=found[start : start + 2], next_page_token=more)

    def GetOperation(self, request: GetOperationRequest) -> Operation:
        return Operation(name=request.name, done=True)

    # --- what is served ---

    def answer(
        self, host: str, path: str, authorization: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """What a POST to the URL of a service or of a tag gets."""
        tag, _, of = host.partition("---")
        tag, of = ("", tag) if not of else (tag, of)
        service = next((one for one in self._services.values() if one.uri == f"https://{of}"), None)
        if service is None:
            return 404, {}, b""
        claims = authorization.removeprefix("Bearer ").split(".")[1]
        if json.loads(base64.urlsafe_b64decode(claims + "=="))["aud"] != service.uri:
            return 401, {}, b"The audience is not the service."
        revision = next((each.revision for each in service.traffic_statuses if each.tag == tag), None)
        if revision is None:
            return 404, {}, b""
        self.requests.append((revision, path))
        found = self._revisions[f"{service.name}/revisions/{revision}"]
        sha256 = found.annotations.get("gauntlet-bundle-sha256", "")
        predictions = self.answers(sha256, json.loads(body)["instances"])
        content = json.dumps({"predictions": predictions}).encode()
        return 200, {"x-gauntlet-bundle-sha256": sha256}, content

    # --- inside ---

    def _find(self, name: str) -> Any:
        if name not in self._services:
            raise ApiError(grpc.StatusCode.NOT_FOUND, f"{name} not found")
        return self._services[name]

    def _changed(self, service: Any) -> Operation:
        service.generation += 1
        service.etag = f'"{service.generation}"'
        service.reconciling = True
        self._unsettled[service.name] = self.looks_until_settled
        return Operation(name=f"{service.name.rpartition('/services/')[0]}/operations/{next(self._numbers)}")

    def _make_revision(self, service: Any) -> None:
        template = service.template
        short = template.revision or f"{service.name.rpartition('/')[2]}-{next(self._numbers):05d}-abc"
        revision = run_v2.Revision(
            name=f"{service.name}/revisions/{short}",
            labels=dict(template.labels),
            annotations=dict(template.annotations),
            containers=list(template.containers),
            create_time=datetime.now(UTC),
            conditions=[{"type_": "Ready", "state": State.CONDITION_RECONCILING}],
        )
        self._revisions[revision.name] = revision
        service.latest_created_revision = revision.name

    def _settle(self, service: Any) -> None:
        """Observe the last change: the newest revision is ready or has failed, and traffic is as asked."""
        if not service.reconciling:
            return
        service.reconciling, service.observed_generation = False, service.generation
        newest = self._revisions[service.latest_created_revision]
        bundle = newest.labels.get("gauntlet-bundle", "")[:12]
        said = self.failing.get(bundle) or {"state": State.CONDITION_SUCCEEDED}
        ready = run_v2.Condition(type_="Ready", **said)
        newest.conditions = [ready]
        if ready.state == State.CONDITION_SUCCEEDED:
            service.latest_ready_revision = newest.name
        service.terminal_condition = ready
        if self.failing_traffic:
            message = "internal error"
            service.terminal_condition = run_v2.Condition(state=State.CONDITION_FAILED, message=message)
            return
        if not service.latest_ready_revision:
            return
        service.traffic_statuses = [
            self._status(service, one) for one in service.traffic or [{"percent": 100}]
        ]

    def _status(self, service: Any, target: Any) -> dict[str, Any]:
        if isinstance(target, dict):  # no target: all requests go to the newest
            target = run_v2.TrafficTarget(type_=LATEST, **target)
        uri = service.uri.replace("https://", f"https://{target.tag}---") if target.tag else ""
        latest = service.latest_ready_revision.rpartition("/")[2]
        revision = latest if target.type_ == LATEST else target.revision
        return {
            "type_": target.type_,
            "revision": revision,
            "percent": target.percent,
            "tag": target.tag,
            "uri": uri,
        }

    def _require_sound(self, service: Any) -> None:
        template = service.template
        require_labels(template.labels)
        for container in template.containers:
            if not container.image:
                raise invalid("template.containers.image is required")
            probe = container.startup_probe
            if probe.timeout_seconds > probe.period_seconds:
                raise invalid("startup_probe: timeout_seconds is more than period_seconds")
            if probe.period_seconds * probe.failure_threshold > 240:
                raise invalid("startup_probe: more than 240 seconds")
            if container.resources.limits.get("cpu") not in ("1", "2", "4", "8"):
                raise invalid("resources.limits: cpu is 1, 2, 4 or 8")
        self._require_traffic(service, service.traffic)

    def _require_traffic(self, service: Any, traffic: Sequence[Any]) -> None:
        if traffic and sum(one.percent for one in traffic) != 100:
            raise invalid("traffic: percents do not sum to 100")
        tags = [one.tag for one in traffic if one.tag]
        if len(set(tags)) < len(tags):
            raise invalid("traffic: a tag is given twice")
        for one in traffic:
            if one.tag and not TAG.fullmatch(one.tag):
                raise invalid(f"traffic: {one.tag!r} is no tag")
            if one.tag and len(one.tag) + len(service.name.rpartition("/")[2]) > TAG_AND_SERVICE:
                raise invalid("traffic: a tag and the service's name are too long")
            if one.type_ == LATEST:
                continue
            found = self._revisions.get(f"{service.name}/revisions/{one.revision}")
            if found is None:
                raise invalid(f"traffic: revision {one.revision!r} not found")
            if found.conditions[0].state != State.CONDITION_SUCCEEDED:
                raise invalid(f"traffic: revision {one.revision!r} is not ready")
