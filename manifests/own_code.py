"""Code of the user's own that a manifest names as `module:name`: a network or a loss.

Its package is installed, or its module lies beside the manifest; `MODULES_VARIABLE` names that folder. It is
searched after all others, so a file there never takes the place of an installed module.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module, invalidate_caches
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from gauntlet.manifests.errors import UsageError

MODULES_VARIABLE = "GAUNTLET_MODULES"

CodePath = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
"""`module:name`, such as `my_package.models:MyNet`."""


def _arguments(value: Any) -> Any:
    """The content, with whole numbers as ints: a pipeline's parameters hold floats alone."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _arguments(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_arguments(inner) for inner in value]
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else value
    if isinstance(value, str | bool | int):
        return value
    raise PydanticCustomError(
        "arguments", "texts, numbers, truth values, and lists and mappings of them, without nulls"
    )


Arguments = Annotated[dict[str, Any], AfterValidator(_arguments)]
"""Keyword arguments of a constructor."""


def resolve(path: str, key: str, folder: Path | None = None) -> Callable[..., Any]:
    """The class or function at a path.

    Args:
        path: `module:name`.
        key: The manifest's key that names it, for messages.
        folder: Where modules beside the manifest lie; by default what `MODULES_VARIABLE` names.

    Raises:
        UsageError: There is no such module, it cannot be imported, or it has no such name.
    """
    module_name, _, name = path.partition(":")
    where = _search(folder)
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever a module may raise while it is imported
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            beside = f" or put it beside the manifest, in {where}" if where else ""
            raise UsageError(
                f"{key}: found {path!r}, but there is no module {error.name!r}. Install its package in the "
                f"environment of Gauntlet{beside}."
            ) from None
        raise UsageError(
            f"{key}: found {path!r}, but {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            has = sorted(one for one in vars(module) if not one.startswith("_"))
            raise UsageError(
                f"{key}: found {path!r}, but {module.__name__} ({module.__file__}) has no {name!r}. "
                f"It has: {', '.join(has) or 'nothing'}."
            )
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{key}: found {path!r}, a {type(found).__name__}, expected a class or a function.")
    made: Callable[..., Any] = found
    return made


def arguments_of(make: Callable[..., Any]) -> frozenset[str]:
    """The names of the arguments that a class or function can be called with."""
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    try:
        parameters = signature(make).parameters.values()
    except ValueError:  # it is not written in Python
        return frozenset()
    return frozenset(one.name for one in parameters if one.kind in by_name)


def code_sha256(path: str) -> str:
    """Hash of the Python files of the top-level package, or of the module, that a path names.

    Raises:
        UsageError: There is no such module.
    """
    top = path.partition(":")[0].partition(".")[0]
    _search()
    spec = find_spec(top)
    if spec is None:
        raise UsageError(f"{path}: there is no module {top!r}.")
    folders = [Path(one) for one in spec.submodule_search_locations or ()]
    roots = folders or [Path(spec.origin or "")]
    digest = hashlib.sha256()
    for root in roots:
        for file in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            if file.is_file():
                name = file.relative_to(root.parent).as_posix()
                digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _search(folder: Path | None = None) -> str | None:
    """Search the folder, or the one that `MODULES_VARIABLE` names, for modules too; returns it."""
    where = str(folder) if folder else os.environ.get(MODULES_VARIABLE)
    if where and where not in sys.path:
        sys.path.append(where)
    invalidate_caches()  # a module may have been written a moment ago
    return where
