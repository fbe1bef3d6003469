"""Which state of the user's own repository a model was made by."""

from __future__ import annotations

import os

MANIFEST_COMMIT_VARIABLE = "GAUNTLET_MANIFEST_COMMIT"


def manifest_commit() -> dict[str, str]:
    """The commit of the repository that holds the manifest, `-dirty` with changes; empty where none does."""
    commit = os.environ.get(MANIFEST_COMMIT_VARIABLE)
    return {"manifest_commit": commit} if commit else {}
