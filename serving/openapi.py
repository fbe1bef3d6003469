"""The OpenAPI document of a running server, and a page that shows it with commands to copy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from gauntlet.serving.faces import Limits, describe
from gauntlet.serving.interface import RowModel
from gauntlet.serving.openai import CHAT, IGNORED, NEUTRAL, PARAMETERS, TEXT

if TYPE_CHECKING:
    from gauntlet.serving.app import Served

EXAMPLE_TEXT = "I could not be happier with how this turned out."
EXAMPLE_IMAGE = (  # a PNG of one grey pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
MESSAGE = {
    "type": "object",
    "required": ["message", "type"],
    "properties": {"message": {"type": "string"}, "type": {"type": "string"}},
}
ERROR_OBJECT = {"type": "object", "required": ["error"], "properties": {"error": MESSAGE}}
TEXT_PART = {"type": "string", "pattern": r"\S"}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Gauntlet</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ background: #f4f4f5; padding: .8rem; overflow-x: auto; border-radius: 6px }}
code {{ font-size: 14px }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #18181b; color: #e4e4e7 }}
  pre {{ background: #27272a }}
  a {{ color: #93c5fd }}
}}
</style>
<h1>Models of this server</h1>
{models}
<h2>Routes</h2>
<ul>{routes}</ul>
<p><a href="/openapi.json">openapi.json</a> describes them for programs.
<a href="/metrics">/metrics</a> is for Prometheus.</p>
</html>
"""


def example(model: RowModel) -> dict[str, Any]:
    """A row as a client sends it."""
    part: Any = EXAMPLE_TEXT if model.medium == "text" else {"b64": EXAMPLE_IMAGE}
    return dict.fromkeys(model.columns, part)


def document(
    models: Mapping[str, Served], limits: Limits, url: str, predict_route: str, health_route: str
) -> dict[str, Any]:
    """The OpenAPI document of the server at `url`; the first model is that of the routes that name none."""
    paths: dict[str, Any] = {}
    for at, served in enumerate(models.values()):
        routes = [f"/v1/models/{served.name}:predict", *([predict_route] if at == 0 else [])]
        for route in routes:
            paths[route] = {"post": _prediction(served, limits, url + route)}
        tensors = describe(served.model, served.name, served.version)
        base = f"/v2/models/{served.name}"
        paths[base] = {"get": _read("The model's inputs and outputs.")}
        paths[f"{base}/ready"] = {"get": _read("Whether the model is ready.")}
        paths[f"{base}/infer"] = {"post": _inference(served, tensors)}
        paths[f"/v1/models/{served.name}"] = {
            "get": _read("The model, as OpenAI's and KServe's clients ask.")
        }
    talking = [served for served in models.values() if hasattr(served.model, "streams")]
    for route in (CHAT, TEXT) if talking else ():
        paths[route] = {"post": _completion(route, [served.name for served in talking], url)}
    for route, what in (
        ("/v1/models", "The models, as OpenAI's clients list them."),
        (health_route, "200 when the server is ready, else 503."),
        ("/livez", "200 while the process answers."),
        ("/readyz", "200 when the server is ready, else 503."),
        ("/startupz", "200 once the models were proved."),
        ("/v2", "The server, in the Open Inference Protocol."),
        ("/v2/health/live", "200 while the process answers."),
        ("/v2/health/ready", "200 when the server is ready, else 503."),
    ):
        paths[route] = {"get": _read(what)}
    paths["/metrics"] = {
        "get": {
            "summary": "Prometheus metrics.",
            "responses": {"200": {"description": "Text.", "content": {"text/plain": {}}}},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Gauntlet", "version": "1"},
        "servers": [{"url": url}],
        "paths": paths,
        "components": {"schemas": {"Error": ERROR, "ErrorObject": ERROR_OBJECT}},
    }


def page(content: Mapping[str, Any]) -> bytes:
    """The document for people: what each route is, and a command for each that takes a body."""
    shown, routes = [], []
    for path, methods in content["paths"].items():
        for method, one in methods.items():
            routes.append(f"<li><code>{method.upper()} {escape(path)}</code>: {escape(one['summary'])}</li>")
            if "x-curl" in one:
                shown.append(f"<h3>{escape(path)}</h3><pre><code>{escape(one['x-curl'])}</code></pre>")
    return PAGE.format(models="".join(shown), routes="".join(routes)).encode()


def _read(summary: str) -> dict[str, Any]:
    responses = {code: _answer({"type": "object"}) for code in ("200", "503")}
    return {"summary": summary, "responses": responses}


def _prediction(served: Served, limits: Limits, url: str) -> dict[str, Any]:
    model = served.model
    part: dict[str, Any] = TEXT_PART
    if model.medium == "image":
        encoded = {"type": "string", "contentEncoding": "base64"}
        inside = {"type": "object", "required": ["b64"], "properties": {"b64": encoded}}
        part = {"anyOf": [{**inside, "additionalProperties": False}, encoded]}
    row = _object(dict.fromkeys(model.columns, part), model.columns)
    instance = row if len(model.columns) > 1 else {"anyOf": [row, part]}
    parameters = {
        name: {"type": "integer" if isinstance(value, int) else "number", "default": value}
        for name, value in model.parameters.items()
    }
    body = {
        "type": "object",
        "required": ["instances"],
        "properties": {
            "instances": {"type": "array", "minItems": 1, "maxItems": limits.instances, "items": instance},
            "parameters": {**_object(parameters), "type": ["object", "null"]},
        },
        "example": {"instances": [example(model)]},
    }
    answer = {
        "type": "object",
        "required": ["predictions", "metadata"],
        "properties": {
            "predictions": {
                "type": "array",
                "items": {"type": "object", "required": [one.name for one in model.fields]},
            },
            "metadata": {
                "type": "object",
                "properties": {key: {"type": "string"} for key in (*served.identity, "event")},
            },
        },
    }
    asking = _asking(f"Ask {served.name} ({served.task}).", body, answer) | {"x-curl": _curl(served, url)}
    taken = asking["requestBody"]["content"]
    if model.medium == "image":
        file = {"type": "string", "contentMediaType": "application/octet-stream"}
        files = {"anyOf": [file, {"type": "array", "minItems": 1, "items": file}]}
        form = _object(dict.fromkeys(model.columns, files), model.columns)
        taken["multipart/form-data"] = {"schema": form}
    if len(model.columns) == 1:
        raw = {"text/plain": {"schema": TEXT_PART}} if model.medium == "text" else {"image/png": {}}
        taken.update(raw)
    return asking


def _inference(served: Served, tensors: Mapping[str, Any]) -> dict[str, Any]:
    part = EXAMPLE_TEXT if served.model.medium == "text" else EXAMPLE_IMAGE
    inputs = [
        {"name": one["name"], "datatype": "BYTES", "shape": [1], "data": [part]} for one in tensors["inputs"]
    ]
    names = {key: {"enum": [one["name"] for one in tensors[key]]} for key in ("inputs", "outputs")}
    taken = _tensor(names["inputs"])
    wanted = {"name": names["outputs"], "parameters": {"type": "object"}}
    body = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": ["string", "null"]},
            "inputs": {"type": "array", "minItems": len(inputs), "maxItems": len(inputs), "items": taken},
            "outputs": {
                "type": ["array", "null"],
                "items": {"type": "object", "required": ["name"], "properties": wanted},
            },
            "parameters": {"type": "object"},
        },
        "example": {"inputs": inputs},
    }
    given = _tensor(names["outputs"])
    answer = {
        "type": "object",
        "required": ["model_name", "outputs"],
        "properties": {"model_name": {"type": "string"}, "outputs": {"type": "array", "items": given}},
    }
    return _asking(f"Ask {served.name} by the Open Inference Protocol.", body, answer)


