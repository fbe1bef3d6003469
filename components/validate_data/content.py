"""The content of the splits, by which the steps after validate-data are cached, and where it is kept.

An artifact that is made again is another artifact to Vertex AI, so a step that reads it is not reused. A
folder that is named by its content is the same artifact every time: `dsl.importer` finds it by its URI.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from gauntlet.backends.storage import file_system, join, upload
from gauntlet.contracts.data import STATISTICS_FILE, Statistics


def sha256_of(splits: Path) -> str:
    """A hash of everything that a later step's result depends on: no name, version or place of the data."""
    statistics = Statistics.read(splits / STATISTICS_FILE)
    content = json.loads((splits / STATISTICS_FILE).read_bytes())
    read = {name: value for name, value in content.items() if name not in statistics.origin}
    digest = hashlib.sha256(json.dumps(read, sort_keys=True, ensure_ascii=False).encode())
    for file in sorted(splits.iterdir()):
        if file.name != STATISTICS_FILE:
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            digest.update(f"{file.name} {found}\n".encode())
    return digest.hexdigest()


def keep(splits: Path, sha256: str, folder_uri: str) -> str:
    """Copy the splits to a folder named by their content, if they are not there, and return its URI.

    Raises:
        GauntletError: The store cannot be reached or written.
    """
    uri = join(folder_uri, sha256)
    files, path = file_system(uri)
    if not files.exists(join(path, STATISTICS_FILE)):  # which is copied last
        upload(splits, uri, last=STATISTICS_FILE)
    return uri
