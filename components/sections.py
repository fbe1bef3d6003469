"""Pass a manifest's section to a step: as a parameter or, if it is large, as a file that the parameter names.

Parameters are a command-line argument, which Linux limits to 128 KiB (`MAX_ARG_STRLEN`), on Kubeflow and
Vertex AI all of them together. A dataset with a few thousand labels is longer.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gauntlet.backends.storage import file_name, join, read_bytes, upload
from gauntlet.manifests.errors import GauntletError

FILE_KEY, SHA256_KEY = "section_file", "sha256"
LARGEST = 8_192
"""The most characters that a section passed as a parameter may have, as JSON in ASCII."""


def given(section: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section itself, or the content of its file; a `GauntletError` if the file was changed."""
    if set(section) != {FILE_KEY, SHA256_KEY}:
        return section
    content = read_bytes(section[FILE_KEY])
    if hashlib.sha256(content).hexdigest() != section[SHA256_KEY]:
        raise GauntletError(
            f"{section[FILE_KEY]}: found another sha256 than at the start of the run. Start the run again."
        )
    found: dict[str, Any] = json.loads(content)
    return found


def is_large(section: Mapping[str, Any]) -> bool:
    """Whether a section must be passed as a file."""
    return len(json.dumps(section)) > LARGEST


def reference(section: Mapping[str, Any], folder: str) -> dict[str, str]:
    """The parameter that names the section's file in `folder`."""
    sha256 = hashlib.sha256(_content(section)).hexdigest()
    return {FILE_KEY: join(folder, f"{sha256}.json"), SHA256_KEY: sha256}


def keep(sections: Sequence[Mapping[str, Any]], folder: str) -> None:
    """Write the files of sections to `folder`, a path or a URI; a `GauntletError` if it cannot be done."""
    with tempfile.TemporaryDirectory() as scratch:
        for section in sections:
            (Path(scratch) / file_name(reference(section, folder)[FILE_KEY])).write_bytes(_content(section))
        upload(Path(scratch), folder)


def _content(section: Mapping[str, Any]) -> bytes:
    return json.dumps(section, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
