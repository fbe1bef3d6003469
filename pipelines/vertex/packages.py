"""Which packages the project's images contain, and so which files a `package://` URI can name there.

Both images install `requirements.lock`, which is resolved from the requirements in the project's own
metadata. So that metadata says what an image contains, in a checkout and in an image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from importlib.util import find_spec
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gauntlet.backends.storage import PACKAGE_SCHEME, is_folder
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.loading import PATH_KEYS, texts_at

PROJECT = "gauntlet"
MODELS = "models"
"""The extra whose packages are installed without their own requirements."""


def require_packaged(content: Mapping[str, Any], keys: Collection[tuple[str, ...]] = PATH_KEYS) -> None:
    """Refuse files of packages that are not in the images, and files that a package does not contain.

    `content` is a manifest as plain types, and `keys` are the sections and keys to look at.

    Raises:
        UsageError: There are such files; all of them are named.
    """
    found = [
        fault
        for key, value in texts_at(content, keys).items()
        if value.startswith(PACKAGE_SCHEME)
        for fault in _faults(key, value)
    ]
    if found:
        raise UsageError("\n".join(found))


def _faults(key: str, uri: str) -> Iterator[str]:
    package = uri.removeprefix(PACKAGE_SCHEME).partition("/")[0]
    top = package.partition(".")[0]
    providers = _providers().get(top, [top])
    if not {canonicalize_name(name) for name in providers} & distributions_in_images():
        yield (
            f"{key}: found {uri}, and the images contain no package {package or '(none)'}, expected one that "
            "pyproject.toml requires. Copy the file to a bucket, name a model of the Hugging Face hub, or "
            f"add the package to pyproject.toml (a model's to the extra `{MODELS}`), run `make lock` and "
            "build the images."
        )
    elif find_spec(top) is not None:  # the images have it, but perhaps not this machine
        try:
            is_folder(uri)
        except UsageError as error:
            yield f"{key}: {error}"


_providers = cache(packages_distributions)


@cache
def distributions_in_images() -> frozenset[str]:
    """The canonical names of the project's distribution and of its direct and indirect requirements."""
    held: set[tuple[str, frozenset[str]]] = set()
    waiting = [(PROJECT, frozenset[str]())]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) not in held:
            held.add((name, extras))
            waiting += [
                (canonicalize_name(one.name), frozenset(one.extras)) for one in _required(name, extras)
            ]
    models = _required(PROJECT, frozenset({MODELS}))
    return frozenset({name for name, _ in held} | {canonicalize_name(one.name) for one in models})


def _required(distribution: str, extras: frozenset[str]) -> list[Requirement]:
    """The requirements of a distribution on this platform with these extras; none if it is not installed."""
    try:
        found = [Requirement(text) for text in requires(distribution) or ()]
    except PackageNotFoundError:
        return []
    return [
        one
        for one in found
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras or {""})
    ]
