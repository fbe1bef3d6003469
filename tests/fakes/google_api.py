"""A gRPC front for fakes of Google Cloud's services: real requests on loopback, by TLS, checked and recorded.

A fake is a class whose methods are called as the service's are, `CreateContext`, and take and return the
client library's own messages. What it raises as an `ApiError` reaches the client as that status.
"""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import grpc
import proto
import trustme
from google.protobuf.message import Message

from tests.fakes import contract

WITHOUT_ROUTING = ("ListLogEntries",)


@dataclass(frozen=True)
class Failure:
    """What becomes of one call: its status, and whether the service does first what it was asked for."""

    status: grpc.StatusCode
    message: str = "told to fail"
    after_the_write: bool = False


class ApiError(Exception):
    """A status that is not OK."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status


def invalid(message: str) -> ApiError:
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, message)


class GoogleApi:
    """A server of several services, of resources in these locations.

    Attributes:
        calls: Each call's method and request, in the order in which they came.
        failing: The status that every call gets, if it is set.
        failures: What becomes of the next calls of a method, one each; None: what it was asked for.
    """

    def __init__(
        self,
        messages: Sequence[ModuleType],
        services: Mapping[str, object],
        certificate: trustme.LeafCert,
        locations: Sequence[str],
    ) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.failing: grpc.StatusCode | None = None
        self.failures: defaultdict[str, list[Failure | None]] = defaultdict(list)
        self._messages = messages
        self._services = services
        self._locations = locations
        self._server = grpc.server(ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((_Handler(self._handler),))
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        credentials = grpc.ssl_server_credentials([(certificate.private_key_pem.bytes(), chain)])
        self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    def requests(self, method: str) -> list[Any]:
        """What was asked of one method."""
        return [request for called, request in self.calls if called == method]

    def close(self) -> None:
        self._server.stop(grace=None).wait()

    def _handler(self, path: str) -> grpc.RpcMethodHandler | None:
        """What answers `/google.cloud.aiplatform.v1.MetadataService/GetContext`."""
        service, method = path.rsplit(".", 1)[-1].split("/")
        answering = getattr(self._services.get(service), method, None)
        if answering is None:  # the client gets UNIMPLEMENTED
            return None
        kinds = (getattr(module, f"{method}Request", None) for module in self._messages)
        request_type: Any = next(filter(None, kinds))
        reads = getattr(request_type, "deserialize", None) or request_type.FromString

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                return self._answer(method, answering, request, dict(context.invocation_metadata()))
            except ApiError as error:
                context.abort(error.status, str(error))

        def stream(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                yield from answer(request, context)
            except ApiError as error:
                context.abort(error.status, str(error))

        if inspect.isgeneratorfunction(answering):
            return grpc.unary_stream_rpc_method_handler(
                stream, request_deserializer=reads, response_serializer=_serialized
            )
        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=reads, response_serializer=_serialized
        )

    def _answer(self, method: str, answering: Callable[[Any], Any], request: Any, headers: Any) -> Any:
        self.calls.append((method, request))
        if self.failing is not None:
            raise ApiError(self.failing, "told to fail")
        if not re.fullmatch(r"Bearer \S+", headers.get("authorization", "")):
            raise ApiError(grpc.StatusCode.UNAUTHENTICATED, "no bearer token")
        if (
            "x-goog-request-params" not in headers and method not in WITHOUT_ROUTING
        ):  # a real front end finds the resource by it
            raise invalid(f"{method}: no routing header")
        fault = contract.fault(method, request, self._locations)
        if fault is not None:
            raise invalid(fault)
        failure = self.failures[method].pop(0) if self.failures[method] else None
        if failure is None:
            return answering(request)
        if failure.after_the_write:
            answering(request)
        raise ApiError(failure.status, failure.message)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, find: Callable[[str], grpc.RpcMethodHandler | None]) -> None:
        self._find = find

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._find(handler_call_details.method)


def _serialized(message: Message | proto.Message) -> bytes:
    return message.SerializeToString() if isinstance(message, Message) else type(message).serialize(message)
