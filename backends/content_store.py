"""The files of registries: bundles and evidence, each stored under its sha256."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gauntlet.backends import storage
from gauntlet.backends.factory import bundle_folder
from gauntlet.backends.registry import BUNDLE_TAG, ModelVersion
from gauntlet.manifests.errors import GauntletError, UsageError


def require_complete(bundle: Path, sha256: str | None = None) -> None:
    """Raise a `GauntletError` if a bundle is incomplete or altered."""
    from gauntlet.serving.bundle import BundleError, read_info

    try:
        read_info(bundle, sha256)
    except BundleError as error:
        raise GauntletError(f"{error}. Convert the model again.") from None


def require_bundle(version: ModelVersion, alias: str) -> None:
    """Raise a `GauntletError`, which names the alias, if a version's bundle is missing or altered."""
    from gauntlet.serving.bundle import BundleError, read_info

    try:
        with bundle_folder(version) as folder:
            read_info(folder, version.tags.get(BUNDLE_TAG))
    except (BundleError, UsageError) as error:
        raise GauntletError(
            f"model {version.name!r}: version {version.version} cannot become {alias}: {error}. Nothing was "
            "moved: restore the bundle, or promote another version."
        ) from None


def store_bundle(bundle: Path, folder_uri: str) -> None:
    """Copy a bundle to a folder whose name is the bundle's sha256, unless it is there.

    `bundle.json` is written last, so a folder with that file is complete. A folder on this machine is checked
    for alterations, and replaced if it has any. After a failure, such as a full disk, no part of it stays.

    Raises:
        GauntletError: The bundle is incomplete or altered, the disk is full, or the bucket is unavailable.
    """
    from gauntlet.serving.bundle import BUNDLE_FILE, BundleError, read_info

    sha256, here = storage.file_name(folder_uri), storage.local_path(folder_uri)
    if here is not None:
        with suppress(BundleError):
            read_info(here, sha256)
            return
    require_complete(bundle, sha256)
    if here is None:
        with suppress(UsageError):
            stored = storage.read_bytes(storage.join(folder_uri, BUNDLE_FILE))
            if hashlib.sha256(stored).hexdigest() == sha256:
                return
        storage.upload(bundle, folder_uri, last=BUNDLE_FILE)
        return
    try:
        storage.replace_folder(bundle, folder_uri, last=BUNDLE_FILE)
    except BaseException:  # a full disk, Ctrl-C
        storage.delete(folder_uri, first=BUNDLE_FILE)
        raise


def store_evidence(folder_uri: str, evidence: Mapping[str, Any]) -> str:
    """Write evidence to a folder, and return its sha256."""
    content = json.dumps(evidence, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    with suppress(GauntletError):
        read_evidence(folder_uri, sha256)
        return sha256  # a complete file is not written again
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, _file_name(sha256)).write_bytes(content)
        storage.upload(Path(folder), folder_uri)
    return sha256


def read_evidence(folder_uri: str, sha256: str) -> dict[str, Any]:
    """The evidence with this sha256, or a `GauntletError` if the file is missing or was altered."""
    uri = storage.join(folder_uri, _file_name(sha256))
    repair = "Run the pipeline again: without this file the version has no evidence."
    try:
        content = storage.read_bytes(uri)
    except UsageError as error:
        raise GauntletError(f"{error}. {repair}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise GauntletError(f"{uri}: found another sha256 than the registry has. {repair}")
    evidence: dict[str, Any] = json.loads(content)
    return evidence


def _file_name(sha256: str) -> str:
    return f"{sha256}.evidence.json"
