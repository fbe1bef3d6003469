"""What every part of a manifest has in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from gauntlet.manifests.errors import Fault

LARGEST_WHOLE_NUMBER = 2**53
"""KFP hands a section on as JSON numbers of 64-bit floating point, which hold no larger one exactly."""

LONGEST_INPUT_SHOWN = 60
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
# Pipelines are named with hyphens for underscores, so no two names may differ in that alone, or end in one.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*([_-][a-z0-9]+)*$", max_length=63)]


class Section(BaseModel):
    """Base of every section: immutable, no unknown keys, no NaN, no truth value that counts as 0 or 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would take for a number that the file does not say, or KFP would change."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("truth_value", "no truth value: YAML reads yes, no, on and off as one")
        if isinstance(value, int) and abs(value) > LARGEST_WHOLE_NUMBER:
            raise PydanticCustomError("too_large", "a whole number up to 2**53, as KFP keeps it exactly")
        return value


def faults_of(file: str, error: ValidationError, action: str) -> list[Fault]:
    """What pydantic found wrong with the content of a file; one `action` corrects all of it."""
    return [
        Fault(
            file,
            ".".join(map(str, one["loc"])) or "the file",
            repr(one["input"])[:LONGEST_INPUT_SHOWN],
            one["msg"].removeprefix("Value error, "),
            action,
        )
        for one in error.errors()
    ]


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested keys joined by dots, values as text: the form that trackers take."""
    flat: dict[str, str] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat
