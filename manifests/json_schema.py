"""The JSON Schema of manifests, by which editors complete and check keys: `gauntlet schema`."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import CoreSchema
from pydantic_core.core_schema import WithDefaultSchema

from gauntlet.manifests.kinds import manifest_classes

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def manifest_json_schema() -> dict[str, Any]:
    """The schema of a manifest of any installed task kind; `task` decides which keys its sections have.

    It has every key, type, bound and default. Rules between keys are not in it: `gauntlet check` has those.
    """
    classes = manifest_classes()
    inputs: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (one, "validation") for one in classes.values()
    ]
    names, schema = models_json_schema(inputs, schema_generator=_Short)
    definitions = schema["$defs"]
    for one in classes.values():
        # A manifest may leave these out of `dataset`: they are taken from `training`.
        dataset = _definition(definitions, definitions[one.__name__]["properties"]["dataset"])
        dataset["required"] = [key for key in dataset["required"] if key not in one.shared_keys]
    by_kind = [
        {
            "if": {"properties": {"task": {"const": kind}}, "required": ["task"]},
            "then": names[one, "validation"],
        }
        for kind, one in classes.items()
    ]
    return {
        "$schema": DIALECT,
        "title": "Gauntlet manifest",
        "description": "A system that is retrained: what to run, on what, and what it must prove.",
        "type": "object",
        "required": ["name", "task"],
        "properties": {"task": {"enum": list(classes), "description": "The task kind: `gauntlet tasks`."}},
        "allOf": by_kind,
        "$defs": definitions,
    }


def manifest_schema_text() -> str:
    """The schema as the text of a file."""
    return json.dumps(manifest_json_schema(), indent=1, ensure_ascii=False) + "\n"


def _definition(definitions: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = definitions[reference["$ref"].rpartition("/")[2]]
    return found


class _Short(GenerateJsonSchema):
    """Without a title made of each key's name, and without a section's default, which its keys have."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        if isinstance(schema.get("default"), BaseModel):
            inner: CoreSchema = schema["schema"]
            return self.generate_inner(inner)
        return super().default_schema(schema)
