"""The base class of the documents between steps: how they are written and read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from gauntlet.manifests.errors import GauntletError, UsageError

SHOWN_FAULTS = 5
SHOWN_CHARS = 80
_FAULTS, _PATH = "faults", "path"  # keys of the validation context; they are there in tolerant reading only
_MISSING = object()


class Document(BaseModel):
    """Base of the documents: immutable, and unknown keys are ignored, since another release may write more.

    JSON has no NaN and no infinity, so such a number is written as null: declare it as `float | None`.
    Declare a number that may be whole as `int | float`: pydantic writes 3 as 3.0 in a `float`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    written_by: ClassVar[str]
    """The step that writes the document."""

    omits_none: ClassVar[bool] = False
    """Whether a field without a value is left out of the file instead of written as null."""

    def as_json(self) -> dict[str, Any]:
        """The content in plain JSON types, in the order of the fields."""
        content: dict[str, Any] = as_json(self.model_dump(mode="json", exclude_none=self.omits_none))
        return content

    def write(self, path: str | Path) -> None:
        """Write the file whole or not at all."""
        write_json(path, self.as_json())

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a document that the caller cannot do without.

        Raises:
            UsageError: There is no such file.
            GauntletError: The content is not such a document; the message names all faults.
        """
        try:
            return cls.model_validate(parse_json(Path(path).read_bytes()))
        except FileNotFoundError:
            raise UsageError(
                f"{path}: no such file, expected one that the step {cls.written_by} wrote. "
                "Run `gauntlet run` once, or name the folder of a run."
            ) from None
        except ValidationError as error:
            faults = _faults_of(error)
        except (OSError, ValueError) as error:
            faults = [str(error)]
        shown = "; ".join(faults[:SHOWN_FAULTS]) + ("; …" if len(faults) > SHOWN_FAULTS else "")
        raise GauntletError(f"{path}: {shown}. Run the step {cls.written_by} again, which writes this file.")

    @classmethod
    def read_tolerantly(cls, data: bytes | str) -> tuple[Self | None, tuple[str, ...]]:
        """What can be read, and in words what could not be read; None if `data` is not a JSON object.

        A missing or broken field has its default, or None, whatever its type says. The report reads so.
        """
        context: dict[str, list[str]] = {_FAULTS: [], _PATH: []}
        try:
            return cls.model_validate(parse_json(data), context=context), tuple(context[_FAULTS])
        except ValidationError as error:
            return None, tuple(_faults_of(error))
        except ValueError as error:
            return None, (str(error),)

    @model_validator(mode="before")
    @classmethod
    def _mark_missing_fields(cls, content: Any, info: ValidationInfo) -> Any:
        if info.context is None or not isinstance(content, Mapping):
            return content
        required = [name for name, field in cls.model_fields.items() if field.is_required()]
        return {**dict.fromkeys(required, _MISSING), **content}

    @field_validator("*", mode="wrap")
    @classmethod
    def _none_if_broken(cls, value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        if info.context is None:
            return validate(value)
        if value is _MISSING:
            return None
        path = info.context[_PATH]
        path.append(str(info.field_name))
        try:
            return validate(value)
        except ValidationError as error:
            info.context[_FAULTS] += [".".join(path) + fault for fault in _faults_within(error)]
            field = cls.model_fields[str(info.field_name)]
            return None if field.is_required() else field.get_default(call_default_factory=True)
        finally:
            path.pop()


def as_json(content: Any) -> Any:
    """The content with None for NaN and infinity, which JSON does not have."""
    if isinstance(content, dict):
        return {key: as_json(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [as_json(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def parse_json(data: bytes | str) -> Any:
    """The content of JSON, with None for NaN and infinity; a `ValueError` if it is not JSON."""
    try:
        return json.loads(data, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError("found JSON that is nested too deeply") from None


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary file next to `target` that replaces it on success and is removed on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".tmp")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all. NaN and infinity become null, so that they do not fail a step."""
    write_text(path, json.dumps(as_json(content), indent=2, allow_nan=False, ensure_ascii=False))


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object that another step wrote."""
    content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return content


def _faults_of(error: ValidationError) -> list[str]:
    return [fault.removeprefix(".") for fault in _faults_within(error)]


def _faults_within(error: ValidationError) -> list[str]:
    """Each fault as `.key: found …, …`, with the key below the value that was validated."""
    faults = []
    for one in error.errors():
        key = "".join(f".{part}" for part in one["loc"])
        found = "nothing" if one["type"] == "missing" else repr(one["input"])[:SHOWN_CHARS]
        faults.append(f"{key}: found {found}, {one['msg'][0].lower()}{one['msg'][1:]}")
    return faults
