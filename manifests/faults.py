"""Describe pydantic's errors in a manifest to the person who wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from gauntlet.manifests.errors import Fault, UsageError
from gauntlet.manifests.kinds import installed_kinds, kind_names, manifest_classes, task_kind
from gauntlet.manifests.schema import Manifest

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


def task_fault(file: str, content: Mapping[str, Any]) -> Fault | None:
    """What is wrong with the key `task`, or None."""
    if "task" not in content:
        return Fault(file, "task", "nothing", "a value", "Add the key.")
    found, names = content["task"], kind_names()
    *most, last = (repr(name) for name in names)
    try:
        task_kind(found if isinstance(found, str) else shown(found)).manifest_class()
    except UsageError as error:
        expected = f"{', '.join(most)} or {last}"
        provided = isinstance(found, str) and any(one.name == found for one in installed_kinds())
        action = str(error) if provided else _quoting(found) or "Change the value."
        return Fault(file, "task", shown(found), expected, action)
    return None


def faults_of_any_kind(file: str, content: Mapping[str, Any]) -> list[Fault]:
    """If the task is unknown: what is wrong with the content for every task kind that may be meant."""
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


def faults_of(
    file: str, content: Mapping[str, Any], manifest: type[Manifest], error: ValidationError
) -> list[Fault]:
    """Every fault of a manifest's content, one for each key."""
    return list(_by_key(file, content, manifest, error).values())


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


def _fault(
    file: str,
    manifest: type[Manifest],
    location: Sequence[str | int],
    detail: Any,
) -> Fault:
    key = ".".join(_shown_key(part) for part in location) or "(manifest)"
    kind, value = detail["type"], detail["input"]
    message = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if kind == "missing":
        known = ", ".join(_known_keys(manifest, location))
        expected = f"a section with some of {known}" if known else "a value"
        return Fault(file, key, "nothing", expected, "Add the key.")
    if kind == "extra_forbidden":
        return _unknown_key(file, key, _known_keys(manifest, location[:-1]))
    if kind in NO_MAPPING and (known := ", ".join(_known_keys(manifest, location))):
        return Fault(file, key, shown(value), f"a section with some of {known}", "Write it as KEY: VALUE.")
    if kind == "value_error":
        return Fault(file, key, "an impossible combination", message, "Change one.")
    if kind == "string_pattern_mismatch":
        message = PATTERNS.get(detail["ctx"]["pattern"], message)
    if kind in ("string_type", "literal_error") and (action := _quoting(value)):
        return Fault(file, key, shown(value), message, action)
    return Fault(file, key, shown(value), message[0].lower() + message[1:], "Change the value.")


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


def shown(value: Any) -> str:
    """A value as messages quote it, cut where it is long."""
    found = repr(value)
    return found if len(found) <= LONGEST_VALUE_SHOWN else found[:LONGEST_VALUE_SHOWN] + "…"


def _shown_key(part: str | int) -> str:
    text = str(part)
    return text if len(text) <= LONGEST_VALUE_SHOWN else text[:LONGEST_VALUE_SHOWN] + "…"


def _known_keys(manifest: type[Manifest], location: Sequence[str | int]) -> list[str]:
    """The keys that the section at `location` has."""
    model: Any = manifest
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if hasattr(c, "model_fields")), None)
    return sorted(getattr(model, "model_fields", {}))
