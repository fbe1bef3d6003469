"""A project and region of Vertex AI as a `vertex://` URI, and names in the form that Vertex AI accepts."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from gauntlet.manifests.errors import UsageError

SCHEME = "vertex://"

ID_LENGTH = 128
TENSORBOARD_ENDING = "-tb-run"
"""The suffix, after a run's id, of the artifact that names the run's TensorBoard run."""
CONTEXT_ID_LENGTH = ID_LENGTH - len(TENSORBOARD_ENDING)
RUN_NAME_LENGTH = 48
"""The length that is always left for a run's name."""


@dataclass(frozen=True)
class VertexLocation:
    """A project and region, with what tracking and the registry use there. One URI can serve for both.

    Attributes:
        tensorboard: The number of the Vertex AI TensorBoard for curves; without one no curves are tracked.
        staging: The `gs://` folder for files. The registry stores bundles there and requires it.
        serving_image: The container image, by digest, that serves a registered model. Tracking ignores it.
    """

    project: str
    region: str
    tensorboard: str | None = None
    staging: str | None = None
    serving_image: str | None = None

    @classmethod
    def of(cls, uri: str, setting: str = "tracking URI") -> VertexLocation:
        """Read `vertex://PROJECT/REGION?tensorboard=NUMBER&staging=gs://BUCKET/FOLDER&serving_image=IMAGE`.

        Args:
            uri: Each key of the query is optional. `+` in a value is a plus sign; `%XX` is decoded.
            setting: The setting that the URI was given for; errors name it.

        Raises:
            UsageError: The URI has another form.
        """
        try:
            parts = urlsplit(uri)
            location = cls(parts.netloc, parts.path.removeprefix("/"), **_query(parts.query))
        except (TypeError, ValueError):  # an unknown key, a key given twice, or one without a value
            location = None
        if location is None or not location._is_valid() or parts.fragment:
            raise UsageError(
                f"{setting}: found {uri!r}, expected {SCHEME}PROJECT/REGION, such as "
                f"{SCHEME}my-project/europe-west4?tensorboard=1234567890&staging=gs://BUCKET/FOLDER. "
                "tensorboard is the number of a Vertex AI TensorBoard there; a registry may also have "
                "serving_image=IMAGE@sha256:DIGEST."
            )
        return location

    @classmethod
    def named(cls, project: str, region: str) -> VertexLocation:
        """The location that the command line gives, or a `UsageError` if Vertex AI has no such region."""
        from google.cloud.aiplatform.constants.base import SUPPORTED_REGIONS

        location = cls(project, region)
        if not location._is_valid():
            raise UsageError(
                f"--project, --region: found {project!r} and {region!r}, expected the id of a project "
                "and a region, such as my-project and europe-west4."
            )
        if region not in SUPPORTED_REGIONS:
            raise UsageError(
                f"--region: found {region!r}, expected one of {', '.join(sorted(SUPPORTED_REGIONS))}."
            )
        return location

    @property
    def uri(self) -> str:
        """The URI that `of` reads as this location."""
        values = [(key, getattr(self, key)) for key in ("tensorboard", "staging", "serving_image")]
        query = "&".join(f"{key}={quote(value, safe='/:@')}" for key, value in values if value)
        return f"{SCHEME}{self.project}/{self.region}" + (f"?{query}" if query else "")

    @property
    def parent(self) -> str:
        """The name of the resource that all others are in."""
        return f"projects/{self.project}/locations/{self.region}"

    @property
    def store(self) -> str:
        """The metadata store that the console shows."""
        return f"{self.parent}/metadataStores/default"

    @property
    def host(self) -> str:
        """The host of Vertex AI's API in this region."""
        return f"{self.region}-aiplatform.googleapis.com"

    def _is_valid(self) -> bool:
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
    """The query of a URI. Unlike in a form, `+` is a plus sign, since a folder's name may contain one."""
    found: dict[str, str] = {}
    for part in text.split("&") if text else ():
        key, equals, value = part.partition("=")
        if not equals or key in found:
            raise ValueError(part)
        found[key] = unquote(value, errors="strict")
    return found


def valid_id(name: str, length: int) -> str:
    """The name as an id of Vertex AI: a-z, 0-9 and hyphens. One that is too long is cut and gets its hash."""
    valid = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if valid and len(valid) <= length:
        return valid
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{valid[: length - 9].rstrip('-')}-{digest}".strip("-")


def experiment_id(name: str) -> str:
    """The id of the experiment of this name. It differs from the context id of a pipeline of that name."""
    return valid_id(f"{name}-training", CONTEXT_ID_LENGTH - RUN_NAME_LENGTH - 1)


def valid_label(value: str) -> str:
    """The value in the form of a Vertex AI label."""
    return re.sub(r"[^a-z0-9_-]", "-", value.lower())[:63]
