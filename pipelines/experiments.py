"""What `gauntlet ab` does: start an A/B test of two registered versions, look at it, and end it."""

from __future__ import annotations

import getpass
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gauntlet.backends.deployment import Assignment, ConflictError, Deployment, Service
from gauntlet.backends.factory import bundle_folder, open_deployment
from gauntlet.backends.local.deployment import LocalGateway
from gauntlet.backends.processes import home_folder
from gauntlet.backends.registry import (
    BUNDLE_TAG,
    CHALLENGER,
    CHAMPION,
    EVIDENCE_TAG,
    OVERRULED_TAG,
    PREVIOUS,
    STAGING,
    ModelVersion,
    Registry,
    with_number,
)
from gauntlet.backends.rollouts import Records, open_records
from gauntlet.components.compare_variants.analysis import analyse, widest
from gauntlet.components.compare_variants.outcomes import (
    no_outcomes,
    observe,
    read_assigned,
    read_outcomes,
)
from gauntlet.components.deploy_model.golden import fault_of, read_golden
from gauntlet.components.deploy_model.rollout import (
    Clock,
    SystemClock,
    give_all_requests,
    require_free,
    require_no_experiment,
    this_process,
    when_ready,
)
from gauntlet.components.deploy_model.run import deploy, release_of
from gauntlet.contracts.experiment import Analysis, Experiment, Variant
from gauntlet.contracts.rollout import ENDED, DeploymentRecord
from gauntlet.contracts.verdict import StageName
from gauntlet.manifests.deployment import DeploymentSection
from gauntlet.manifests.errors import GauntletError, RejectedError, UsageError
from gauntlet.pipelines.deployments import settings_of
from gauntlet.pipelines.promotion import LONGEST_REASON, approval_of, promote_version

ALIASES = (CHAMPION, STAGING, CHALLENGER, PREVIOUS)
TARGET = "local"
ATTEMPTS = 5


@dataclass(frozen=True)
class Looked:
    """An A/B test and what it says now. `is_assigning`: whether requests are assigned by it."""

    experiment: Experiment
    analysis: Analysis
    is_assigning: bool


