"""The files of registries: bundles and evidence, each stored under its sha256."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gauntlet.backends.factory import bundle_folder
from gauntlet.backends.registry import BUNDLE_TAG, ModelVersion
from gauntlet.backends.storage import join, read_bytes, replace_folder, upload
from gauntlet.manifests.errors import GauntletError, UsageError


def require_complete(bundle: Path, sha256: str | None = None) -> None:
    """Refuse a bundle that cannot be registered.

    Raises:
        GauntletError: The bundle is incomplete or altered.
    """
    from gauntlet.serving.bundle import BundleError, read_info

    try:
        read_info(bundle, sha256)
    except BundleError as error:
        raise GauntletError(f"{error}. Convert the model again.") from None


def require_bundle(version: ModelVersion, alias: str) -> None:
    """Refuse an alias for a version whose bundle is missing or altered.

    Raises:
        GauntletError: It is, or it cannot be read.
    """
    from gauntlet.serving.bundle import BundleError, read_info

    try:
        with bundle_folder(version) as folder:
            read_info(folder, version.tags.get(BUNDLE_TAG))
    except (BundleError, UsageError) as error:
        raise GauntletError(
            f"model {version.name!r}: version {version.version} cannot become {alias}: {error}. Nothing was "
            "moved: restore the bundle, or promote another version."
        ) from None


def keep_bundle(bundle: Path, kept: Path) -> Path:
    """Copy the bundle to the folder `kept`, `bundle.json` last. An altered or incomplete copy is replaced.

    Raises:
        GauntletError: The bundle is incomplete or altered, or the disk is full.
    """
    from gauntlet.serving.bundle import BUNDLE_FILE, BundleError, read_info

    with suppress(BundleError):
        read_info(kept, sha256=kept.name)
        return kept
    require_complete(bundle, sha256=kept.name)
    try:
        replace_folder(bundle, str(kept), last=BUNDLE_FILE)
    except BaseException:  # a full disk, Ctrl-C: leave no incomplete copy
        shutil.rmtree(kept, ignore_errors=True)
        raise
    return kept


def keep_evidence(folder: Path, evidence: Mapping[str, Any]) -> str:
    """Write the evidence, completely or not at all, and return its sha256."""
    content = json.dumps(evidence, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    kept = _file(folder, sha256)
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_name(kept.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(kept)
    return sha256


def read_evidence(folder: Path, sha256: str) -> dict[str, Any]:
    """The evidence with this sha256.

    Raises:
        GauntletError: The file is missing or was altered.
    """
    file = _file(folder, sha256)
    repair = "Run the pipeline again: without this file the version has no evidence."
    try:
        content = file.read_bytes()
    except OSError as error:
        raise GauntletError(f"{file}: {error.strerror or error}. {repair}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise GauntletError(f"{file}: found another sha256 than the registry has. {repair}")
    evidence: dict[str, Any] = json.loads(content)
    return evidence


def upload_bundle(bundle: Path, kept: str) -> None:
    """Copy the bundle to the URI `kept` with `bundle.json` last, so a folder with that file is complete.

    Raises:
        GauntletError: The bundle is incomplete or altered, or the bucket is unavailable.
    """
    from gauntlet.serving.bundle import BUNDLE_FILE

    require_complete(bundle)
    with suppress(UsageError):
        if read_bytes(join(kept, BUNDLE_FILE)) == (bundle / BUNDLE_FILE).read_bytes():
            return
    upload(bundle, kept, last=BUNDLE_FILE)


def upload_evidence(folder_uri: str, evidence: Mapping[str, Any]) -> str:
    """Write the evidence to a folder in a bucket, and return its sha256."""
    with tempfile.TemporaryDirectory() as folder:
        sha256 = keep_evidence(Path(folder), evidence)
        upload(Path(folder), folder_uri)
    return sha256


def fetch_evidence(folder_uri: str, sha256: str) -> dict[str, Any]:
    """The evidence with this sha256, from a folder in a bucket.

    Raises:
        GauntletError: The file is missing or was altered.
    """
    with tempfile.TemporaryDirectory() as folder:
        name = _file(Path(folder), sha256).name
        (Path(folder) / name).write_bytes(read_bytes(join(folder_uri, name)))
        try:
            return read_evidence(Path(folder), sha256)
        except GauntletError as error:
            raise GauntletError(str(error).replace(folder, folder_uri)) from None


def _file(folder: Path, sha256: str) -> Path:
    return folder / f"{sha256}.evidence.json"
