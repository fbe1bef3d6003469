"""Vertex AI endpoints: what is deployed to them, how requests are split, and what they answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

import grpc
from google.cloud import aiplatform_v1 as vertex
from google.longrunning.operations_pb2 import (
    GetOperationRequest,
    ListOperationsRequest,
    ListOperationsResponse,
    Operation,
)
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict

from tests.fakes.google_api import ApiError, invalid
from tests.fakes.resources import require_labels

ENDPOINT_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?|[1-9][0-9]{0,8}")
DEPLOYED_ID = re.compile(r"[0-9]{1,10}")
MODEL = re.compile(r"projects/[^/]+/locations/[^/]+/models/[a-z_][a-z0-9_-]*@[\w-]+")
PAGE = 2
Answers = Callable[[str, list[Any]], list[Any]]
"""What a version answers: the name of a deployed model and instances to predictions."""


class EndpointService:
    """The services `EndpointService` and `PredictionService`, and the operations of the former.

    Attributes:
        looks_until_done: How many times the operations of a deployment are listed before it is done.
        failing: Why each version cannot be deployed, by its number.
        answers: What is predicted, unless it is an exception.
        predicted: The endpoint and the deployed model of each request.
    """

    def __init__(self) -> None:
        self.looks_until_done = 0
        self.failing: dict[str, str] = {}
        self.answers: Answers = lambda _, instances: [{} for _ in instances]
        self.predicted: list[tuple[str, str]] = []
        self.endpoints: dict[str, Any] = {}
        self._operations: dict[str, list[tuple[Operation, Callable[[], None] | None]]] = {}
        self._looks: dict[str, int] = {}
        self._numbers = count(1)

    # --- endpoints ---

    def CreateEndpoint(self, request: vertex.CreateEndpointRequest) -> Operation:
        name = f"{request.parent}/endpoints/{request.endpoint_id}"
        if not ENDPOINT_ID.fullmatch(request.endpoint_id):
            raise invalid(f"endpoint_id: {request.endpoint_id!r} is no id")
        if name in self.endpoints:
            raise ApiError(grpc.StatusCode.ALREADY_EXISTS, f"{name} already exists")
        endpoint = request.endpoint
        require_labels(endpoint.labels)
        if endpoint.deployed_models or endpoint.traffic_split:
            raise invalid("endpoint: models are deployed by DeployModel")
        endpoint.name, endpoint.create_time = name, datetime.now(UTC)
        if endpoint.dedicated_endpoint_enabled:
            endpoint.dedicated_endpoint_dns = f"{request.endpoint_id}.europe-west4-1.prediction.vertexai.goog"
        self.endpoints[name] = endpoint
        self._operations[name] = []
        self._change(endpoint)
        return self._done(name, vertex.Endpoint.pb(endpoint))

    def GetEndpoint(self, request: vertex.GetEndpointRequest) -> Any:
        return self._find(request.name)

    def ListEndpoints(self, request: vertex.ListEndpointsRequest) -> Any:
        label = re.fullmatch(r'labels\.(\w+)="([^"]*)"', request.filter)
        if label is None:
            raise invalid(f"filter: {request.filter!r} is not in this fake")
        found = [
            each
            for name, each in self.endpoints.items()
            if name.startswith(f"{request.parent}/endpoints/") and each.labels.get(label[1]) == label[2]
        ]
        start = int(request.page_token or 0)
        more = str(start + PAGE) if start + PAGE < len(found) else ""
        return vertex.ListEndpointsResponse(endpoints=found[start : start + PAGE], next_page_token=more)

    def UpdateEndpoint(self, request: vertex.UpdateEndpointRequest) -> Any:
        stored, given = self._find(request.endpoint.name), request.endpoint
        if given.etag and given.etag != stored.etag:
            raise ApiError(grpc.StatusCode.ABORTED, f"{stored.name}: etag {given.etag} is not current")
        paths = set(request.update_mask.paths)
        if not paths or paths - {"traffic_split", "labels", "display_name"}:
            raise invalid(f"update_mask: {sorted(paths)} is not in this fake")
        if "traffic_split" in paths:
            self._require_split(stored, given.traffic_split)
        require_labels(given.labels)
        for path in paths:
            setattr(stored, path, getattr(given, path))
        self._change(stored)
        return stored

    def DeleteEndpoint(self, request: vertex.DeleteEndpointRequest) -> Operation:
        endpoint = self._find(request.name)
        if endpoint.deployed_models or self._is_busy(endpoint.name):
            raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, f"{endpoint.name} has deployed models")
        del self.endpoints[endpoint.name]
        return self._done(endpoint.name, Empty())

    # --- deployments ---

    def DeployModel(self, request: vertex.DeployModelRequest) -> Operation:
        endpoint, deployed = self._find(request.endpoint), request.deployed_model
        if self._is_busy(endpoint.name):
            raise ApiError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"There are other operations running on the Endpoint {endpoint.name}",
            )
        self._require_deployable(deployed)
        if deployed.id in {each.id for each in endpoint.deployed_models}:
            raise ApiError(grpc.StatusCode.ALREADY_EXISTS, f"DeployedModel {deployed.id} already exists")
        split = {deployed.id if to == "0" else to: share for to, share in request.traffic_split.items()}
        if split:
            self._require_split(endpoint, split, deployed.id)
        version = deployed.model.rpartition("@")[2]
        operation = self._operation(endpoint.name)

        def finish() -> None:
            if version in self.failing:
                operation.error.code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
                operation.error.message = self.failing[version]
            else:
                deployed.model_version_id, deployed.create_time = version, datetime.now(UTC)
                endpoint.deployed_models.append(deployed)
                if split:
                    endpoint.traffic_split = split
                self._change(endpoint)
                response = vertex.DeployModelResponse(deployed_model=deployed)
                operation.response.Pack(vertex.DeployModelResponse.pb(response))
            operation.done = True

        self._operations[endpoint.name].append((operation, finish))
        self._looks[operation.name] = self.looks_until_done
        return operation

    def UndeployModel(self, request: vertex.UndeployModelRequest) -> Operation:
        endpoint, id_ = self._find(request.endpoint), request.deployed_model_id
        if id_ not in {each.id for each in endpoint.deployed_models}:
            raise ApiError(grpc.StatusCode.NOT_FOUND, f"DeployedModel {id_} not found in {endpoint.name}")
        kept = [each for each in endpoint.deployed_models if each.id != id_]
        split = dict(request.traffic_split or endpoint.traffic_split)
        if kept and split.get(id_):
            raise ApiError(
                grpc.StatusCode.FAILED_PRECONDITION, f"DeployedModel {id_} has traffic: {split[id_]} %"
            )
        endpoint.deployed_models = kept
        endpoint.traffic_split = {to: share for to, share in split.items() if kept and to != id_}
        self._change(endpoint)
        return self._done(endpoint.name, vertex.UndeployModelResponse.pb(vertex.UndeployModelResponse()))

    # --- operations ---

    def ListOperations(self, request: ListOperationsRequest) -> ListOperationsResponse:
        self._find(request.name)
        found = self._operations[request.name]
        for operation, finish in found:
            if finish is not None and not operation.done:
                self._look(operation, finish)
        start = int(request.page_token or 0)
        page = [operation for operation, _ in found[start : start + PAGE]]
        more = str(start + PAGE) if start + PAGE < len(found) else ""
        return ListOperationsResponse(operations=page, next_page_token=more)

    def GetOperation(self, request: GetOperationRequest) -> Operation:
        for operation, _ in (each for listed in self._operations.values() for each in listed):
            if operation.name == request.name:
                return operation
        raise ApiError(grpc.StatusCode.NOT_FOUND, f"{request.name} not found")

    # --- predictions ---

    def Predict(self, request: vertex.PredictRequest) -> Any:
        """What the host of the region answers: it knows no dedicated endpoint."""
        endpoint = self._find(request.endpoint)
        if endpoint.dedicated_endpoint_enabled:
            raise ApiError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{endpoint.name} is a dedicated endpoint: use {endpoint.dedicated_endpoint_dns}",
            )
        instances = [MessageToDict(each) for each in vertex.PredictRequest.pb(request).instances]
        return self._predicted(endpoint, instances)

    def answer(self, host: str, path: str, body: bytes) -> tuple[int, bytes]:
        """What a POST to the host of a dedicated endpoint gets."""
        name = path.removeprefix("/v1/").removesuffix(":predict")
        endpoint = self.endpoints.get(name)
        if endpoint is None or endpoint.dedicated_endpoint_dns != host or not path.endswith(":predict"):
            return 404, json.dumps({"error": {"code": 404, "message": f"{path} not found"}}).encode()
        try:
            content = self._predicted(endpoint, json.loads(body)["instances"])
        except ApiError as error:
            fault = {"code": 400, "message": str(error), "status": error.status.name}
            return 400, json.dumps({"error": fault}).encode()
        return 200, vertex.PredictResponse.to_json(content).encode()

    def _predicted(self, endpoint: Any, instances: list[Any]) -> Any:
        if not endpoint.traffic_split:
            raise ApiError(
                grpc.StatusCode.FAILED_PRECONDITION, f"Endpoint {endpoint.name} doesn't have traffic_split."
            )
        of = {each.id: each for each in endpoint.deployed_models}
        chosen = of[max(endpoint.traffic_split.items(), key=lambda each: each[1])[0]]
        self.predicted.append((endpoint.name.rpartition("/")[2], chosen.id))
        predictions = self.answers(chosen.display_name, instances)
        content = {
            "predictions": predictions,
            "deployed_model_id": chosen.id,
            "model": chosen.model.partition("@")[0],
            "model_version_id": chosen.model_version_id,
        }
        return vertex.PredictResponse.from_json(json.dumps(content))

    # --- inside ---

    def _find(self, name: str) -> Any:
        if name not in self.endpoints:
            raise ApiError(grpc.StatusCode.NOT_FOUND, f"{name} not found")
        return self.endpoints[name]

    def _change(self, endpoint: Any) -> None:
        endpoint.etag, endpoint.update_time = f"e{next(self._numbers)}", datetime.now(UTC)

    def _is_busy(self, name: str) -> bool:
        return any(not operation.done for operation, _ in self._operations[name])

    def _look(self, operation: Operation, finish: Callable[[], None]) -> None:
        if self._looks[operation.name] > 0:
            self._looks[operation.name] -= 1
        else:
            finish()

    def _operation(self, endpoint: str) -> Operation:
        operation = Operation(name=f"{endpoint}/operations/{next(self._numbers)}")
        metadata = vertex.DeployModelOperationMetadata(generic_metadata={"create_time": datetime.now(UTC)})
        operation.metadata.Pack(vertex.DeployModelOperationMetadata.pb(metadata))
        return operation

    def _done(self, endpoint: str, response: Any) -> Operation:
        operation = Operation(name=f"{endpoint}/operations/{next(self._numbers)}", done=True)
        operation.response.Pack(response)
        self._operations[endpoint].append((operation, None))
        return operation

    def _require_deployable(self, deployed: Any) -> None:
        if not DEPLOYED_ID.fullmatch(deployed.id):
            raise invalid(f"deployed_model.id: {deployed.id!r} is not 1 to 10 digits")
        if not MODEL.fullmatch(deployed.model):
            raise invalid(f"deployed_model.model: {deployed.model!r} is no model with a version")
        machines = deployed.dedicated_resources
        if not machines.machine_spec.machine_type:
            raise invalid("dedicated_resources.machine_spec.machine_type is required")
        if not 1 <= machines.min_replica_count <= machines.max_replica_count:
            raise invalid("dedicated_resources: 1 <= min_replica_count <= max_replica_count")
        if len(deployed.display_name) > 128:
            raise invalid("deployed_model.display_name: more than 128 characters")

    def _require_split(self, endpoint: Any, split: Mapping[str, int], new: str = "") -> None:
        known = {each.id for each in endpoint.deployed_models} | {new}
        if unknown := sorted(set(split) - known):
            raise invalid(f"traffic_split: unknown deployed models {unknown}")
        if sum(split.values()) != 100 or min(split.values()) < 0:
            raise invalid(f"traffic_split: {dict(split)} does not sum to 100")


class Operations:
    """The service `Operations`, which all services have: an operation's name says of which it is."""

    def __init__(self, endpoints: EndpointService, cloud_run: Any) -> None:
        self._endpoints, self._cloud_run = endpoints, cloud_run

    def GetOperation(self, request: GetOperationRequest) -> Operation:
        of = self._endpoints if "/endpoints/" in request.name else self._cloud_run
        found: Operation = of.GetOperation(request)
        return found

    def ListOperations(self, request: ListOperationsRequest) -> ListOperationsResponse:
        return self._endpoints.ListOperations(request)