class Experiments:
    """The A/B tests of one model, one at a time."""

    def __init__(self, registry: Registry, registry_uri: str, name: str, clock: Clock | None = None) -> None:
        self.registry, self.registry_uri, self.name = registry, registry_uri, name
        self.clock = clock or SystemClock()
        self.records: Records = open_records(name, registry_uri)

    def start(self, variants: Mapping[str, str], share: int, plan: Mapping[str, Any]) -> Experiment:
        """Start a test: serve both versions, prove the golden rows of both, and assign the requests.

        Args:
            variants: The alias or version of each variant by its name; the first is the control.
            share: Of the second variant, in percent.
            plan: The fields of an `Experiment` that say what is compared and when it ends.

        Raises:
            UsageError: A test or a rollout is going on, or there are no such two versions.
            RejectedError: One of the versions was rolled back.
            GauntletError: A server does not start or answers wrongly. The traffic was not moved.
        """
        record, generation = self._read()
        require_free(record, this_process(), self.clock.now())
        deployment = self._deployment(record)
        self._require_nothing_going_on(record, deployment.service())
        versions = self._versions(variants, record)
        revisions = [self._proved(deployment, version) for version in versions]
        service = deployment.service()  # read before the record is written: of two starts one is refused
        assert service is not None
        shares = (100 - share, share)
        now = self.clock.now()
        first, second = (
            Variant(
                name=name,
                version=one.version,
                revision=revision,
                bundle_sha256=one.tags[BUNDLE_TAG],
                share=part,
            )
            for name, one, revision, part in zip(variants, versions, revisions, shares, strict=True)
        )
        experiment = Experiment(
            id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
            variants=(first, second),
            salt=secrets.token_hex(16),
            started=now.isoformat(timespec="seconds"),
            **plan,
        )
        settings = record.settings or _dumped(DeploymentSection(target=TARGET))  # a rollback needs them
        record = record.model_copy(update={"settings": settings, "experiment": experiment})
        generation = self.records.write(record, generation)
        control = first.revision if experiment.without_key == "control" else ""
        assignment = Assignment(experiment.id, experiment.salt, experiment.key_header, control)
        weights = {one.revision: one.share for one in experiment.variants}
        deployment.shift(weights, service.etag, assignment=assignment)
        experiment = experiment.model_copy(update={"state": "running"})
        self.records.write(record.model_copy(update={"experiment": experiment}), generation)
        return experiment

    def look(self, outcomes: Path | None) -> Looked:
        """What the test that is going on, or was the last, says now.

        With outcomes, the record keeps what they say; without, that is what they said last.

        Raises:
            UsageError: There was no test, or there is no such file of outcomes.
            DataError: The outcomes cannot be read, or have values that the metric does not have.
        """
        record, _ = self._read()
        experiment = self._known(record)
        assigned = read_assigned(self._assignments(experiment), experiment)
        now = self.clock.now()
        if outcomes is None:
            found = _with_kept(analyse(experiment, assigned, no_outcomes(), now), experiment.analysis)
        else:
            observed = observe(assigned, read_outcomes(outcomes, experiment), experiment, now)
            found = analyse(experiment, assigned, observed, now)
            kept = found.model_copy(update={"path": ()})
            self._update(experiment, {"analysis": kept})
        service = self._deployment(record).service()
        return Looked(experiment, found, _assigns(service, experiment))

    def stop(
        self, winner: str | None, by: str | None, reason: str | None, say: Callable[[str], None]
    ) -> None:
        """End the test. The winner becomes champion by the gate of every model, and gets all requests.

        Without a winner the control gets all requests, and no alias is moved. The alias is moved first: if
        the gate refuses, nothing has changed.

        Raises:
            UsageError: No test is going on, or the winner is none of its variants.
            RejectedError: The test has not declared this winner and nobody says why it is one, its gate has
                rejected it, or its rollout was rolled back.
        """
        record, _ = self._read()
        experiment = self._known(record)
        deployment = self._deployment(record)
        if experiment.state == "stopped" and not _assigns(deployment.service(), experiment):
            raise UsageError(
                f"{self.name}: no A/B test is going on; the last one ended at {experiment.ended[:19]} UTC."
            )
        named = experiment.variant(winner or experiment.variants[0].name)
        if named is None:
            known = ", ".join(one.name for one in experiment.variants)
            raise UsageError(f"--winner: found {winner}, expected one of {known}.")
        version = with_number(self.name, self.registry.versions(self.name), named.version)
        why = reason or "ended without a winner"
        if winner is not None:
            why = self._promoted(experiment, version, winner, by, reason, say)
        at = self.clock.now().isoformat(timespec="seconds")
        who = by or getpass.getuser()
        ended = {"state": "stopped", "ended": at, "winner": winner or "", "by": who, "why": why}
        line = f"{at} A/B test {experiment.id} ended by {who}: {why}"
        self._update(experiment, ended, line)
        if winner is not None:
            settings = settings_of(record) or DeploymentSection(target=TARGET)
            rollout = deploy(self.registry, self.registry_uri, version, settings, at_once=True)
            say(f"{rollout.phase}: {rollout.why}")
            return
        give_all_requests(deployment, release_of(version), self.clock)
        deployment.stop(experiment.variants[1].revision)
        say(f"{self.name} {version.version} has all requests: {why}")

    def _promoted(
        self,
        experiment: Experiment,
        version: ModelVersion,
        winner: str,
        by: str | None,
        reason: str | None,
        say: Callable[[str], None],
    ) -> str:
        """Make the winner champion, and return why it is one."""
        approval_of(by, reason)
        found = experiment.analysis
        is_declared = found is not None and (found.decision, found.winner) == ("winner", winner)
        if not is_declared and (by is None or reason is None):
            said = "nobody has looked at outcomes" if found is None else f"{found.decision}: {found.why}"
            raise RejectedError(
                f"{self.name}: the A/B test has not declared {winner} the winner ({said}). Look again with "
                f"`gauntlet ab status {self.name} --outcomes FILE`, or decide it: --by NAME --reason TEXT. "
                "Nothing was changed."
            )
        why = reason or f"winner of the A/B test {experiment.id}: {found.why if found else ''}"
        if CHAMPION in version.aliases:
            return why
        if OVERRULED_TAG in version.tags:
            raise RejectedError(
                f"{self.name} {version.version}: its gate rejected it for {version.tags[OVERRULED_TAG]}, so "
                "an A/B test does not promote it. `gauntlet promote` does. Nothing was changed."
            )
        to: StageName | None = "production" if EVIDENCE_TAG in version.tags else None
        noted = None if by is None else why[:LONGEST_REASON]
        say(promote_version(self.registry, self.name, version.version, to, by, noted))
        return why

    # --- the parts of a start ---

    def _require_nothing_going_on(self, record: DeploymentRecord, service: Service | None) -> None:
        """Refuse a second test; one that was interrupted while it started is replaced."""
        experiment = record.experiment
        if experiment is not None and experiment.state == "starting":
            record = record.model_copy(update={"experiment": None})
            if service is not None and _assigns(service, experiment):
                service = None
        require_no_experiment(record, service)
        rollout = record.rollout
        if rollout is not None and rollout.phase not in ENDED:
            raise UsageError(
                f"{self.name}: the rollout of version {rollout.version} is not finished, it is in phase "
                f"{rollout.phase!r}. Run `gauntlet deploy {self.name} --version {rollout.version}` to finish "
                "it first. Nothing was changed."
            )

    def _versions(self, variants: Mapping[str, str], record: DeploymentRecord) -> list[ModelVersion]:
        known = self.registry.versions(self.name)
        found = []
        for variant, wanted in variants.items():
            one = self.registry.by_alias(self.name, wanted) if wanted in ALIASES else None
            if wanted in ALIASES and one is None:
                raise UsageError(
                    f"--variant {variant}: no version of {self.name} has the alias {wanted}. See "
                    "`gauntlet registry`."
                )
            found.append(one or with_number(self.name, known, wanted))
        first, second = found
        if first.tags[BUNDLE_TAG] == second.tags[BUNDLE_TAG]:
            numbers = " and ".join(dict.fromkeys((first.version, second.version)))
            raise UsageError(
                f"--variant: found version {numbers}, which is one bundle, expected two versions that differ."
            )
        for one in found:
            if before := record.rejected.get(one.tags[BUNDLE_TAG]):
                raise RejectedError(
                    f"{self.name} {one.version}: this bundle was rolled back at {before.at[:16]} UTC by "
                    f"{before.by}: {before.why}. An A/B test does not try it again; `gauntlet deploy "
                    f"{self.name} --version {one.version} --again` does."
                )
        return found

    def _proved(self, deployment: Deployment, version: ModelVersion) -> str:
        """The id of a version's revision, once it is ready and has answered its golden rows as proved."""
        release = release_of(version)
        revision = when_ready(deployment, release, self.clock, DeploymentSection().ready_seconds)
        with bundle_folder(version) as folder:
            golden = read_golden(folder, release.bundle_sha256)
        for row, body in enumerate(golden.bodies):
            answer = deployment.ask(revision.id, body)
            if fault := fault_of(golden, row, answer, release.bundle_sha256):
                raise GauntletError(f"{self.name} {version.version}: {fault}. The traffic was not moved.")
        return revision.id

    # --- the record ---

    def _read(self) -> tuple[DeploymentRecord, str]:
        record, generation = self.records.read()
        return record or DeploymentRecord(model=self.name), generation

    def _known(self, record: DeploymentRecord) -> Experiment:
        if record.experiment is None:
            raise UsageError(f"{self.name}: has had no A/B test. `gauntlet ab start` starts one.")
        return record.experiment

    def _update(self, experiment: Experiment, changes: Mapping[str, Any], line: str | None = None) -> None:
        """Change the test in the record, whatever else is written there at the same time."""
        for attempt in range(ATTEMPTS):
            record, generation = self._read()
            if record.experiment is None or record.experiment.id != experiment.id:
                raise UsageError(f"{self.name}: another A/B test has begun in the meantime. Look again.")
            update: dict[str, Any] = {"experiment": record.experiment.model_copy(update=changes)}
            if line is not None:
                update["history"] = (*record.history, line)
            try:
                self.records.write(record.model_copy(update=update), generation)
                return
            except ConflictError:
                if attempt == ATTEMPTS - 1:
                    raise

    def _deployment(self, record: DeploymentRecord) -> Deployment:
        settings = settings_of(record) or DeploymentSection(target=TARGET)
        if settings.target not in (TARGET, "none"):
            raise UsageError(
                f"{self.name}: found the target {settings.target}, expected {TARGET}, where A/B tests run."
            )
        return open_deployment(TARGET, self.name, self.registry_uri, _dumped(settings))

    def _assignments(self, experiment: Experiment) -> Path:
        return LocalGateway(home_folder(self.registry_uri)).assignments(experiment.id)


