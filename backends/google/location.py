"""Where on Vertex AI runs are tracked and models registered, as a URI says it, and which names it takes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from gauntlet.manifests.errors import UsageError

SCHEME = "vertex://"

ID_LENGTH = 128
TENSORBOARD_ENDING = "-tb-run"
"""Of the id of the artifact that names a run's TensorBoard run; before it comes the run's own id."""
CONTEXT_ID_LENGTH = ID_LENGTH - len(TENSORBOARD_ENDING)
RUN_NAME_LENGTH = 48
"""What is left to a run's name at least."""


@dataclass(frozen=True)
class VertexLocation:
    """Where runs are tracked and models registered. One URI can serve for both.

    Attributes:
        tensorboard: The number of the Vertex AI TensorBoard that gets the curves, if any does.
        staging: The `gs://` folder that gets the files, if any does; a registry's bundles are among them.
        serving_image: The container image, by digest, that serves a registered model, if there is one;
            tracking needs none.
    """

    project: str
    region: str
    tensorboard: str | None = None
    staging: str | None = None
    serving_image: str | None = None

    @classmethod
    def of(cls, uri: str, setting: str = "tracking URI") -> VertexLocation:
        """Read `vertex://PROJECT/LOCATION?tensorboard=NUMBER&staging=gs://BUCKET/FOLDER&serving_image=IMAGE`.

        Args:
            uri: Any of the query may be left out. A value may hold `+` as it is, and any other sign as `%XX`.
            setting: What the URI was given for, as an error is to name it.

        Raises:
            UsageError: It is none.
        """
        try:
            parts = urlsplit(uri)
            place = cls(parts.netloc, parts.path.removeprefix("/"), **_query(parts.query))
        except (TypeError, ValueError):  # a key that is no attribute, or is there twice, or has no value
            place = None
        if place is None or not place._is_sound() or parts.fragment:
            raise UsageError(
                f"{setting}: found {uri!r}, expected {SCHEME}PROJECT/LOCATION, such as "
                f"{SCHEME}my-project/europe-west4?tensorboard=1234567890&staging=gs://BUCKET/FOLDER. "
                "tensorboard is the number of a Vertex AI TensorBoard there; a registry may have "
                "serving_image=IMAGE@sha256:DIGEST too."
            )
        return place

    @classmethod
    def named(cls, project: str, region: str) -> VertexLocation:
        """A project's location.

        Raises:
            UsageError: They cannot be names of these, or Vertex AI has no such region.
        """
        from google.cloud.aiplatform.constants.base import SUPPORTED_REGIONS

        place = cls(project, region)
        if not place._is_sound():
            raise UsageError(
                f"--project, --region: found {project!r} and {region!r}, expected the id of a project "
                "and a region, such as my-project and europe-west4."
            )
        if region not in SUPPORTED_REGIONS:
            raise UsageError(
                f"--region: found {region!r}, expected one of {', '.join(sorted(SUPPORTED_REGIONS))}."
            )
        return place

    @property
    def uri(self) -> str:
        """What `of` reads as this place, whatever signs its values hold."""
        values = {
            "tensorboard": self.tensorboard,
            "staging": self.staging,
            "serving_image": self.serving_image,
        }
        query = "&".join(f"{key}={quote(value, safe='/:@')}" for key, value in values.items() if value)
        return f"{SCHEME}{self.project}/{self.region}" + (f"?{query}" if query else "")

    @property
    def parent(self) -> str:
        """The resource that holds all others."""
        return f"projects/{self.project}/locations/{self.region}"

    @property
    def store(self) -> str:
        """The metadata store that the console shows."""
        return f"{self.parent}/metadataStores/default"

    @property
    def host(self) -> str:
        """What answers for this location."""
        return f"{self.region}-aiplatform.googleapis.com"

    def _is_sound(self) -> bool:
        return bool(
            re.fullmatch(r"[a-z0-9][a-z0-9.:-]*", self.project)
            and re.fullmatch(r"[a-z]+-[a-z]+\d+", self.region)
            and (self.tensorboard is None or re.fullmatch(r"\d+", self.tensorboard))
            and (self.staging is None or re.fullmatch(r"gs://[a-z0-9][\w.-]+(/.*)?", self.staging))
            and (
                self.serving_image is None
                or re.fullmatch(r"[\w.:-]+(/[\w.-]+)+@sha256:[0-9a-f]{64}", self.serving_image)
            )
        )


def _query(text: str) -> dict[str, str]:
    """The query of a URI. Unlike in a form, `+` is a plus sign: folders in a bucket may be named with one.

    Raises:
        ValueError: A key has no value, or is there twice.
    """
    found: dict[str, str] = {}
    for part in text.split("&") if text else ():
        key, equals, value = part.partition("=")
        if not equals or key in found:
            raise ValueError(part)
        found[key] = unquote(value, errors="strict")
    return found


def valid_id(name: str, length: int) -> str:
    """The name as an id of Vertex's: a-z, 0-9 and hyphens. One that is too long ends in its own hash."""
    valid = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if valid and len(valid) <= length:
        return valid
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{valid[: length - 9].rstrip('-')}-{digest}".strip("-")


def experiment_id(name: str) -> str:
    """The id of the experiment that is called so; a pipeline of that name has the context of that id."""
    return valid_id(f"{name}-training", CONTEXT_ID_LENGTH - RUN_NAME_LENGTH - 1)


def valid_label(value: str) -> str:
    """The value as a label of Vertex's."""
    return re.sub(r"[^a-z0-9_-]", "-", value.lower())[:63]
