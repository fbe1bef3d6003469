"""The commit of the user's own repository that a model was made from."""

from __future__ import annotations

import os

MANIFEST_COMMIT_VARIABLE = "GAUNTLET_MANIFEST_COMMIT"


def manifest_commit() -> dict[str, str]:
    """The commit of the repository that holds the manifest, `-dirty` if it has changes; empty if there is no
    repository."""
    commit = os.environ.get(MANIFEST_COMMIT_VARIABLE)
    return {"manifest_commit": commit} if commit else {}
