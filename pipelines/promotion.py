"""`gauntlet promote` for models with promotion stages: what a version proved is judged once more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gauntlet.backends.registry import (
    CHALLENGER,
    STAGING,
    Approval,
    ModelVersion,
    Registry,
    bundle_folder,
    went_through_stages,
)
from gauntlet.components.gate_model.table import print_table
from gauntlet.contracts.verdict import StageName
from gauntlet.manifests.errors import RejectedError, UsageError
from gauntlet.manifests.kinds import TaskKind, task_kind
from gauntlet.pipelines.terminal import console
from gauntlet.serving.bundle import BundleError, read_info

LONGEST_REASON = 500


def promote_version(
    store: Registry,
    name: str,
    version: str | None,
    to: StageName | None,
    approver: str | None,
    reason: str | None = None,
) -> str:
    """Make a version `staging` or the champion, and say what came of it.

    By default the challenger goes to staging, and what is in staging goes to production. A model without
    stages has no evidence to judge, and `to` must be left out.

    Raises:
        UsageError: The version, the stage or the approver is missing, or does not go with the model.
        RejectedError: The recorded evidence does not meet the stage.
    """
    target = _target(store, name, version, to)
    approval = approval_of(approver, reason)
    evidence = None if target is None else store.evidence(target)
    if target is None or evidence is None:
        if to is not None:
            raise UsageError(
                f"{name}: no evidence of promotion stages is recorded. Leave --to out, or give the manifest "
                "`gates.stages` and run its pipeline again."
            )
        if went_through_stages(store.champion(name)):
            raise UsageError(
                f"{name}: the champion went through promotion stages, and this version has no evidence of "
                "any. Give the manifest `gates.stages` and run its pipeline again."
            )
        return str(store.promote(name, version, approval=approval))
    if to is None:
        raise UsageError(
            f"{name} {target.version}: has promotion stages. Add --to staging or --to production."
        )
    if (to == "production") != bool(approver and approver.strip()):
        raise UsageError(
            f"--approver: found {approver or 'nothing'!r}, expected "
            + ("the name of who approves this." if to == "production" else "nothing for staging.")
        )
    decision = _kind_of(target, evidence).function("gates", "recheck")(evidence, to)
    print_table(decision, console)
    if decision.decision != "promote":
        raise RejectedError(
            f"{name} {target.version} is not fit for {to}: "
            + "; ".join(decision.reasons)
            + ". Nothing was moved."
        )
    if to == "staging":
        staged = store.stage(name, target.version)
        return f"{name} {staged.version} is staging"
    return str(store.promote(name, target.version, compared_with=evidence["champion"], approval=approval))


def _kind_of(version: ModelVersion, evidence: Mapping[str, Any]) -> TaskKind:
    """The task kind of a version. Evidence of older versions does not name it, but the bundle does."""
    if "task" in evidence:
        return task_kind(evidence["task"])
    try:
        with bundle_folder(version) as folder:
            return task_kind(read_info(folder).task)
    except BundleError as error:
        raise UsageError(f"{version.name} {version.version}: {error}. Register the model again.") from None


def approval_of(approver: str | None, reason: str | None) -> Approval | None:
    """Who approves a promotion, and why; None if nobody is named.

    Raises:
        UsageError: There is a reason without a name, or one of the two cannot be recorded.
    """
    for option, text in (("--approver", approver), ("--reason", reason)):
        if text is not None and not text.isprintable():
            raise UsageError(f"{option}: found {text!r}, expected a line without control characters.")
    if reason is not None and len(reason) > LONGEST_REASON:
        raise UsageError(
            f"--reason: found {len(reason)} characters, expected at most {LONGEST_REASON}. Shorten it."
        )
    if approver is None or not approver.strip():
        if reason is not None:
            raise UsageError("--reason: found no name. Add --by NAME.")
        return None
    return Approval(approver.strip(), (reason or "").strip())


def _target(store: Registry, name: str, version: str | None, to: StageName | None) -> ModelVersion | None:
    """The version that is meant. None without stage and challenger, which is for the registry to refuse."""
    if version is not None:
        versions = {known.version: known for known in store.versions(name)}
        if version not in versions:
            raise UsageError(f"{name}: has no version {version!r}, only {', '.join(versions)}.")
        return versions[version]
    found = store.by_alias(name, STAGING if to == "production" else CHALLENGER)
    if found is None and to is not None:
        missing = "version in staging" if to == "production" else "challenger"
        raise UsageError(
            f"{name}: has no {missing}. Run its pipeline with `gates.stages` in the manifest, or add "
            "--version."
        )
    return found
