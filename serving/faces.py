"""What requests and answers look like: Vertex prediction, raw bodies, and the Open Inference Protocol.

Each face turns a body into instances, each a mapping of a row's parts by column, and answers into a body.
Vertex: https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements
Open Inference Protocol v2: https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import binascii
import struct
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from math import prod
from typing import Any

import msgspec
import numpy as np

from gauntlet.serving.interface import Answer, Field, InputError, Part, RowModel

NUMPY = {"FP32": "<f4", "FP64": "<f8"}
SHOWN = 60
GS = "gs://"
CELLS_HEADER = "x-gauntlet-cells"
MOST = 2**31 - 1
"""The largest parameter."""


class Fault(Exception):
    """A request that is answered with an error.

    Attributes:
        reason: One word for a header and a metric.
        headers: More headers of the answer.
    """

    def __init__(
        self, status: int, message: str, reason: str = "request", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, headers or {}


@dataclass(frozen=True)
class Limits:
    """What a request may be.

    Attributes:
        body_bytes: The most bytes of a body.
        instances: The most rows of a request.
        pixels: The most pixels of an image.
        read_object: Reads a file of Cloud Storage by its URI; None refuses such URIs.
    """

    body_bytes: int = 10 * 2**20
    instances: int = 256
    pixels: int = 20_000_000
    read_object: Callable[[str], bytes] | None = None


Instance = Mapping[str, Part]


@dataclass(frozen=True)
class Asked:
    """A request that was understood.

    Attributes:
        answer: Makes the body of the answer, and its headers, from the model's answers in order.
    """

    instances: Sequence[Instance]
    parameters: Mapping[str, float]
    answer: Callable[[Sequence[Answer]], tuple[bytes, Mapping[str, str]]]


def parse(
    model: RowModel,
    identity: Mapping[str, str],
    limits: Limits,
    content_type: str,
    body: bytes,
    has_cells: bool = False,
) -> Asked:
    """A Vertex prediction: JSON with `instances`, or a raw text, image or form.

    `has_cells` adds to the answer what a table for people shows of each prediction, and its notes.

    Raises:
        Fault: It is something else, or over a limit.
    """
    kind = content_type.partition(";")[0].strip().lower()
    parameters: Mapping[str, Any] | None = None
    if kind in ("", "application/json", "application/x-www-form-urlencoded"):  # the last one is curl's
        decoded = decoded_body(body, _Prediction)
        given, parameters = decoded.instances, decoded.parameters
    elif kind == "multipart/form-data":
        given = _form(content_type, body)
    elif kind.partition("/")[0] == model.medium:
        given = [body]
    else:
        raise Fault(415, f"content-type: found {kind}, expected application/json or {model.medium}/…")
    instances = read_instances(given, model, limits)

    def answer(answers: Sequence[Answer]) -> tuple[bytes, Mapping[str, str]]:
        content: dict[str, Any] = {"predictions": [one.content for one in answers], "metadata": identity}
        if has_cells:
            content |= {"cells": [one.cells for one in answers], "notes": [one.note for one in answers]}
        return msgspec.json.encode(content), {}

    return Asked(instances, read_parameters(model, parameters), answer)


def read_instances(given: Sequence[Any], model: RowModel, limits: Limits) -> list[Instance]:
    """The parts of each row by column, or the `Fault` of the first that is wrong."""
    if not given:
        raise Fault(400, "instances: found none, expected at least one")
    if len(given) > limits.instances:
        raise Fault(
            413, f"instances: found {len(given)}, expected at most {limits.instances}. Send several requests"
        )
    found = []
    for index, one in enumerate(given):
        try:
            found.append(_instance(one, model, limits))
        except InputError as error:
            raise Fault(400, f"instances[{index}]: {error}") from None
    return found


def _instance(given: Any, model: RowModel, limits: Limits) -> Instance:
    columns = model.columns
    if not isinstance(given, Mapping) or set(given) == {"b64"}:
        if len(columns) > 1:
            raise InputError(f"found {_shown(given)}, expected an object with {' and '.join(columns)}")
        given = {columns[0]: given}
    if unknown := next((key for key in given if key not in columns), None):
        raise InputError(f"found the key {_shown(unknown)}, expected {' and '.join(columns)}")
    if missing := next((column for column in columns if column not in given), None):
        raise InputError(f"the key {missing!r} is missing")
    read = _text if model.medium == "text" else _image
    return {column: read(given[column], column, limits) for column in columns}


def _text(given: Any, column: str, _limits: Limits) -> str:
    if isinstance(given, bytes):
        given = _utf8(given)
    if not isinstance(given, str):
        raise InputError(f"{column}: found {_shown(given)}, expected a text")
    if not given.strip():
        raise InputError(f"{column}: it is empty")
    return given


def _image(given: Any, column: str, limits: Limits) -> bytes:
    if isinstance(given, bytes):
        return given
    if isinstance(given, Mapping) and set(given) == {"b64"}:
        given = given["b64"]
    if not isinstance(given, str):
        raise InputError(f'{column}: found {_shown(given)}, expected a file in base64, {{"b64": "…"}}')
    if given.startswith(GS):
        if limits.read_object is None:
            raise InputError(f"{column}: found {_shown(given)}, and this server reads no bucket: --allow-gs")
        return limits.read_object(given)
    try:
        return b64decode(given, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{column}: found no base64: {error}") from None


class _Prediction(msgspec.Struct):
    instances: list[Any]
    parameters: dict[str, Any] | None = None


def decoded_body(body: bytes, form: type[Any]) -> Any:
    """The JSON of a body, or a `Fault` that says where it is not of the form."""
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Fault(400, f"the body: {error}") from None


def read_parameters(model: RowModel, given: Mapping[str, Any] | None) -> dict[str, float]:
    """A value for each of a model's parameters, or the `Fault` of one that it does not have."""
    found = dict(model.parameters)
    for name, said in (given or {}).items():
        if name not in found:
            expected = f"one of {', '.join(found)}" if found else "none: this model has no parameters"
            raise Fault(400, f"parameters: found {_shown(name)}, expected {expected}")
        is_whole = isinstance(model.parameters[name], int)
        is_float = isinstance(said, float) and said.is_integer()  # as Google's client sends whole numbers
        value = int(said) if is_whole and is_float else said
        if isinstance(value, bool) or not isinstance(value, int if is_whole else int | float):
            kind = "whole number" if is_whole else "number"
            raise Fault(400, f"parameters.{name}: found {_shown(value)}, expected a {kind}")
        if abs(value) > MOST:
            raise Fault(400, f"parameters.{name}: found {_shown(value)}, expected at most {MOST}")
        found[name] = value
    return found


