"""A model on a Vertex AI endpoint: one endpoint per model, one deployed model per version.

The id of a deployed model is ten digits that follow from the bundle's sha256, so a repeated request to deploy
a bundle finds what the first one made. Its display name is the version and the whole sha256.

An endpoint sends no request to a deployed model without weight, so a new version cannot be asked there before
it gets requests of clients. Each version that starts therefore gets a staging endpoint of its own as well, on
one machine, with the same deployed model. Golden rows are asked there. The staging endpoint is removed when
the weights are set. While it exists it also says which bundle is starting, to whoever looks.

What the API demands (https://cloud.google.com/vertex-ai/docs/reference/rpc/google.cloud.aiplatform.v1):

- A model's name without a version means the version `default`, so each name has its version.
- `deploy_model` overwrites the traffic split without an etag. It is given a split only where nothing gets
  requests; else the split is left as it is, in which the new deployed model has no weight.
- `deploy_model` takes 10 to 20 minutes. `start` does not wait: the endpoint's list of operations says how far
  the deployment is, also to another process.
- A deployed model with weight cannot be undeployed.

Vertex AI counts requests by deployed model and by class of the status, minutes later (`request_counts`). It
counts no labels of answers, and no refusals apart from other errors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from gauntlet.backends.deployment import (
    Answer,
    Assignment,
    Deployment,
    Evidence,
    Release,
    Revision,
    Service,
    Shadow,
    State,
)
from gauntlet.backends.google.calls import (
    ask,
    ask_once,
    explained,
    find_or_make,
    first_line,
    quota_refusal,
    retries,
    vertex_client,
)
from gauntlet.backends.google.deployment import (
    SECONDS_TO_ASK,
    changed,
    cloud_location,
    refuse_unsupported,
    require_weights,
    service_id,
    serving_image,
    write_once,
)
from gauntlet.backends.google.location import VertexLocation
from gauntlet.backends.google.request_counts import Metrics, counts
from gauntlet.manifests.deployment import VertexEndpointTarget
from gauntlet.manifests.errors import GauntletError, UsageError

SERVICE_LABEL, SINCE_LABEL = "gauntlet_service", "gauntlet_weights_since"
SINCE = "%Y%m%dt%H%M%S%f"
"""A time in the characters of a label."""
SECONDS_TO_CREATE = 120.0
SECONDS_TO_UNDEPLOY = 1_800.0
SECONDS_BETWEEN_LOOKS = 5.0
SECONDS_HIDDEN = 420
"""A minute is sampled within 60 s, and its point is visible within 360 s."""
DEPLOY_METADATA = "google.cloud.aiplatform.v1.DeployModelOperationMetadata"


@dataclass
class _Found:
    """The endpoint of a service, and the staging endpoint of each revision that has one."""

    main: Any
    staging: Mapping[str, Any]


class VertexEndpointDeployment(Deployment):
    """A `Deployment` as an endpoint in one project and region of Vertex AI."""

    def __init__(self, name: str, registry_uri: str, settings: Mapping[str, Any]) -> None:
        """Read the project, the region, and the registry whose versions are deployed."""
        self._location = cloud_location(registry_uri, settings)
        serving_image(registry_uri, "a Vertex endpoint")
        self._registry = VertexLocation.of(registry_uri, "registry URI")
        self._id = service_id(settings.get("service") or name)
        self._settings = VertexEndpointTarget.model_validate(settings.get("vertex_endpoint") or {})
        self._require_accelerator()

    def service(self) -> Service | None:
        """The deployed models of the endpoint, and those that are being deployed."""
        with explained(self._location.host):
            found = self._find()
            return None if found is None else self._described(found)

    def start(self, release: Release) -> Revision:
        """Ask for the deployment to the endpoint and, where another version serves, to a staging endpoint."""
        id_ = _id_of(release.bundle_sha256)
        with explained(self._location.host):
            found = self._made(release)
            if not found.main.traffic_split.get(id_):
                staging, serves = found.staging[id_], bool(found.main.traffic_split)
                if serves:
                    self._deploy(release, staging, staging.create_time, {"0": 100}, replicas=1)
                self._deploy(release, found.main, staging.create_time, {} if serves else {"0": 100})
            for other in self._weighted(found) - {id_}:
                self._clear(found.staging.get(other))
        serving = self.service()
        started = None if serving is None else serving.of_bundle(release.bundle_sha256)
        if started is None:
            raise changed(self._id, f"{release.bundle_sha256[:12]} was removed again")
        return started

    def ask(self, revision: str, body: bytes) -> Answer:
        """Ask the staging endpoint of a revision, or the endpoint if it sends all requests to this one."""
        from google.api_core import exceptions

        with explained(self._location.host):
            found = self._find()
            place = None if found is None else self._place_to_ask(found, revision)
            if place is None:
                raise GauntletError(
                    f"{self._id}: revision {revision} cannot be asked alone: it has no staging endpoint. "
                    "Start it again."
                )
            bundles = {each.id: _named(each.display_name)[1] for each in place.deployed_models}
            try:
                predicted = self._predict(place, json.loads(body))
            except (exceptions.ClientError, exceptions.ServerError) as error:
                if error.code in (None, 401, 403, 429, 503, 504):  # of Vertex AI, not of the container
                    raise
                # An error names no deployed model, but this endpoint sends requests to this one only.
                return Answer(int(error.code), first_line(error).encode(), bundles[revision][:12])
        content = {"predictions": type(predicted).to_dict(predicted)["predictions"]}
        return Answer(200, json.dumps(content).encode(), bundles.get(predicted.deployed_model_id, "")[:12])

    def shift(
        self,
        weights: Mapping[str, int],
        etag: str,
        shadow: Shadow | None = None,
        assignment: Assignment | None = None,
    ) -> Service:
        """Set the traffic split in one update, guarded by the etag."""
        refuse_unsupported("vertex_endpoint", shadow, assignment)
        since = datetime.now(UTC).strftime(SINCE)
        with explained(self._location.host):
            before = self._find()
            require_weights(self._id, None if before is None else self._described(before), weights)
            if before is None or before.main.etag != etag:
                raise changed(self._id)
            main = before.main
            split = {each.id: weights.get(each.id, 0) for each in main.deployed_models}
            endpoint = {
                "name": main.name,
                "etag": etag,
                "traffic_split": split,
                "labels": {**main.labels, SINCE_LABEL: since},
            }
            write_once(
                self._id,
                lambda: self._get(self._name),
                lambda found: found.labels.get(SINCE_LABEL) == since,
                lambda: ask_once(
                    self._endpoints.update_endpoint,
                    endpoint=endpoint,
                    update_mask={"paths": ["traffic_split", "labels"]},
                ),
                etag,
            )
            for id_ in weights:
                self._clear(before.staging.get(id_))
            after = self._find()
        if after is None:
            raise changed(self._id, "it was deleted")
        return self._described(after)

    def evidence(self) -> Evidence:
        """The counts of whole minutes since the last shift, up to seven minutes ago. There are no labels."""
        with explained(self._location.host):
            found = self._find()
            if found is None:
                raise UsageError(f"{self._id}: there is no such endpoint in {self._location.parent}.")
            serving = self._described(found)
        kind = "aiplatform.googleapis.com/Endpoint"
        metrics = Metrics(
            resource=f'resource.type="{kind}" AND resource.labels.endpoint_id="{self._id}"'
            f' AND resource.labels.location="{self._location.region}"',
            revision="deployed_model_id",
            requests="aiplatform.googleapis.com/prediction/online/response_count",
            latencies="aiplatform.googleapis.com/prediction/online/prediction_latencies",
            good='metric.labels.latency_type="total"',
            seconds_hidden=SECONDS_HIDDEN,
        )
        named = {id_: id_ for id_ in serving.weights}
        arms = counts(self._location.project, metrics, named, _since(found.main))
        return Evidence(etag=found.main.etag, weights=serving.weights, arms=arms)

    def stop(self, revision: str) -> None:
        """Undeploy the revision and remove its staging endpoint, and wait for both."""
        with explained(self._location.host):
            found = self._find()
            if found is None:
                return
            if weight := found.main.traffic_split.get(revision, 0):
                raise UsageError(
                    f"{self._id}: revision {revision} gets {weight} % of the requests. "
                    "Shift them to another revision, then stop it."
                )
            staging = found.staging.get(revision)
            if staging is not None:
                self._await_deployments(found.main.name, revision, staging.create_time)
                self._await_deployments(staging.name, revision, staging.create_time)
            self._undeploy(found.main.name, revision)
            for id_ in {revision} | (self._weighted(found) & set(found.staging)):
                self._remove(found.staging.get(id_), id_)

    def _require_accelerator(self) -> None:
        from google.cloud.aiplatform_v1.types import AcceleratorType

        given, known = self._settings.accelerator_type, [each.name for each in AcceleratorType if each.value]
        if given is not None and given not in known:
            raise UsageError(
                f"deployment.vertex_endpoint.accelerator_type: found {given!r}, expected one of "
                f"{', '.join(known)}."
            )

    # --- reading ---

    @property
    def _name(self) -> str:
        return f"{self._location.parent}/endpoints/{self._id}"

    def _get(self, name: str) -> Any | None:
        from google.api_core.exceptions import NotFound

        try:
            return ask(self._endpoints.get_endpoint, name=name)
        except NotFound:
            return None

    def _find(self) -> _Found | None:
        main = self._get(self._name)
        if main is None:
            return None
        ours = f'labels.{SERVICE_LABEL}="{self._id}"'
        listed = ask(self._endpoints.list_endpoints, parent=self._location.parent, filter=ours)
        of = {_short(each.name).removeprefix(f"{self._id}-"): each for each in listed}
        return _Found(main, {id_: each for id_, each in of.items() if id_ != self._id})

    def _described(self, found: _Found) -> Service:
        main, since = found.main, _since(found.main).isoformat()
        names = {id_: each.display_name for id_, each in found.staging.items()}
        names |= {each.id: each.display_name for each in main.deployed_models}
        revisions = []
        for id_, name in names.items():
            version, sha256 = _named(name)
            state, reason = self._state(found, id_)
            weight = main.traffic_split.get(id_, 0)
            revisions.append(Revision(id_, version, sha256, state, weight, since, reason))
        host = main.dedicated_endpoint_dns or self._location.host
        return Service(self._id, f"https://{host}/v1/{main.name}:predict", tuple(revisions), main.etag)

    def _weighted(self, found: _Found) -> set[str]:
        return {id_ for id_, weight in found.main.traffic_split.items() if weight}

    def _state(self, found: _Found, id_: str) -> tuple[State, str]:
        """The state of a revision on the endpoint and, before it gets requests, on its staging endpoint."""
        staging, weighted = found.staging.get(id_), self._weighted(found)
        if staging is None or id_ in weighted:
            return "ready", ""
        places = [found.main, staging] if weighted else [found.main]
        states = [self._progress(place, id_, staging.create_time) for place in places]
        for state, reason in states:
            if state == "failed":
                return "failed", reason
        return ("ready", "") if all(state == "ready" for state, _ in states) else ("starting", "")

    def _progress(self, place: Any, id_: str, since: datetime) -> tuple[State | None, str]:
        """How far a deployment is that was asked for since a time; None if none was, or it was undone."""
        if id_ in {each.id for each in place.deployed_models}:
            return "ready", ""
        started = [(when, each) for when, each in self._deployments(place.name) if when >= since]
        if not started:
            return None, ""
        _, newest = max(started, key=lambda each: each[0])
        if newest.done and newest.error.code:
            said = quota_refusal("Vertex AI", newest.error.message)
            return "failed", str(said or f"Vertex AI: {newest.error.message.strip()}")
        if not newest.done:
            return "starting", ""
        # It was undeployed since then: a staging endpoint that is being removed has served its purpose.
        return (None if _short(place.name) == self._id else "ready"), ""

    def _deployments(self, endpoint: str) -> Iterator[tuple[datetime, Any]]:
        """The operations that deploy a model to an endpoint, with the time of each."""
        from google.cloud import aiplatform_v1 as vertex

        token = ""
        while True:
            page = ask(self._endpoints.list_operations, name=endpoint, page_token=token)
            for each in page.operations:
                if each.metadata.type_url.endswith(DEPLOY_METADATA):
                    metadata = vertex.DeployModelOperationMetadata.deserialize(each.metadata.value)
                    yield metadata.generic_metadata.create_time, each
            token = page.next_page_token
            if not token:
                return

    # --- starting ---

    def _made(self, release: Release) -> _Found:
        """The endpoint and the release's staging endpoint, created if they are missing."""
        id_, labels = _id_of(release.bundle_sha256), {SERVICE_LABEL: self._id}
        self._create(self._id, {"display_name": release.model, "labels": labels})
        found = self._find()
        if found is None:
            raise changed(self._id, "it was deleted")
        if found.main.dedicated_endpoint_enabled != self._settings.dedicated:
            raise UsageError(
                f"deployment.vertex_endpoint.dedicated: found {self._settings.dedicated}, but the endpoint "
                f"{self._id} was created with {found.main.dedicated_endpoint_enabled}. Change the manifest, "
                "or serve under another name: deployment.service."
            )
        if not found.main.traffic_split.get(id_) and id_ not in found.staging:
            self._create(f"{self._id}-{id_}", {"display_name": _name_of(release), "labels": labels})
            found = self._find()
            if found is None or id_ not in found.staging:
                raise changed(self._id, f"the staging endpoint of {release.bundle_sha256[:12]} is gone")
        return found

    def _create(self, id_: str, endpoint: Mapping[str, Any]) -> None:
        from google.api_core.exceptions import AlreadyExists

        content = {**endpoint, "dedicated_endpoint_enabled": self._settings.dedicated}
        parent, create = self._location.parent, self._endpoints.create_endpoint

        def make() -> Any:
            with suppress(AlreadyExists):
                operation = ask_once(create, parent=parent, endpoint=content, endpoint_id=id_)
                _finish(operation, f"endpoint {id_} is not created", SECONDS_TO_CREATE)

        find_or_make(lambda: self._get(f"{parent}/endpoints/{id_}"), make)

    def _deploy(
        self,
        release: Release,
        place: Any,
        since: datetime,
        split: Mapping[str, int],
        replicas: int | None = None,
    ) -> None:
        """Ask for a deployment, unless it is there or was asked for since a time.

        Args:
            split: The traffic split from then on, with "0" for the new deployed model; empty to leave it.
            replicas: An exact number of machines instead of the manifest's.
        """
        from google.api_core.exceptions import AlreadyExists, FailedPrecondition

        id_, given = _id_of(release.bundle_sha256), self._settings

        def find() -> bool | None:
            found = self._get(place.name)
            if found is None:
                raise changed(self._id, "an endpoint was deleted")
            return True if self._progress(found, id_, since)[0] in ("ready", "starting") else None

        machine: dict[str, Any] = {"machine_type": given.machine_type}
        if given.accelerator_type:
            machine |= {
                "accelerator_type": given.accelerator_type,
                "accelerator_count": given.accelerator_count,
            }
        deployed: dict[str, Any] = {
            "id": id_,
            "model": f"{self._registry.parent}/models/{release.model}@{release.version}",
            "display_name": _name_of(release),
            "dedicated_resources": {
                "machine_spec": machine,
                "min_replica_count": replicas or given.min_replicas,
                "max_replica_count": replicas or given.max_replicas,
            },
        }
        if given.service_account:
            deployed["service_account"] = given.service_account
        try:
            find_or_make(
                find,
                lambda: ask_once(
                    self._endpoints.deploy_model,
                    endpoint=place.name,
                    deployed_model=deployed,
                    traffic_split=dict(split),
                ),
            )
        except (AlreadyExists, FailedPrecondition):  # the request before was taken, and its answer was lost
            if not find():
                raise

    # --- asking ---

    def _place_to_ask(self, found: _Found, id_: str) -> Any | None:
        """The endpoint that sends all its requests to this revision."""
        for place in (found.main, found.staging.get(id_)):
            if place is not None and place.traffic_split.get(id_) == 100:
                return place
        return None

    def _predict(self, place: Any, content: Mapping[str, Any]) -> Any:
        from google.cloud import aiplatform_v1 as vertex

        client = self._predictions
        if host := place.dedicated_endpoint_dns:  # it is asked by HTTP; the region's host refuses
            options = {"api_endpoint": host}
            client = vertex.PredictionServiceClient(transport="rest", client_options=options)
        request = vertex.PredictRequest.from_json(json.dumps({"endpoint": place.name, **content}))
        return client.predict(request=request, retry=retries(), timeout=SECONDS_TO_ASK)

    # --- removing ---

    def _clear(self, staging: Any | None) -> None:
        """Ask for the next step of a staging endpoint's removal, without waiting. Another call goes on."""
        from google.api_core.exceptions import GoogleAPIError

        if staging is None:
            return
        with suppress(GoogleAPIError):
            if staging.deployed_models:
                ids = (each.id for each in staging.deployed_models)
                for id_ in ids:
                    self._ask_to_undeploy(staging.name, id_)
            else:
                ask_once(self._endpoints.delete_endpoint, name=staging.name)

    def _remove(self, staging: Any | None, id_: str) -> None:
        """Remove a staging endpoint, and wait for it."""
        from google.api_core.exceptions import NotFound

        if staging is None:
            return
        self._undeploy(staging.name, id_)

        def make() -> bool:
            with suppress(NotFound):
                operation = ask_once(self._endpoints.delete_endpoint, name=staging.name)
                _finish(operation, f"the staging endpoint of {id_} is not deleted", SECONDS_TO_CREATE)
            return True

        find_or_make(lambda: None if self._get(staging.name) else True, make)

    def _undeploy(self, endpoint: str, id_: str) -> None:
        def find() -> bool | None:
            found = self._get(endpoint)
            return True if found is None or id_ not in {each.id for each in found.deployed_models} else None

        def make() -> None:
            operation = self._ask_to_undeploy(endpoint, id_)
            _finish(operation, f"revision {id_} is not undeployed", SECONDS_TO_UNDEPLOY)

        find_or_make(find, make)

    def _ask_to_undeploy(self, endpoint: str, id_: str) -> Any:
        return ask_once(self._endpoints.undeploy_model, endpoint=endpoint, deployed_model_id=id_)

    def _await_deployments(self, endpoint: str, id_: str, since: datetime) -> None:
        """Wait until no deployment to an endpoint is going on: it could not be undone before."""
        deadline = time.monotonic() + SECONDS_TO_UNDEPLOY
        while (found := self._get(endpoint)) and self._progress(found, id_, since)[0] == "starting":
            if time.monotonic() > deadline:
                raise GauntletError(
                    f"{self._id}: {id_} is still being deployed after {SECONDS_TO_UNDEPLOY:g} s. Run again."
                )
            time.sleep(SECONDS_BETWEEN_LOOKS)

    # --- clients ---

    @cached_property
    def _endpoints(self) -> Any:
        return vertex_client("EndpointServiceClient", self._location)

    @cached_property
    def _predictions(self) -> Any:
        return vertex_client("PredictionServiceClient", self._location)


def _finish(operation: Any, fault: str, seconds: float) -> None:
    try:
        operation.result(timeout=seconds)
    except TimeoutError:
        raise GauntletError(
            f"{fault} after {seconds:g} s. Run again: what was done since then is found."
        ) from None


def _id_of(bundle_sha256: str) -> str:
    """Ten digits, the most that the API accepts, without a leading zero."""
    return str(10**9 + int(bundle_sha256[:15], 16) % (9 * 10**9))


def _name_of(release: Release) -> str:
    return f"{release.version} {release.bundle_sha256}"


def _named(display_name: str) -> tuple[str, str]:
    """The version and the bundle's sha256 of a display name; no sha256 for a model of somebody else."""
    version, _, sha256 = display_name.rpartition(" ")
    return (version, sha256) if len(sha256) == 64 else (display_name, "")


def _short(name: str) -> str:
    return str(name).rpartition("/")[2]


def _since(endpoint: Any) -> datetime:
    """When the weights were set last: by `shift`, or when the endpoint was created."""
    said = endpoint.labels.get(SINCE_LABEL)
    created: datetime = endpoint.create_time
    return datetime.strptime(said, SINCE).replace(tzinfo=UTC) if said else created
