"""What both deployment targets on Google Cloud check and send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gauntlet.backends.deployment import Assignment, ConflictError, Service, Shadow
from gauntlet.backends.google.calls import find_or_make, first_line, unreachable
from gauntlet.backends.google.location import VertexLocation, valid_id
from gauntlet.manifests.errors import UsageError

SECONDS_TO_ASK = 60.0


def cloud_location(registry_uri: str, settings: Mapping[str, Any]) -> VertexLocation:
    """The project and region of the section `deployment`, or else of the registry URI."""
    registry = _registry(registry_uri)
    project = settings.get("project") or (registry and registry.project)
    region = settings.get("region") or (registry and registry.region)
    if not project or not region:
        raise UsageError(
            f"deployment: found no project and region in the manifest, and the registry URI {registry_uri!r} "
            "names none. Set deployment.project and deployment.region, or use a registry vertex://PROJECT/REGION."
        )
    return VertexLocation.of(f"vertex://{project}/{region}", "deployment.project, deployment.region")


def _registry(uri: str) -> VertexLocation | None:
    return VertexLocation.of(uri, "registry URI") if uri.startswith("vertex://") else None


def serving_image(registry_uri: str, target: str) -> str:
    """The image that the registry URI names, or a `UsageError` if it names none."""
    registry = _registry(registry_uri)
    if registry is None or registry.serving_image is None:
        raise UsageError(
            f"registry URI: found no serving_image in {registry_uri!r}, but {target} runs a version in "
            "the serving image. Build it with cloudbuild.yaml and add serving_image=IMAGE@sha256:DIGEST."
        )
    return registry.serving_image


def service_id(name: str) -> str:
    """The name as the id of a service: up to 32 of a-z, 0-9 and hyphens, the first one a letter.

    Cloud Run accepts 46 for an id with a tag, Vertex AI 63 for an id with that of a deployed model.
    """
    id_ = valid_id(name, 30)
    return id_ if id_[:1].isalpha() else f"m-{id_}"


def refuse_unsupported(target: str, shadow: Shadow | None, assignment: Assignment | None) -> None:
    """Raise a `UsageError` for what only the local gateway can do."""
    for asked, what in ((shadow, "shadow_share"), (assignment, "an A/B test by a header")):
        if asked is not None:
            raise UsageError(f"deployment.target {target}: has no {what}. Use target local, or leave it out.")


def require_weights(service: str, serving: Service | None, weights: Mapping[str, int]) -> None:
    """Raise a `UsageError` for weights that do not sum to 100, or of a revision that cannot take requests."""
    states = {each.id: each.state for each in serving.revisions} if serving else {}
    served = {id_: states.get(id_, "unknown") for id_, weight in weights.items() if weight}
    faults = [f"revision {id_} is {state}" for id_, state in served.items() if state != "ready"]
    if sum(weights.values()) != 100 or min(weights.values(), default=0) < 0:
        faults.insert(0, f"found {dict(weights)}, expected shares from 0 to 100 that sum to 100")
    if faults:
        raise UsageError(f"{service}: {'; '.join(faults)}. The requests stay as they are.")


def changed(service: str, cause: object = "another etag") -> ConflictError:
    """The error when somebody else changed the service."""
    return ConflictError(f"{service}: was changed by somebody else ({first_line(cause)}). Read it again.")


def write_once(
    service: str,
    get: Callable[[], Any | None],
    is_done: Callable[[Any], bool],
    make: Callable[[], Any],
    etag: str = "",
) -> None:
    """Make a change of a service once, also if its answer is lost. `get` reads the service.

    Raises:
        ConflictError: The service has another etag and lacks the change.
    """
    from google.api_core.exceptions import Aborted, AlreadyExists, Conflict, FailedPrecondition

    def find() -> Any | None:
        found = get()
        if found is not None and is_done(found):
            return found
        if etag and (found is None or found.etag != etag):
            raise changed(service)
        return None

    try:
        find_or_make(find, make)
    except (Aborted, AlreadyExists, Conflict, FailedPrecondition) as error:
        raise changed(service, error) from error


def post(url: str, body: bytes, token: str) -> tuple[int, Mapping[str, str], bytes]:
    """The status, the headers in lower case and the body of an answer to a JSON request."""
    import requests

    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        response = requests.post(url, data=body, headers=headers, timeout=SECONDS_TO_ASK)
    except requests.RequestException as error:
        raise unreachable(url.split("/")[2], type(error).__name__) from None
    return response.status_code, {k.lower(): v for k, v in response.headers.items()}, response.content
