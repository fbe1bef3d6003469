"""What the registry keeps in files: bundles, and what versions proved, each under its own sha256."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from manifests.errors import GauntletError


def keep_bundle(bundle: Path, kept: Path) -> Path:
    """Copy the bundle to `kept`, whole or not at all. A copy that was altered there is replaced."""
    from serving.bundle import BundleError, read_info

    with suppress(BundleError):
        read_info(kept, sha256=kept.name)
        return kept
    temporary = kept.with_name(kept.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for file in bundle.iterdir():
            shutil.copyfile(file, temporary / file.name)
        read_info(temporary, sha256=kept.name)
        shutil.rmtree(kept, ignore_errors=True)
        temporary.replace(kept)
    except BundleError as error:
        shutil.rmtree(temporary)
        fault = str(error).replace(str(temporary), str(bundle))
        raise GauntletError(f"{fault}. Convert the model again.") from None
    except BaseException:  # a full disk, Ctrl-C: no half of a bundle stays
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return kept


def keep_evidence(folder: Path, evidence: Mapping[str, Any]) -> str:
    """Write the evidence whole or not at all, and return its sha256."""
    content = json.dumps(evidence, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    kept = _file(folder, sha256)
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_name(kept.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(kept)
    return sha256


def read_evidence(folder: Path, sha256: str) -> dict[str, Any]:
    """The evidence that has this sha256.

    Raises:
        GauntletError: It is gone, or was altered.
    """
    file = _file(folder, sha256)
    repair = "Run the pipeline again: what a version proved cannot be vouched for without it."
    try:
        content = file.read_bytes()
    except OSError as error:
        raise GauntletError(f"{file}: {error.strerror or error}. {repair}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise GauntletError(f"{file}: found another sha256 than the registry has. {repair}")
    evidence: dict[str, Any] = json.loads(content)
    return evidence


def _file(folder: Path, sha256: str) -> Path:
    return folder / f"{sha256}.evidence.json"
