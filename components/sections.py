"""A manifest's section on its way to a step: as a parameter, or, when it is large, as a file that one names.

A step gets its parameters as one command-line argument, which Linux limits to 128 KiB, and Kubeflow takes
10,000 characters of a run's parameters. A section with many labels is longer than both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from backends.storage import read_bytes
from manifests.errors import GauntletError

FILE_KEY, SHA256_KEY = "section_file", "sha256"


def given(section: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section itself, or what the file holds that it names.

    Raises:
        GauntletError: The file is not the one that the run was started with.
    """
    if set(section) != {FILE_KEY, SHA256_KEY}:
        return section
    content = read_bytes(section[FILE_KEY])
    if hashlib.sha256(content).hexdigest() != section[SHA256_KEY]:
        raise GauntletError(
            f"{section[FILE_KEY]}: found another sha256 than the run was started with. Start the run again."
        )
    found: dict[str, Any] = json.loads(content)
    return found


def reference(section: Mapping[str, Any], folder: str) -> tuple[dict[str, str], str, bytes]:
    """What travels in a section's place; with it the file's URI in `folder`, and its content."""
    content = json.dumps(section, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    uri = f"{folder.rstrip('/')}/{sha256}.json"
    return {FILE_KEY: uri, SHA256_KEY: sha256}, uri, content
