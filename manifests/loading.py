"""From a YAML or JSON file to a manifest, with every fault of the file reported together.

YAML's aliases multiply: ten lines can stand for a billion values. Later steps write a manifest as JSON, use
its values in file names and print it. So its depth, its number of values and its texts are limited, whatever
its keys mean.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gauntlet.manifests.errors import Fault, ManifestError, UsageError
from gauntlet.manifests.kinds import installed_kinds, kind_names, manifest_classes, task_kind
from gauntlet.manifests.schema import Manifest

MODEL_KEYS = (
    ("training", "encoder"),
    ("training", "model"),
    ("training", "backbone", "weights"),
    ("dataset", "tokenizer"),
)
LOG_KEYS = tuple(("monitoring", key) for key in ("log", "labels", "reference"))
PATH_KEYS = (("dataset", "uri"), *LOG_KEYS, *MODEL_KEYS)
CODE_KEYS = (("training", "network"), ("training", "loss"), ("training", "backbone", "name"))
"""Keys that may name code of the user's own, `module:name`; a kind may have names of its own for them too."""

# PyYAML raises a bare ValueError for 2024-13-45 and for thousands of digits; both parsers recurse by depth.
SYNTAX_ERRORS = (ValueError, yaml.YAMLError, RecursionError)
MOST_BYTES = 64 * 2**20
MOST_VALUES = 2_000_000
MOST_LEVELS = 40
MOST_BITS = 1024
KEY_SHOWN = 40
NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")
LONGEST_VALUE_SHOWN = 60
PATTERNS = {
    r"^[0-9a-f]{64}$": "64 digits of a sha256, 0-9 and a-f",
    r"^[a-z][a-z0-9]*([_-][a-z0-9]+)*$": "lower-case letters, digits, - and _, with a letter first",
    r"^[a-z][a-z0-9-]{0,62}$": "lower-case letters, digits and -, with a letter first",
    r"^[^:\n]+$": "a text without a colon, on one line",
    r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$": "lower-case letters, digits, - and . between letters or digits",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "letters, digits and _, with no digit first",
    r"^[A-Za-z0-9._-]+$": "letters, digits, ., _ and -",
    r"^/[^:]*[^:/]$": "an absolute path without : and without / at its end",
    r"^gemini-[a-z0-9.-]+$": "the name of a Gemini model, such as gemini-2.5-flash",
}
"""What each pattern of the schema allows, in words."""
RENAMED = {"training.checkpoints": "training.resume"}
"""Keys of earlier releases, with their present names."""
NO_MAPPING = ("model_type", "model_attributes_type", "dict_type")


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
    return next((key for key, times in Counter(keys).items() if times > 1), None)


def load_manifest(path: str | Path, overrides: Sequence[str] = ()) -> Manifest:
    """Read, override and validate a manifest.

    Args:
        path: A YAML or JSON file. Relative paths in it are relative to its folder.
        overrides: `section.key=value` with the value in YAML. Relative paths in them are relative to the
            working directory.

    Raises:
        ManifestError: All faults of the file and of the overrides.
    """
    file, content = str(path), read_content(path, overrides)
    if (fault := _task_fault(file, content)) is not None:
        raise ManifestError([fault, *_faults_of_any_kind(file, content)])
    manifest: type[Manifest] = task_kind(content["task"]).manifest_class()
    try:
        return manifest.model_validate(content)
    except ValidationError as error:
        raise ManifestError(list(_by_key(file, content, manifest, error).values())) from None


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
    if faults := _bound_faults(str(file), content):
        raise ManifestError(faults)
    if not isinstance(content, dict):
        raise fault(f"a {type(content).__name__}", "a mapping of sections", "See manifests/emotion.yaml.")
    return content


def _load_json(text: str) -> Any:
    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = _repeated(key for key, _ in pairs)
        if repeated is not None:
            raise ValueError(f"key {repeated!r} is repeated")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=mapping)


def _resolve_paths(content: Mapping[str, Any], folder: Path) -> None:
    for path in PATH_KEYS:
        values: Any = content
        for section in path[:-1]:
            values = values.get(section) if isinstance(values, dict) else None
        if isinstance(values, dict) and isinstance(values.get(path[-1]), str):
            values[path[-1]] = _resolve(path, values[path[-1]], folder)
    dataset = content.get("dataset")
    if isinstance(dataset, dict) and isinstance(dataset.get("roots"), list):
        dataset["roots"] = _resolve_roots(dataset["roots"], folder)


