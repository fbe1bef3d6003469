"""A stand-in for Terraform's providers google and google-beta that knows the schema and nothing else.

Terraform asks it what there is and then checks a configuration itself: names, types, required arguments,
references, functions. It speaks version 5 of the plugin protocol on loopback; Terraform attaches to it by
TF_REATTACH_PROVIDERS, as it does to a provider that is being debugged.
https://developer.hashicorp.com/terraform/plugin/terraform-plugin-protocol
"""

from __future__ import annotations

import gzip
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from tests.infra.provider_schema import SCHEMA

NESTING = {"single": 1, "list": 2}
NO_FAULT = b""


class Provider:
    """The server.

    Attributes:
        environment: What makes Terraform attach to it, and look for no other.
    """

    def __init__(self) -> None:
        schema = json.loads(gzip.decompress(SCHEMA.read_bytes()))
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((_Handler(_schemas(schema)),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        plugin = {
            "Protocol": "grpc",
            "ProtocolVersion": 5,
            "Pid": os.getpid(),
            "Test": True,
            "Addr": {"Network": "tcp", "String": f"127.0.0.1:{port}"},
        }
        addresses = [f"registry.terraform.io/hashicorp/{name}" for name in ("google", "google-beta")]
        self.environment = {"TF_REATTACH_PROVIDERS": json.dumps(dict.fromkeys(addresses, plugin))}

    def close(self) -> None:
        self._server.stop(grace=None).wait()


class _Handler(grpc.GenericRpcHandler):
    """Answers with the schema when asked for it, and finds no fault of its own in anything else."""

    def __init__(self, schema: bytes) -> None:
        self._answers = {"GetSchema": schema}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        _, service, method = handler_call_details.method.split("/")
        if service != "tfplugin5.Provider":  # the plugin's output, and connections back to Terraform
            return None
        answer = self._answers.get(method, NO_FAULT)
        return grpc.unary_unary_rpc_method_handler(lambda *_: answer)


# The messages of tfplugin5.proto, in protobuf's wire format.


def _field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _schemas(schema: dict[str, Any]) -> bytes:
    """A `GetProviderSchema.Response`."""
    made = _field(1, _schema(schema["provider"]))
    for number, kind in ((2, "resource_schemas"), (3, "data_source_schemas")):
        for name, each in schema[kind].items():
            made += _field(number, _field(1, name) + _field(2, _schema(each)))
    return made


def _schema(schema: dict[str, Any]) -> bytes:
    return _field(1, schema["version"]) + _field(2, _block(schema["block"]))


def _block(block: dict[str, Any]) -> bytes:
    attributes = (_field(2, _attribute(name, each)) for name, each in block["attributes"].items())
    nested = (_field(3, _nested(name, each)) for name, each in block["block_types"].items())
    return b"".join((*attributes, *nested))


def _attribute(name: str, attribute: dict[str, Any]) -> bytes:
    made = _field(1, name) + _field(2, json.dumps(attribute["type"]))
    for number, flag in ((4, "required"), (5, "optional"), (6, "computed")):
        made += _field(number, int(attribute.get(flag, False)))
    return made


def _nested(name: str, nested: dict[str, Any]) -> bytes:
    made = _field(1, name) + _field(2, _block(nested["block"])) + _field(3, NESTING[nested["nesting_mode"]])
    return made + _field(4, nested["min_items"]) + _field(5, nested["max_items"])