def _form(content_type: str, body: bytes) -> list[dict[str, bytes]]:
    """The rows of a form: the first files or values of each name are the first row, and so on."""
    header = BytesHeaderParser().parsebytes(f"content-type: {content_type}\r\n\r\n".encode("latin-1"))
    boundary = str(header.get_param("boundary") or "")
    by_name: dict[str, list[bytes]] = {}
    pieces = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1", "replace")) if boundary else []
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise Fault(400, "the body: found no whole multipart form")
    for piece in pieces[1:-1]:
        head, _, content = piece.partition(b"\r\n\r\n")
        name = BytesHeaderParser().parsebytes(head.lstrip()).get_param("name", header="content-disposition")
        by_name.setdefault(str(name), []).append(content)
    lengths = {name: len(values) for name, values in by_name.items()}
    if len(set(lengths.values())) != 1:
        raise Fault(400, f"the body: found {lengths or 'no field'}, expected as many of each field")
    names, columns = list(by_name), list(by_name.values())
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"found bytes that are not UTF-8: {error.reason}") from None


def _shown(value: Any) -> str:
    """What a message quotes of a client's JSON, short."""
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class _Wanted(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Inference(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    outputs: list[_Wanted] | None = None
    parameters: dict[str, Any] = {}


BINARY_SIZE, BINARY, ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
HEADER_LENGTH = "inference-header-content-length"


def describe(model: RowModel, name: str, version: str) -> dict[str, Any]:
    """A model's metadata in the Open Inference Protocol."""
    taken = [{"name": column, "datatype": "BYTES", "shape": [-1]} for column in model.columns]
    given = [{"name": one.name, "datatype": one.datatype, "shape": [-1, *one.shape]} for one in model.fields]
    return {
        "name": name,
        "versions": [version],
        "platform": "onnx_onnxv1",
        "inputs": taken,
        "outputs": given,
    }


def parse_inference(
    model: RowModel, identity: Mapping[str, str], limits: Limits, header_length: str | None, body: bytes
) -> Asked:
    """An inference request of the Open Inference Protocol; raises `Fault`.

    `header_length` is the header with the bytes of its JSON part, after which tensors follow in binary.
    """
    size = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or int(header_length) > size:
            raise Fault(400, f"{HEADER_LENGTH}: found {header_length:.20}, expected at most {size}")
        size = int(header_length)
    asked = decoded_body(body[:size], _Inference)
    parameters = {key: value for key, value in asked.parameters.items() if key != ALL_BINARY}
    fields = _wanted(model, asked)
    columns = _columns(model, asked.inputs, body[size:])
    names = list(columns)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    instances = read_instances(rows, model, limits)

    def answer(answers: Sequence[Answer]) -> tuple[bytes, Mapping[str, str]]:
        outputs, tail = [], b""
        for one, is_binary in fields:
            values = [answer.content[one.name] for answer in answers]
            output = {"name": one.name, "datatype": one.datatype, "shape": [len(answers), *one.shape]}
            if is_binary:
                packed = _packed(one, values)
                outputs.append({**output, "parameters": {BINARY_SIZE: len(packed)}})
                tail += packed
            else:
                outputs.append({**output, "data": _flat(one, values)})
        content = {
            "model_name": identity["model"],
            "model_version": identity["version"],
            **({} if asked.id is None else {"id": asked.id}),
            "parameters": {key: identity[key] for key in ("bundle_sha256", "event")},
            "outputs": outputs,
        }
        head = msgspec.json.encode(content)
        if not tail:
            return head, {}
        return head + tail, {HEADER_LENGTH: str(len(head)), "content-type": "application/octet-stream"}

    return Asked(instances, read_parameters(model, parameters), answer)


def _wanted(model: RowModel, asked: _Inference) -> list[tuple[Field, bool]]:
    """The outputs that are asked for, and whether each is to be binary."""
    by_name = {one.name: one for one in model.fields}
    all_binary = asked.parameters.get(ALL_BINARY) is True
    if asked.outputs is None:
        return [(one, all_binary) for one in model.fields]
    for one in asked.outputs:
        if one.name not in by_name:
            raise Fault(400, f"outputs: found {_shown(one.name)}, expected {', '.join(by_name)}")
        if unknown := next((key for key in one.parameters if key != BINARY), None):
            raise Fault(400, f"outputs.{one.name}: found {_shown(unknown)}, which this server cannot do")
    return [(by_name[one.name], one.parameters.get(BINARY, all_binary) is True) for one in asked.outputs]


def _columns(model: RowModel, inputs: Sequence[_Tensor], binary: bytes) -> dict[str, list[Any]]:
    """The elements of each input."""
    names = [tensor.name for tensor in inputs]
    if sorted(names) != sorted(model.columns):
        raise Fault(400, f"inputs: found {_shown(names)}, expected {', '.join(model.columns)}")
    found: dict[str, list[Any]] = {}
    for tensor in inputs:
        where = f"inputs.{tensor.name}"
        if tensor.datatype != "BYTES":
            raise Fault(400, f"{where}: found the datatype {_shown(tensor.datatype)}, expected BYTES")
        size = tensor.parameters.get(BINARY_SIZE)
        if size is None:
            data = _flattened(tensor.data or [])
        elif isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(binary):
            raise Fault(
                400, f"{where}: {BINARY_SIZE}: found {_shown(size)}, and {len(binary)} bytes are left"
            )
        else:
            data, binary = _unpacked(binary[:size], where), binary[size:]
        rows = tensor.shape[0] if tensor.shape else 0
        if len(data) != rows or prod(tensor.shape) != rows or rows < 0:
            raise Fault(
                400, f"{where}: found the shape {_shown(tensor.shape)} and {len(data)} elements, expected [N]"
            )
        found[tensor.name] = data
    if len(set(map(len, found.values()))) != 1:
        raise Fault(400, "inputs: found another number of rows in one than in another")
    return found


def _flattened(data: Sequence[Any]) -> list[Any]:
    return [one for item in data for one in (item if isinstance(item, list) else [item])]


def _unpacked(data: bytes, where: str) -> list[bytes]:
    """Elements that have their length before them, 4 bytes in little-endian order."""
    found, at = [], 0
    while at < len(data):
        end = at + 4 + (int.from_bytes(data[at : at + 4], "little") if at + 4 <= len(data) else len(data))
        if end > len(data):
            raise Fault(400, f"{where}: its bytes end within an element")
        found.append(data[at + 4 : end])
        at = end
    return found


def _packed(one: Field, values: Sequence[Any]) -> bytes:
    if one.datatype == "BYTES":
        texts = [text.encode() for text in _flat(one, values)]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.array(_flat(one, values), dtype=NUMPY[one.datatype]).tobytes()


def _flat(one: Field, values: Sequence[Any]) -> list[Any]:
    """Row by row; a text that is none is JSON, and of numbers by label only the numbers are taken."""
    if one.datatype == "BYTES":
        return [value if isinstance(value, str) else msgspec.json.encode(value).decode() for value in values]
    if one.shape:
        return [float(number) for value in values for number in value.values()]
    return [float(value) for value in values]