def texts_at(content: Mapping[str, Any], keys: Iterable[tuple[str, ...]] = PATH_KEYS) -> dict[str, str]:
    """The texts that a manifest as plain types, or a part of it, has at some keys, by the key with dots."""
    found = {}
    for path in sorted(keys):
        value: Any = content
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            found[".".join(path)] = value
    return found


def _resolve_roots(roots: list[Any], folder: Path) -> list[Any]:
    return [_resolve(("dataset", "uri"), root, folder) if isinstance(root, str) else root for root in roots]


def _resolve(key: tuple[str, ...], value: str, folder: Path) -> str:
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
            example = "Write --set training.epochs=3."
            faults.append(Fault("--set", repr(override), "no key=value", "section.key=value", example))
            continue
        try:
            value = yaml.load(text, _StrictLoader)
        except SYNTAX_ERRORS as error:
            found = " ".join(str(error).split())
            faults.append(Fault("--set", key, found, "a YAML value", "Quote the value."))
            continue
        if unfit := [*_bound_faults("--set", key), *_bound_faults("--set", value)]:
            faults += [replace(fault, key=ascii(key)[1:-1]) for fault in unfit]
            continue
        if path in PATH_KEYS and isinstance(value, str):
            value = _resolve(path, value, Path.cwd())
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


def _bound_faults(file: str, content: Any) -> list[Fault]:
    """Visits every value once, however often an alias repeats it, until one makes the rest meaningless."""
    faults: list[Fault] = []
    sizes: dict[int, int] = {}

    def fault(path: tuple[str, ...], found: str, expected: str, action: str) -> None:
        key = ".".join(part[:KEY_SHOWN] for part in path)
        faults.append(Fault(file, ascii(key)[1:-1] or "(file)", found, expected, action))

    def size(value: Any, path: tuple[str, ...]) -> int:
        if len(path) > MOST_LEVELS:
            fault(path[:3], f"values in more than {MOST_LEVELS} levels", "fewer", "Use fewer levels.")
            raise _Enough
        if isinstance(value, str) and (wrong := NO_TEXT.search(value)):
            found = f"the character {ascii(wrong[0])[1:-1]}"
            fault(path, found, "text that a file can hold", "Leave the character out.")
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            fault(path, f"a number of {value.bit_length()} bits", "a number up to 2**53", "Change the value.")
        if not isinstance(value, dict | list | tuple | set):
            return 1
        if id(value) not in sizes:
            total = 1
            if isinstance(value, dict):
                for key, child in value.items():
                    total += size(key, (*path, "(key)"))
                    total += size(child, (*path, key if isinstance(key, str) else f"({type(key).__name__})"))
            else:
                total += sum(size(child, (*path, str(at))) for at, child in enumerate(value))
            sizes[id(value)] = total
        if sizes[id(value)] > MOST_VALUES:
            found = f"more than {MOST_VALUES:,} values, by its aliases"
            fault(path, found, "fewer", "Write it without aliases.")
            raise _Enough
        return sizes[id(value)]

    with suppress(_Enough):
        size(content, ())
    return faults


class _Enough(Exception):
    pass


def _task_fault(file: str, content: Mapping[str, Any]) -> Fault | None:
    if "task" not in content:
        return Fault(file, "task", "nothing", "a value", "Add the key.")
    found, names = content["task"], kind_names()
    *most, last = (repr(name) for name in names)
    try:
        task_kind(found if isinstance(found, str) else _shown(found)).manifest_class()
    except UsageError as error:
        expected = f"{', '.join(most)} or {last}"
        provided = isinstance(found, str) and any(one.name == found for one in installed_kinds())
        action = str(error) if provided else _quoting(found) or "Change the value."
        return Fault(file, "task", _shown(found), expected, action)
    return None


