"""From a YAML or JSON file to a manifest, with every fault of the file reported together."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gauntlet.manifests.bounds import MOST_BYTES, MOST_LEVELS, bound_faults
from gauntlet.manifests.errors import Fault, ManifestError
from gauntlet.manifests.faults import faults_of, faults_of_any_kind, task_fault
from gauntlet.manifests.kinds import task_kind
from gauntlet.manifests.schema import Manifest

MODEL_KEYS = (("training", "encoder"), ("training", "model"), ("dataset", "tokenizer"))
PATH_KEYS = (("dataset", "uri"), *MODEL_KEYS)
# PyYAML raises a bare ValueError for 2024-13-45 and for thousands of digits; both parsers recurse by depth.
SYNTAX_ERRORS = (ValueError, yaml.YAMLError, RecursionError)


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a repeated key is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = _repeated(key for key in keys if isinstance(key, Hashable))
        if repeated is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {repeated!r} is repeated", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _repeated(keys: Iterable[Hashable]) -> Hashable | None:
    """The first key that comes twice, or None."""
    seen: set[Hashable] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


def load_manifest(path: str | Path, overrides: Sequence[str] = ()) -> Manifest:
    """Read, override and validate a manifest.

    Args:
        path: A YAML or JSON file. Relative paths in it are relative to its folder.
        overrides: `section.key=value` with the value in YAML. Relative paths in them are relative to the
            working directory.

    Raises:
        ManifestError: All faults of the file and of the overrides.
    """
    return _validate(read_content(path, overrides), str(path))


def read_content(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a manifest's file and the overrides say, not validated: no defaults, and paths are absolute.

    Raises:
        ManifestError: The file cannot be read, or an override is none.
    """
    file = Path(path)
    content = _parse(file)
    _resolve_paths(content, file.resolve().parent)
    faults = _apply_overrides(content, overrides)
    if faults:
        raise ManifestError(faults)
    return content


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest as YAML, defaults spelt out, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    content = manifest.model_dump(mode="json", exclude_none=True)
    temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    temporary.replace(path)


def _parse(file: Path) -> dict[str, Any]:
    def fault(found: str, expected: str, action: str) -> ManifestError:
        return ManifestError([Fault(str(file), "(file)", found, expected, action)])

    try:
        if (size := file.stat().st_size) > MOST_BYTES or not file.is_file():
            found = f"{size:,} bytes" if file.is_file() else "a folder, a device or a pipe"
            raise fault(found, f"a text file of at most {MOST_BYTES:,} bytes", "Name a manifest.")
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise fault("no such file", "a manifest", "Look at `ls manifests/`.") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path that no file can have
        raise fault(f"an unreadable file ({error})", "a UTF-8 text file", "Correct the file.") from None
    try:
        content = _load_json(text) if file.suffix == ".json" else yaml.load(text, _StrictLoader)
    except SYNTAX_ERRORS as error:
        found = " ".join(str(error).split())
        raise fault(found, "YAML or JSON", "Correct the syntax there.") from None
    if faults := bound_faults(str(file), content):
        raise ManifestError(faults)
    if not isinstance(content, dict):
        raise fault(f"a {type(content).__name__}", "a mapping of sections", "See manifests/emotion.yaml.")
    return content


def _load_json(text: str) -> Any:
    """JSON in which a repeated key is an error, as it is in `_StrictLoader`'s YAML."""

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = _repeated(key for key, _ in pairs)
        if repeated is not None:
            raise ValueError(f"key {repeated!r} is repeated")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=mapping)


def _resolve_paths(content: Mapping[str, Any], folder: Path) -> None:
    for section, key in PATH_KEYS:
        values = content.get(section)
        if isinstance(values, dict) and isinstance(values.get(key), str):
            values[key] = _resolve((section, key), values[key], folder)
    dataset = content.get("dataset")
    if isinstance(dataset, dict) and isinstance(dataset.get("roots"), list):
        dataset["roots"] = _resolve_roots(dataset["roots"], folder)


def _resolve_roots(roots: list[Any], folder: Path) -> list[Any]:
    return [_resolve(("dataset", "uri"), root, folder) if isinstance(root, str) else root for root in roots]


def _resolve(key: tuple[str, str], value: str, folder: Path) -> str:
    """Make a relative path absolute; leave URIs alone, and a model that may be a hub's name."""
    expanded = os.path.expanduser(value)  # noqa: PTH111  pathlib raises for ~somebody-unknown
    if not value or "://" in value or Path(expanded).is_absolute():
        return expanded
    path = (folder / expanded).resolve()
    may_be_hub_name = key in MODEL_KEYS and not value.startswith((".", "~")) and not path.exists()
    return value if may_be_hub_name else str(path)


def _apply_overrides(content: dict[str, Any], overrides: Sequence[str]) -> list[Fault]:
    faults = []
    for override in overrides:
        key, equals, text = override.partition("=")
        path = tuple(key.strip().split("."))
        if not equals or not all(path) or len(path) > MOST_LEVELS:
            faults.append(
                Fault(
                    "--set",
                    repr(override),
                    "no key=value",
                    "section.key=value",
                    "Write --set training.epochs=3.",
                )
            )
            continue
        try:
            value = yaml.load(text, _StrictLoader)
        except SYNTAX_ERRORS as error:
            faults.append(
                Fault("--set", key, " ".join(str(error).split()), "a YAML value", "Quote the value.")
            )
            continue
        if unfit := [*bound_faults("--set", key), *bound_faults("--set", value)]:
            faults += [replace(fault, key=ascii(key)[1:-1]) for fault in unfit]
            continue
        if path in PATH_KEYS and isinstance(value, str):
            value = _resolve((path[0], path[1]), value, Path.cwd())
        elif path == ("dataset", "roots") and isinstance(value, list):
            value = _resolve_roots(value, Path.cwd())
        elif len(path) == 1:  # a whole section
            _resolve_paths({path[0]: value}, Path.cwd())
        target = content
        for part in path[:-1]:
            inner = target.get(part)
            target[part] = inner = inner if isinstance(inner, dict) else {}
            target = inner
        target[path[-1]] = value
    return faults


def _validate(content: Mapping[str, Any], file: str) -> Manifest:
    if (fault := task_fault(file, content)) is not None:
        raise ManifestError([fault, *faults_of_any_kind(file, content)])
    manifest: type[Manifest] = task_kind(content["task"]).manifest_class()
    try:
        return manifest.model_validate(content)
    except ValidationError as error:
        raise ManifestError(faults_of(file, content, manifest, error)) from None
