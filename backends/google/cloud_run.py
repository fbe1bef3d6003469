"""A model on Cloud Run: one service per model, one revision per version, requests split by Cloud Run.

Cloud Run gives a revision its name, so a revision is known by a label of its template: the first 63 digits of
the bundle's sha256. Its id is the first 12 digits, and its tag, by which it is asked at any weight, has them
too.

What an update of a service must respect (https://cloud.google.com/run/docs/reference/rpc/google.cloud.run.v2):

- Without traffic targets all requests go to the newest revision. Each update here names revisions; the newest
  one gets requests by itself only in a service that has no other revision.
- A template with the name of a revision that exists is refused, so no name is ever written.
- An update may fail after it was accepted. Traffic then stays as it was. The state of the service says
  nothing about traffic when its newest revision has failed, so traffic itself is compared.
- `update_service` takes no request id. The time of the change is an annotation of the service, by which a
  change whose answer was lost is recognized.

Cloud Run counts requests by revision and status, not labels of answers; it has no shadow and no assignment by
a header. Its counts are read from Cloud Monitoring, minutes later (`request_counts`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gauntlet.backends.deployment import (
    Answer,
    Assignment,
    ConflictError,
    Deployment,
    Evidence,
    Release,
    Revision,
    Service,
    Shadow,
    State,
)
from gauntlet.backends.google.calls import ask, ask_once, explained, first_line
from gauntlet.backends.google.deployment import (
    changed,
    cloud_location,
    post,
    refuse_unsupported,
    require_weights,
    service_id,
    serving_image,
    write_once,
)
from gauntlet.backends.google.location import valid_label
from gauntlet.backends.google.request_counts import Metrics, counts
from gauntlet.manifests.deployment import CloudRunTarget
from gauntlet.manifests.errors import GauntletError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "run.googleapis.com"
BUNDLE_LABEL, VERSION_LABEL = "gauntlet-bundle", "gauntlet-version"
BUNDLE_ANNOTATION = "gauntlet-bundle-sha256"
ATTEMPT_ANNOTATION = "gauntlet-attempt"
WEIGHTS_ANNOTATION = "gauntlet-weights-since"
PORT = 8080
SECONDS_TO_TAKE_EFFECT = 300.0
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_HIDDEN = 240
"""A minute is sampled within 60 s, and its point is visible within 180 s."""
SECONDS_TO_START = 240
"""How long a container may take until /startupz answers 200."""

CAUSES = {
    "HEALTH_CHECK_CONTAINER_ERROR": "the container did not answer its startup probe; read its log",
    "CONTAINER_MISSING": "the serving image does not exist; correct serving_image in the registry URI",
    "CONTAINER_PERMISSION_DENIED": "Cloud Run's service agent needs the role Artifact Registry Reader",
    "PROGRESS_DEADLINE_EXCEEDED": "the container was not ready in time; read its log",
    "ACTIVE_REVISION_LIMIT_REACHED": "the project has too many active revisions; remove tags of old ones",
    "MIN_INSTANCES_NOT_PROVISIONED": "Cloud Run has no room for min_instances; lower them or try later",
    "SECRETS_ACCESS_CHECK_FAILED": "the service account may not read a secret",
}  # fmt: skip


class CloudRunDeployment(Deployment):
    """A `Deployment` as a Cloud Run service in one project and region."""

    def __init__(self, name: str, registry_uri: str, settings: Mapping[str, Any]) -> None:
        """Read the project, the region and the serving image."""
        location = cloud_location(registry_uri, settings)
        self._location = location
        self._parent = location.parent
        self._id = service_id(settings.get("service") or name)
        self._name = f"{self._parent}/services/{self._id}"
        self._image = serving_image(registry_uri, "Cloud Run")
        self._settings = CloudRunTarget.model_validate(settings.get("cloud_run") or {})

    def service(self) -> Service | None:
        """The revisions that the service's traffic names, with weight or only by a tag."""
        with explained_run():
            found = self._get()
            return None if found is None else self._described(found)

    def start(self, release: Release) -> Revision:
        """Add the revision with a tag and no requests. One that was stopped before is tagged again."""
        with explained_run():
            self._write(lambda found: self._is_started(found, release), lambda: self._start(release))
        serving = self.service()
        started = None if serving is None else serving.of_bundle(release.bundle_sha256)
        if started is None:
            raise ConflictError(f"{self._id}: {release.bundle_sha256[:12]} was removed again. Run again.")
        return started

    def ask(self, revision: str, body: bytes) -> Answer:
        """Post to the URL of the revision's tag, with an identity token for the service."""
        with explained_run():
            found = self._get()
        if found is None:
            raise UsageError(f"{self._id}: there is no such service in {self._parent}.")
        tag = _tag(revision)
        url = next((status.uri for status in found.traffic_statuses if status.tag == tag), "")
        if not url:
            raise GauntletError(f"{self._id}: revision {revision} has no URL yet. Wait until it is ready.")
        status, headers, content = post(f"{url}/predict", body, self._identity(found.uri))
        return Answer(status, content, headers.get("x-gauntlet-bundle-sha256", "")[:12])

    def shift(
        self,
        weights: Mapping[str, int],
        etag: str,
        shadow: Shadow | None = None,
        assignment: Assignment | None = None,
    ) -> Service:
        """Set the traffic in one update, and wait until Cloud Run reports it."""
        refuse_unsupported("cloud_run", shadow, assignment)
        since = datetime.now(UTC).isoformat()
        with explained_run():
            before = self._get()
            serving = None if before is None else self._described(before)
            require_weights(self._id, serving, weights)
            if before is None or before.etag != etag:
                raise changed(self._id)
            traffic = [
                _target(name, weights.get(id_, 0), id_) for id_, name, _ in self._ready_targets(before)
            ]

            def make() -> Any:
                annotations = {**before.annotations, WEIGHTS_ANNOTATION: since}
                return self._update(before, {"traffic": traffic, "annotations": annotations})

            self._write(lambda found: found.annotations.get(WEIGHTS_ANNOTATION) == since, make, etag)
            return self._described(self._settled(traffic))

    def evidence(self) -> Evidence:
        """The counts of whole minutes since the last shift, up to four minutes ago. There are no labels."""
        with explained_run():
            found = self._get()
            if found is None:
                raise UsageError(f"{self._id}: there is no such service in {self._parent}.")
            serving = self._described(found)
            named = {name: id_ for id_, name, _ in self._targets(found) if id_ in serving.weights}
        metrics = Metrics(
            resource=f'resource.type="cloud_run_revision" AND resource.labels.service_name="{self._id}"'
            f' AND resource.labels.location="{self._location.region}"',
            revision="revision_name",
            requests="run.googleapis.com/request_count",
            latencies="run.googleapis.com/request_latencies",
            good='metric.labels.response_code_class="2xx"',
            seconds_hidden=SECONDS_HIDDEN,
        )
        arms = counts(self._location.project, metrics, named, _weights_since(found))
        return Evidence(etag=found.etag, weights=serving.weights, arms=arms)

    def stop(self, revision: str) -> None:
        """Remove the revision from the traffic with its tag: Cloud Run then ends its instances."""
        with explained_run():
            before = self._get()
            if before is None or revision not in {id_ for id_, _, _ in self._targets(before)}:
                return
            serving = self._described(before)
            if serving.weights.get(revision):
                raise UsageError(
                    f"{self._id}: revision {revision} gets {serving.weights[revision]} % of the requests. "
                    "Shift them to another revision, then stop it."
                )
            ready = self._ready_targets(before)
            kept = [_target(name, percent, id_) for id_, name, percent in ready if id_ != revision]

            def is_stopped(found: Any) -> bool:
                return revision not in {id_ for id_, _, _ in self._targets(found)}

            self._write(is_stopped, lambda: self._update(before, {"traffic": kept}), before.etag)
            self._settled(kept)

    # --- starting ---

    def _is_started(self, found: Any, release: Release) -> bool:
        serving = self._described(found)
        each = serving.of_bundle(release.bundle_sha256)
        return each is not None and each.state != "failed"

    def _start(self, release: Release) -> Any:
        before = self._get()
        id_ = release.bundle_sha256[:12]
        if before is None:
            # A new service has no revision that could be named: its first one gets the requests.
            service = {
                "template": self._template(release, 1),
                "traffic": [_newest(100, id_)],
                "annotations": {WEIGHTS_ANNOTATION: datetime.now(UTC).isoformat()},
            }
            created = {"parent": self._parent, "service": service, "service_id": self._id}
            return ask_once(self._services.create_service, **created)
        kept = [_target(name, share, of) for of, name, share in self._ready_targets(before) if of != id_]
        known = [each for each in self._revisions if _is_of(each, release)]
        ready = next((each for each in known if _state(each)[0] == "ready"), None)
        if ready is not None:
            return self._update(before, {"traffic": [*kept, _target(_short(ready.name), 0, id_)]})
        newest = _newest(0 if any(each["percent"] for each in kept) else 100, id_)
        attempt = 1 + max((int(each.annotations.get(ATTEMPT_ANNOTATION, 0)) for each in known), default=0)
        if _is_of(before.template, release):
            attempt = max(attempt, int(before.template.annotations.get(ATTEMPT_ANNOTATION, 0)) + 1)
        changes = {"template": self._template(release, attempt), "traffic": [*kept, newest]}
        return self._update(before, changes)

    def _template(self, release: Release, attempt: int) -> dict[str, Any]:
        """A template without a name. `attempt` makes another revision of the bundle of one that failed."""
        given = self._settings
        template: dict[str, Any] = {
            "labels": {
                BUNDLE_LABEL: release.bundle_sha256[:63],
                VERSION_LABEL: valid_label(release.version),
            },
            "annotations": {BUNDLE_ANNOTATION: release.bundle_sha256, ATTEMPT_ANNOTATION: str(attempt)},
            # Of the revision, not of the service: the service's minimum is divided by the weights, and a
            # revision with few requests would get none.
            "scaling": {
                "min_instance_count": given.min_instances,
                "max_instance_count": given.max_instances,
            },
            "max_instance_request_concurrency": given.concurrency,
            "containers": [
                {
                    "image": self._image,
                    "ports": [{"container_port": PORT}],
                    "env": [{"name": "AIP_STORAGE_URI", "value": release.bundle_uri}],
                    "resources": {
                        "limits": {"cpu": given.cpu, "memory": given.memory},
                        "cpu_idle": False,
                        "startup_cpu_boost": True,
                    },
                    "startup_probe": {
                        "period_seconds": 5,
                        "timeout_seconds": 3,
                        "failure_threshold": SECONDS_TO_START // 5,
                        "http_get": {"path": "/startupz", "port": PORT},
                    },
                }
            ],
        }
        if given.service_account:
            template["service_account"] = given.service_account
        return template

    # --- reading ---

    def _get(self) -> Any | None:
        from google.api_core.exceptions import NotFound

        self.__dict__.pop("_revisions", None)
        try:
            return ask(self._services.get_service, name=self._name)
        except NotFound:
            return None

    @cached_property
    def _revisions(self) -> list[Any]:
        """All revisions at the time of the last `_get`, the newest first."""
        listed = ask(self._client("RevisionsClient").list_revisions, parent=self._name)
        return sorted(listed, key=lambda each: each.create_time, reverse=True)

    def _targets(self, found: Any) -> list[tuple[str, str, int]]:
        """The id, the revision's name and the percent of each target; no name while it is not created."""
        percent: dict[tuple[str, str], int] = {}
        spec = list(found.traffic) or [{"percent": 100}]
        for target in spec:
            name = getattr(target, "revision", "")
            if not name:
                name = _short(found.latest_created_revision)
                template, made = found.template, self._by_name(name)
                if made is None or _identity(made) != _identity(template):
                    name = ""
            of = self._by_name(name) if name else found.template
            key = (_id_of(of) or name, name)
            share = target.percent if hasattr(target, "percent") else target["percent"]
            percent[key] = percent.get(key, 0) + share
        return [(id_, name, share) for (id_, name), share in percent.items()]

    def _by_name(self, name: str) -> Any | None:
        return next((each for each in self._revisions if _short(each.name) == name), None)

    def _described(self, found: Any) -> Service:
        since = _weights_since(found).isoformat()
        revisions = []
        for id_, name, percent in self._targets(found):
            of = self._by_name(name) if name else None
            if of is not None:
                state, reason = _state(of)
            elif found.reconciling or found.observed_generation != found.generation:
                state, reason = "starting", ""
            else:
                state, reason = _condition_state(found.terminal_condition)
                state = "starting" if state == "ready" else state
            marked = of if of is not None else found.template
            revisions.append(
                Revision(
                    id=id_,
                    version=marked.labels.get(VERSION_LABEL, ""),
                    bundle_sha256=marked.annotations.get(BUNDLE_ANNOTATION, ""),
                    state=state,
                    weight=percent,
                    since=since,
                    reason=reason,
                )
            )
        return Service(self._id, found.uri, tuple(revisions), found.etag)

    def _ready_targets(self, found: Any) -> list[tuple[str, str, int]]:
        """The targets that an update may name: Cloud Run refuses a revision that is not ready."""
        named = [(each, self._by_name(each[1])) for each in self._targets(found)]
        return [each for each, of in named if of is not None and _state(of)[0] == "ready"]

    # --- writing ---

    def _update(self, before: Any, changes: Mapping[str, Any]) -> Any:
        """Ask once for a change of the named fields. The template keeps no revision's name."""
        from google.cloud import run_v2

        service = run_v2.Service(before)
        for field, value in changes.items():
            setattr(service, field, value)
        service.template.revision = ""
        mask = {"paths": list(changes)}
        return ask_once(self._services.update_service, service=service, update_mask=mask)

    def _write(self, is_done: Callable[[Any], bool], make: Callable[[], Any], etag: str = "") -> None:
        write_once(self._id, self._get, is_done, make, etag)

    def _settled(self, traffic: Sequence[Mapping[str, Any]]) -> Any:
        """Wait until Cloud Run has observed the last change and reports this traffic."""
        wanted = {(each["revision"], each["percent"]) for each in traffic if each["percent"]}
        deadline = time.monotonic() + SECONDS_TO_TAKE_EFFECT
        while True:
            found = self._get()
            if found is None:
                raise UsageError(f"{self._id}: the service was deleted.")
            observed = found.observed_generation == found.generation and not found.reconciling
            reported = {(each.revision, each.percent) for each in found.traffic_statuses if each.percent}
            if observed and reported == wanted:
                return found
            failed = found.terminal_condition.state == found.terminal_condition.State.CONDITION_FAILED
            if observed and failed and not self._newest_has_failed(found):
                reason = _condition_state(found.terminal_condition)[1]
                raise GauntletError(f"{self._id}: the requests stay as they were: {reason}")
            if time.monotonic() > deadline:
                raise GauntletError(
                    f"{self._id}: the requests are not shifted after {SECONDS_TO_TAKE_EFFECT:g} s. "
                    "Run again: a change that took effect since then is found."
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _newest_has_failed(self, found: Any) -> bool:
        newest = self._by_name(_short(found.latest_created_revision))
        return newest is not None and _state(newest)[0] == "failed"

    # --- clients ---

    @cached_property
    def _services(self) -> Any:
        return self._client("ServicesClient")

    def _client(self, name: str) -> Any:
        from google.cloud import run_v2

        return getattr(run_v2, name)()

    def _identity(self, audience: str) -> str:
        """An identity token; the audience is the service's own URL, also for the URL of a tag."""
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request
        from google.oauth2.id_token import fetch_id_token

        try:
            return str(fetch_id_token(Request(), audience))
        except GoogleAuthError as error:
            raise UsageError(
                f"{audience}: no identity token ({first_line(error)}). Run this as a service account "
                "with the role Cloud Run Invoker: gcloud auth application-default login "
                "--impersonate-service-account=ACCOUNT, and its file in GOOGLE_APPLICATION_CREDENTIALS."
            ) from None


@contextmanager
def explained_run() -> Iterator[None]:
    """As `calls.explained`, but with the role of Cloud Run."""
    from google.api_core.exceptions import Forbidden

    with explained(HOST):
        try:
            yield
        except Forbidden as error:
            raise UsageError(
                f"{HOST}: permission denied ({first_line(error)}). Give this account the roles "
                "Cloud Run Developer, roles/run.developer, and Service Account User on the service's account."
            ) from error


def _target(revision: str, percent: int, id_: str) -> dict[str, Any]:
    kind = "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION"
    named = {"type_": kind, "revision": revision, "percent": percent}
    return named if id_ == revision else {**named, "tag": _tag(id_)}


def _newest(percent: int, id_: str) -> dict[str, Any]:
    return {"type_": "TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "percent": percent, "tag": _tag(id_)}


def _tag(id_: str) -> str:
    return f"b-{id_}"


def _short(name: str) -> str:
    return str(name).rpartition("/")[2]


def _id_of(marked: Any) -> str:
    return str(marked.labels.get(BUNDLE_LABEL, ""))[:12] if marked is not None else ""


def _identity(marked: Any) -> tuple[str, str]:
    return marked.labels.get(BUNDLE_LABEL, ""), marked.annotations.get(ATTEMPT_ANNOTATION, "")


def _is_of(marked: Any, release: Release) -> bool:
    return bool(marked.labels.get(BUNDLE_LABEL) == release.bundle_sha256[:63])


def _weights_since(found: Any) -> datetime:
    said = found.annotations.get(WEIGHTS_ANNOTATION)
    return datetime.fromisoformat(said) if said else datetime.now(UTC)


def _state(revision: Any) -> tuple[State, str]:
    ready = next((each for each in revision.conditions if each.type_ == "Ready"), None)
    return ("starting", "") if ready is None else _condition_state(ready)


def _condition_state(condition: Any) -> tuple[State, str]:
    """A condition's state, and for a failure one sentence with its cause."""
    if condition.state == condition.State.CONDITION_SUCCEEDED:
        return "ready", ""
    if condition.state != condition.State.CONDITION_FAILED:
        return "starting", ""
    codes = [each.name for each in (condition.revision_reason, condition.reason) if each]
    cause = next((CAUSES[code] for code in codes if code in CAUSES), "the cause is not known")
    said = f" ({'; '.join(filter(None, (*codes, first_line(condition.message))))})"
    return "failed", f"Cloud Run: {cause}{said}."