def _faults_of_any_kind(file: str, content: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with the content, whichever task kind is meant by the unknown task."""
    manifests = manifest_classes()
    meant = get_close_matches(str(content.get("task")), manifests, n=1) or manifests
    found = [_faults_as(name, manifests[name], file, content) for name in meant]
    return [fault for key, fault in found[0].items() if all(key in others for others in found)]


def _faults_as(
    name: str, manifest: type[Manifest], file: str, content: Mapping[str, Any]
) -> dict[str, Fault]:
    as_of_kind = {**content, "task": name}
    try:
        manifest.model_validate(as_of_kind)
    except ValidationError as error:
        return _by_key(file, as_of_kind, manifest, error)
    return {}


def _by_key(
    file: str, content: Mapping[str, Any], manifest: type[Manifest], error: ValidationError
) -> dict[str, Fault]:
    """One fault for each key: pydantic reports every kind that a value may be of, as an error of its own."""
    details = error.errors(include_url=False)
    faults: dict[str, Fault] = {}
    for detail in details:
        location = _location(content, detail)
        below = [other for other in details if other["loc"][: len(detail["loc"])] == detail["loc"]]
        if detail["type"] == "too_short" and len(below) > 1:  # since its parts were refused
            continue
        fault = _fault(file, manifest, location, detail)
        known = faults.get(fault.key)
        if known is None:
            faults[fault.key] = fault
        elif fault.expected not in known.expected:
            action = known.action if known.action == fault.action else "Change the value."
            expected = f"{known.expected}, or {fault.expected}"
            faults[fault.key] = Fault(file, fault.key, known.found, expected, action)
    return faults


def _location(content: Any, detail: Any) -> tuple[str | int, ...]:
    """The keys that lead to the value in the file; pydantic adds the kinds that it tried."""
    location: list[str | int] = []
    parts = detail["loc"]
    for place, part in enumerate(parts):
        in_list = isinstance(content, list) and isinstance(part, int) and part < len(content)
        if in_list or (isinstance(content, Mapping) and part in content):
            content = content[part]
        elif detail["type"] != "missing" or place < len(parts) - 1:
            continue
        location.append(part)
    return tuple(location)


def _fault(file: str, manifest: type[Manifest], location: Sequence[str | int], detail: Any) -> Fault:
    key = ".".join(_shortened(str(part)) for part in location) or "(manifest)"
    kind, value = detail["type"], detail["input"]
    message = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if kind == "missing":
        known = ", ".join(_known_keys(manifest, location))
        expected = f"a section with some of {known}" if known else "a value"
        return Fault(file, key, "nothing", expected, "Add the key.")
    if kind == "extra_forbidden":
        return _unknown_key(file, key, _known_keys(manifest, location[:-1]))
    if kind in NO_MAPPING and (known := ", ".join(_known_keys(manifest, location))):
        return Fault(file, key, _shown(value), f"a section with some of {known}", "Write it as KEY: VALUE.")
    if kind == "value_error":
        return Fault(file, key, "an impossible combination", message, "Change one.")
    if kind == "string_pattern_mismatch":
        message = PATTERNS.get(detail["ctx"]["pattern"], message)
    if kind in ("string_type", "literal_error") and (action := _quoting(value)):
        return Fault(file, key, _shown(value), message, action)
    return Fault(file, key, _shown(value), message[0].lower() + message[1:], "Change the value.")


def _unknown_key(file: str, key: str, known: Sequence[str]) -> Fault:
    if new := RENAMED.get(key):
        return Fault(file, key, "a key that was renamed", new, "Use the new name.")
    meant = get_close_matches(key.rpartition(".")[2], known, n=1)
    advice = f"Did you mean {meant[0]}?" if meant else "Remove it, or correct its spelling."
    return Fault(file, key, "a key that nothing reads", f"one of {', '.join(known)}", advice)


def _quoting(value: Any) -> str | None:
    """What to do about a text that YAML read as another type."""
    if isinstance(value, bool):
        return 'Quote it, such as "yes": YAML reads yes, no, on, off, true and false as truth values.'
    if value is None:
        return "Give it a value, or quote it: YAML reads null, ~ and nothing as no value."
    if isinstance(value, int | float | date):
        return f'Quote it: "{value}".'
    return None


def _shown(value: Any) -> str:
    return _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE_SHOWN else text[:LONGEST_VALUE_SHOWN] + "…"


def _known_keys(manifest: type[Manifest], location: Sequence[str | int]) -> list[str]:
    model: Any = manifest
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if hasattr(c, "model_fields")), None)
    return sorted(getattr(model, "model_fields", {}))
