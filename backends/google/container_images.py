"""Container images in Artifact Registry: whether one is there.

https://cloud.google.com/artifact-registry/docs/reference/rest/v1/projects.locations.repositories.dockerImages
"""

from __future__ import annotations

import re
from urllib.parse import quote

from gauntlet.backends.google.rest import Refused, Rest

API = "https://artifactregistry.googleapis.com/v1"
IMAGE = re.compile(
    r"(?P<location>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[a-z0-9-]+)/(?P<repository>[a-z0-9-]+)"
    r"/(?P<image>.+@sha256:[0-9a-f]{64})"
)


def is_pushed(image: str) -> bool | None:
    """Whether the image is in its repository; none where that cannot be seen, as in a registry of others.

    Raises:
        UsageError: Nobody is logged in.
        GauntletError: Artifact Registry cannot be reached.
    """
    found = IMAGE.fullmatch(image)
    if found is None:
        return None
    repository = (
        f"projects/{found['project']}/locations/{found['location']}/repositories/{found['repository']}"
    )
    try:
        Rest().get(f"{API}/{repository}/dockerImages/{quote(found['image'], safe='@:')}")
    except Refused as refusal:
        return False if refusal.status == 404 else None
    return True
