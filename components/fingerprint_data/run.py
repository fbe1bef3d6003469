"""Asks the stores what the dataset's files are now, and makes one fingerprint of the answers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from uuid import uuid4

from gauntlet.backends.google import bigquery
from gauntlet.backends.storage import identities
from gauntlet.contracts.data import SNAPSHOT_MARK, Sources
from gauntlet.manifests.dataset import BIGQUERY, Dataset
from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.manifests.kinds import task_kind
from gauntlet.manifests.schema import as_parameter


def run(task: str, section: Dataset, sources_path: Path) -> str:
    """Write every file with its identity, and return the fingerprint of everything that the splits depend on.

    That of tables of BigQuery ends in the time of their last change, at which validate-data reads them.

    If the data cannot be read, the fingerprint differs in each run, so that validate-data runs and says what
    is wrong.

    Raises:
        GauntletError: The store that holds the data is unavailable.
    """
    sources = task_kind(task).function("data", "sources")
    found: dict[str, str | None] = {}
    fault = None
    try:
        uris = sources(section)
        tables = [uri for uri in uris if uri.startswith(BIGQUERY)]
        found = identities(uri for uri in uris if uri not in tables) | bigquery.identities(tables)
    except (DataError, UsageError) as error:
        fault = str(error)
    content = {
        "dataset": as_parameter(section),
        "task": task,
        "files": dict(sorted(found.items())),
        "fault": fault and uuid4().hex,
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
    if changed := bigquery.latest_change(found.values()):
        fingerprint += f"{SNAPSHOT_MARK}{changed.isoformat()}"
    Sources(fingerprint=fingerprint, files=content["files"], fault=fault).write(sources_path)
    print(f"{section.name} {section.version}: {len(found)} files, fingerprint {fingerprint[:12]}", flush=True)
    return fingerprint
