"""Asks the stores what the dataset's files are now, and makes one fingerprint of the answers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from uuid import uuid4

from gauntlet.backends.storage import identities
from gauntlet.components.step import write_json
from gauntlet.manifests.dataset import Dataset
from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.manifests.schema import as_parameter
from gauntlet.tasks.image_classification import source as images
from gauntlet.tasks.image_classification.manifest import ImageDataset
from gauntlet.tasks.language import source as conversations
from gauntlet.tasks.language.manifest import ConversationDataset
from gauntlet.tasks.ordinal_grading import source as cards
from gauntlet.tasks.ordinal_grading.manifest import CardDataset
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts import source as texts


def run(section: Dataset, task: str, seed: int, sources_path: Path) -> str:
    """Write every file with its identity, and return the fingerprint of all that the splits are made of.

    Data that cannot be found or may not be read has a fingerprint of its own in each run, so that nothing is
    reused from the cache: validate-data says what is wrong.

    Raises:
        GauntletError: The store that holds the data is out of reach.
    """
    found: dict[str, str | None] = {}
    fault = None
    try:
        found = identities(_sources(section))
    except (DataError, UsageError) as error:
        fault = str(error)
    content = {
        "dataset": as_parameter(section),
        "task": task,
        "seed": seed,
        "files": dict(sorted(found.items())),
        "fault": fault and uuid4().hex,
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
    write_json(sources_path, {"fingerprint": fingerprint, "files": content["files"], "fault": fault})
    print(f"{section.name} {section.version}: {len(found)} files, fingerprint {fingerprint[:12]}", flush=True)
    return fingerprint


def _sources(section: Dataset) -> tuple[str, ...]:
    """The URI of every file that validate-data would read; none of data that are drawn."""
    if isinstance(section, ImageDataset):
        return images.sources(section)
    if isinstance(section, CardDataset):
        return cards.sources(section)
    if isinstance(section, ConversationDataset):
        return conversations.sources(section)
    assert isinstance(section, TextDataset)
    return texts.sources(section)