def _completion(route: str, names: Sequence[str], url: str) -> dict[str, Any]:
    asked: dict[str, Any] = {"prompt": {"anyOf": [TEXT_PART, _one_of(TEXT_PART)]}}
    example_body: dict[str, Any] = {"model": names[0], "prompt": EXAMPLE_TEXT, "max_tokens": 16}
    if route == CHAT:
        part = _object({"type": {"const": "text"}, "text": TEXT_PART}, ("type", "text"))
        message = {
            "type": "object",
            "required": ["role", "content"],
            "properties": {"role": {"const": "user"}, "content": {"anyOf": [TEXT_PART, _one_of(part)]}},
        }
        asked = {"messages": _one_of(message)}
        del example_body["prompt"]
        example_body["messages"] = [{"role": "user", "content": EXAMPLE_TEXT}]
    numbers = {name: {"type": ["number", "null"]} for name in PARAMETERS}
    neutral = {name: {"enum": list(values)} for name, values in NEUTRAL.items()}
    properties: dict[str, Any] = {name: {} for name in IGNORED if name not in ("messages", "prompt")}
    properties |= {"model": {"enum": list(names)}, "stream": {"type": "boolean"}}
    options = {"type": ["object", "null"], "properties": {"include_usage": {"type": "boolean"}}}
    properties |= {**asked, **numbers, **neutral, "stream_options": options}
    body = _object(properties, ("model", *asked)) | {"example": example_body}
    answer = {"type": "object", "required": ["id", "object", "choices"], "properties": {}}
    content = json.dumps({**example_body, "stream": True})
    asking = _asking("A completion, as OpenAI's clients ask for it.", body, answer, "ErrorObject")
    asking["responses"]["200"]["content"]["text/event-stream"] = {}
    return asking | {"x-curl": f"curl --no-buffer --json '{content}' {url}{route}"}


def _object(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """An object with no other keys."""
    return {
        "type": "object",
        "required": list(required),
        "properties": dict(properties),
        "additionalProperties": False,
    }


def _one_of(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "maxItems": 1, "items": items}


def _tensor(name: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": name,
            "shape": {"type": "array", "items": {"type": "integer"}},
            "datatype": {"type": "string"},
            "data": {"type": ["array", "null"]},
            "parameters": {"type": "object"},
        },
    }


def _asking(
    summary: str, body: Mapping[str, Any], answer: Mapping[str, Any], error_schema: str = "Error"
) -> dict[str, Any]:
    faults = {
        "400": "The request is wrong; the message names the instance.",
        "404": "The server has no such model.",
        "408": "The body did not arrive in time.",
        "413": "The body is too large, or has too many instances.",
        "415": "The content type is not one that the model takes.",
        "429": "It cannot be answered before its deadline, or too much waits: see Retry-After.",
        "500": "The model failed at an instance, which the message names.",
        "503": "The server is starting or ending.",
        "504": "The deadline passed while it waited.",
    }
    error = {"$ref": f"#/components/schemas/{error_schema}"}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": _answer(answer),
            **{code: {**_answer(error), "description": what} for code, what in faults.items()},
        },
    }


def _answer(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": "The answer.", "content": {"application/json": {"schema": schema}}}


def _curl(served: Served, url: str) -> str:
    if served.model.medium == "image":
        files = " ".join(f"--form {column}=@{column}.png" for column in served.model.columns)
        return f"curl {files} {url}"
    content = json.dumps({"instances": [example(served.model)]}, ensure_ascii=False)
    return f"curl --json '{content}' {url}"