def _dumped(settings: DeploymentSection) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude_none=True)


def _with_kept(found: Analysis, kept: Analysis | None) -> Analysis:
    """An analysis without outcomes, with what an earlier one said of outcomes."""
    if kept is None or found.decision == "mismatch":
        return found
    arms = tuple(
        new.model_copy(update={"observed": old.observed, "mean": old.mean})
        for new, old in zip(found.arms, kept.arms, strict=True)
    )
    return kept.model_copy(update={"arms": arms, "without_key": found.without_key})


def _assigns(service: Service | None, experiment: Experiment) -> bool:
    return service is not None and service.assignment is not None and service.assignment.test == experiment.id


def warning_of(experiment: Experiment) -> str:
    """What the plan of a test may not be able to show, in words; empty if there is nothing to say."""
    half = widest(experiment)
    if half is None or half <= experiment.minimal_effect:
        return ""
    return (
        f"with {experiment.maximum_n:,} units the interval may be ±{half:.3g} wide, so a difference of "
        f"{experiment.minimal_effect:g} may stay open. Raise --maximum-n or --minimal-effect"
    )


def require_plan(kind: str, low: float | None, high: float | None, effect: float, alpha: float) -> None:
    """Raise a `UsageError` for bounds that do not fit the metric, or an effect that no values can have."""
    if (kind == "bounded") != (low is not None):
        found = "none" if low is None else f"{low:g} {high:g}"
        raise UsageError(f"--bounds: found {found} with --type {kind}, expected LOW HIGH with bounded only.")
    width = 1.0 if kind == "binary" else math.inf
    if low is not None and high is not None:
        width = high - low
        if not 0 < width < math.inf:
            raise UsageError(f"--bounds: found {low:g} {high:g}, expected two numbers, the lower one first.")
    if not 0 < effect < width:
        raise UsageError(f"--minimal-effect: found {effect:g}, expected a number over 0 and under {width:g}.")
    if math.isnan(alpha):
        raise UsageError(f"--alpha: found {alpha:g}, expected a probability.")
