"""What a file of schedules says: which manifest or template is run, and when."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import AwareDatetime, ValidationError, field_validator, model_validator

from gauntlet.manifests.errors import Fault, ManifestError, UsageError
from gauntlet.manifests.section import Name, Section

DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
CRON_FIELDS: tuple[tuple[str, int, int, Mapping[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(MONTHS, start=1)}),
    ("day of the week", 0, 7, {name: number for number, name in enumerate(DAYS)}),
)
CRON_PART = re.compile(r"(?P<low>\*|\w+)(?:-(?P<high>\w+))?(?:/(?P<step>\d+))?")


class Schedule(Section):
    """When a manifest or a template is run.

    With `cache: false` every step runs anew each time; otherwise those whose data and settings are unchanged
    are taken from the cache, as they were compiled.

    Runs that were missed, while it was paused or another one still went on, are not made up for.
    """

    name: Name
    manifest: str | None = None
    template: str | None = None
    cron: str
    time_zone: str = "UTC"
    start: AwareDatetime | None = None
    end: AwareDatetime | None = None
    paused: bool = False
    cache: bool = True
    set: tuple[str, ...] = ()

    @field_validator("cron")
    @classmethod
    def _cron_sound(cls, value: str) -> str:
        fault = cron_fault(value)
        if fault is not None:
            raise ValueError(fault)
        return " ".join(value.split())

    @field_validator("time_zone")
    @classmethod
    def _time_zone_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("a time zone such as Europe/Amsterdam") from None
        return value

    @model_validator(mode="after")
    def _runs_one_thing(self) -> Schedule:
        if (self.manifest is None) == (self.template is None):
            raise ValueError("one of manifest and template is expected")
        return self

    @model_validator(mode="after")
    def _ends_after_start(self) -> Schedule:
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError("end must be after start")
        return self

    @property
    def vertex_cron(self) -> str:
        """The cron expression as Vertex AI takes it, time zone included."""
        return f"TZ={self.time_zone} {self.cron}"


class Schedules(Section):
    """The file."""

    schedules: tuple[Schedule, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> Schedules:
        names = [schedule.name for schedule in self.schedules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is there twice")
        return self


def cron_fault(text: str) -> str | None:
    """What is wrong with a cron expression of five fields, if anything is."""
    parts = text.split()
    if len(parts) != len(CRON_FIELDS):
        return f"five fields are expected (minute, hour, day, month, day of the week), not {len(parts)}"
    for part, (name, low, high, names) in zip(parts, CRON_FIELDS, strict=True):
        for item in part.split(","):
            if not _is_cron_item(item, low, high, names):
                return f"{name} {item!r} is none of *, {low}-{high}, a range or a step"
    return None


def _is_cron_item(item: str, low: int, high: int, names: Mapping[str, int]) -> bool:
    found = CRON_PART.fullmatch(item)
    if found is None or found["step"] == "0" or (found["low"] == "*" and found["high"]):
        return False
    ends = [end for end in (found["low"], found["high"]) if end not in (None, "*")]
    values = [names.get(end.upper(), int(end) if end.isdigit() else -1) for end in ends]
    return all(low <= value <= high for value in values) and values == sorted(values)


def read_schedules(path: Path) -> tuple[Schedule, ...]:
    """The schedules of a file; manifests in it are relative to its folder.

    Raises:
        ManifestError: All faults of the file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = Schedules.model_validate(content).schedules
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        cause = " ".join(str(error).split())
        raise UsageError(f"{path}: no schedules can be read from it ({cause}).") from None
    except ValidationError as error:
        raise ManifestError(
            [
                Fault(
                    str(path),
                    ".".join(str(part) for part in detail["loc"]) or "the file",
                    repr(detail["input"])[:60],
                    detail["msg"].removeprefix("Value error, "),
                    "See docs/vertex.md.",
                )
                for detail in error.errors()
            ]
        ) from None
    folder = path.resolve().parent
    return tuple(
        one.model_copy(update={"manifest": str(folder / one.manifest)}) if one.manifest else one
        for one in found
    )
