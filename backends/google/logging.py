"""What the steps of a job on Vertex AI have printed, from Cloud Logging."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gauntlet.backends.google.calls import ask, explained

HOST = "logging.googleapis.com"


def job_log(project: str, job_id: str) -> Iterator[str]:
    """The lines of a custom job, which is what every step on Vertex AI runs as, oldest first.

    Raises:
        UsageError: Nobody is logged in, or the account may not read logs.
        GauntletError: The service cannot be reached, or refuses.
    """
    with explained(HOST):
        from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client

        service: Any = LoggingServiceV2Client()
        entries = ask(
            service.list_log_entries,
            resource_names=[f"projects/{project}"],
            filter=f'resource.type="ml_job" AND resource.labels.job_id="{job_id}"',
            order_by="timestamp asc",
        )
        for entry in entries:
            text = entry.text_payload or str(dict(entry.json_payload or {}).get("message", ""))
            yield text.rstrip("\n")
