"""Makes `provider_schema.json.gz`: the schema of hashicorp/google for the resource types that infra/ uses.

HashiCorp's registry has the provider itself, at a hundred megabytes. The same schema lies in the PyPI wheels
cdktn-provider-google and cdktn-provider-google-beta, as the types of their constructs; the second one is read
for what the first one lacks. What comes out has the form of Terraform's own
`terraform providers schema -json`. The wheel does not say which attributes the provider computes: every one
that need not be set is marked so, and one that nobody can set is of a dynamic type unless it is a primitive.

    pip download --no-deps cdktn-provider-google==21.1.0 cdktn-provider-google-beta==21.1.0
    python -m tests.infra.provider_schema cdktn_provider_google-*.whl cdktn_provider_google_beta-*.whl
"""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).with_name("provider_schema.json.gz")
CONFIGURATION = Path(__file__).parent.parent.parent / "infra"

NAMED = re.compile(r"/hashicorp/google(?:-beta)?/([\d.]+)/docs/(resources|data-sources)/\w+ (google_\w+)\}")
ATTRIBUTE = re.compile(r"/docs[\w/-]*#([a-z0-9_]+) ")
META_ARGUMENTS = {"connection", "count", "dependsOn", "forEach", "lifecycle", "provider", "provisioners"}
PRIMITIVES = {"string": "string", "number": "number", "boolean": "bool"}
DEEPEST = 12
"""Some types hold themselves."""

Schema = dict[str, Any]


def used_types() -> set[str]:
    """The types of resources and data sources in infra/, the latter with `data.` before them."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in CONFIGURATION.glob("*.tf"))
    found = re.findall(r'^(resource|data) "(google_\w+)"', text, re.MULTILINE)
    return {("data." if kind == "data" else "") + name for kind, name in found}


def constructs(types: Schema) -> Iterator[tuple[str, str, Schema]]:
    """Of every resource and data source: its type's name, the provider's version, the construct."""
    for name, construct in types.items():
        named = NAMED.search(construct.get("docs", {}).get("summary", ""))
        if named and f"{name}Config" in types:
            yield ("data." if named[2] == "data-sources" else "") + named[3], named[1], construct


def block(types: Schema, name: str, depth: int = 0) -> Schema:
    """The schema of one type of configuration."""
    made: Schema = {"attributes": {}, "block_types": {}}
    for property_ in types[name].get("properties", []):
        documented = ATTRIBUTE.search(str(property_.get("docs")))
        if property_["name"] in META_ARGUMENTS or documented is None:
            continue
        many, of = _shape(property_["type"])
        optional = bool(property_.get("optional"))
        if property_["docs"].get("summary") == f"{documented[1]} block.":
            if depth < DEEPEST:
                nesting = "single" if documented[1] == "timeouts" else "list"
                limits = {
                    "min_items": int(not optional),
                    "max_items": 0 if many or nesting == "single" else 1,
                }
                inner = block(types, of, depth + 1)
                made["block_types"][documented[1]] = {"nesting_mode": nesting, "block": inner, **limits}
            continue
        of_type: Any = PRIMITIVES.get(of, "dynamic")
        type_ = [many, of_type] if many and of_type != "dynamic" else of_type
        flags = {"optional": True, "computed": True} if optional else {"required": True}
        made["attributes"][documented[1]] = {"type": type_, **flags}
    return made


def _shape(type_: Schema) -> tuple[str, str]:
    """`list` or `map` if it is several, and of what: a primitive, or the name of a type."""
    if "union" in type_:
        [type_] = [each for each in type_["union"]["types"] if each.get("fqn") != "cdktn.IResolvable"]
    if "collection" in type_:
        kind = type_["collection"]["kind"]
        return {"array": "list", "map": "map"}[kind], _shape(type_["collection"]["elementtype"])[1]
    return "", type_.get("primitive") or type_["fqn"]


def computed(construct: Schema, known: Schema) -> Schema:
    """The attributes that a resource has and no configuration sets."""
    found: Schema = {}
    for property_ in construct["properties"]:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", property_["name"]).lower()
        own = property_["name"] == "tfResourceType" or property_["name"].endswith("Input")
        if own or name in known["attributes"] or name in known["block_types"]:
            continue
        type_ = PRIMITIVES.get(property_["type"].get("primitive", ""), "dynamic")
        found[name] = {"type": type_, "computed": True}
    return found


def trimmed(types: Schema, wanted: set[str]) -> Schema:
    """The schema of the wanted types, and of the provider's own configuration."""
    made: Schema = {"provider": {}, "resource_schemas": {}, "data_source_schemas": {}}
    for name, version, construct in constructs(types):
        made["version"] = version
        if name in wanted:
            schema = block(types, f"{construct['fqn']}Config")
            schema["attributes"] |= computed(construct, schema)
            kind = "data_source_schemas" if name.startswith("data.") else "resource_schemas"
            made[kind][name.removeprefix("data.")] = {"version": 0, "block": schema}
    [config] = [name for name in types if re.search(r"\.provider\.Google(Beta)?ProviderConfig$", name)]
    provider = block(types, config)
    for name in [name for name in provider["attributes"] if name.endswith("custom_endpoint")]:
        del provider["attributes"][name]
    made["provider"] = {"version": 0, "block": provider}
    return made


def types_of(wheel: str) -> Schema:
    """All types that a wheel of constructs declares."""
    with zipfile.ZipFile(wheel) as archive:
        [inner] = [name for name in archive.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(archive.read(inner)), mode="r:gz") as package:
            assembly = package.extractfile("package/.jsii")
            assert assembly is not None
            types: Schema = json.load(assembly)["types"]
            return types


def main(stable: str, beta: str) -> None:
    """Read the wheels, write the schema."""
    schema = trimmed(types_of(stable), used_types())
    lacking = used_types() - set(schema["resource_schemas"])
    found = trimmed(types_of(beta), {name for name in lacking if not name.startswith("data.")})
    schema["resource_schemas"] |= found["resource_schemas"]
    text = json.dumps(schema, sort_keys=True, separators=(",", ":"))
    SCHEMA.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
