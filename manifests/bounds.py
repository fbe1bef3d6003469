"""Limits on the size and values of a manifest, whatever its keys mean.

YAML's aliases multiply: ten lines can stand for a billion values. Later steps write a manifest as JSON, use
its values in file names and print it. This fails at a depth of a thousand, a number of five thousand digits
or a lone surrogate.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from gauntlet.manifests.errors import Fault

MOST_BYTES = 64 * 2**20
MOST_VALUES = 2_000_000
MOST_LEVELS = 40
MOST_BITS = 1024
KEY_SHOWN = 40
NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")


def bound_faults(file: str, content: Any) -> list[Fault]:
    """The faults of a value read from YAML or JSON; the walk ends where one makes the rest meaningless.

    Every value is visited once, however often an alias repeats it.
    """
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
            fault(
                path,
                f"more than {MOST_VALUES:,} values, by its aliases",
                "fewer",
                "Write it without aliases.",
            )
            raise _Enough
        return sizes[id(value)]

    with suppress(_Enough):
        size(content, ())
    return faults


class _Enough(Exception):
    """Ends the walk."""
