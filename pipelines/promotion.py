"""Promotion by hand: of a version that met its stage, and of a model that the gate rejected.

For a model with promotion stages, the evidence that a version recorded is judged once more. Who promotes a
rejected model, why, and over which failed rules is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gauntlet.backends.factory import bundle_folder
from gauntlet.backends.registry import (
    APPROVED_AT_TAG,
    APPROVED_BY_TAG,
    BUNDLE_TAG,
    CHALLENGER,
    OVERRULED_TAG,
    REASON_TAG,
    STAGING,
    Approval,
    ModelVersion,
    Move,
    Registry,
    went_through_stages,
    with_number,
)
from gauntlet.components.gate_model.run import print_table
from gauntlet.components.register_model.run import quality_of, registry_scores, version_tags
from gauntlet.components.write_report.collect import DONE_FILE, collect
from gauntlet.components.write_report.record import outcome
from gauntlet.contracts.document import read_json, write_json
from gauntlet.contracts.verdict import StageName, Verdict, Version
from gauntlet.manifests.errors import GauntletError, RejectedError, UsageError
from gauntlet.manifests.kinds import TaskKind, task_kind
from gauntlet.pipelines.home import ARGUMENTS_FILE, Home, RunRecord
from gauntlet.pipelines.local.run import job_folder, task_of, write_page
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
    """Make a version `staging` or the champion, and return what was done.

    By default the challenger goes to staging, and the version in staging goes to production. For a model
    without stages, `to` must be None.

    Raises:
        UsageError: The version, the stage or the approver is missing, or does not fit the model.
        RejectedError: The recorded evidence does not meet the stage.
    """
    target = _target(store, name, version, to)
    approval = approval_of(approver, reason)
    evidence = store.evidence(target) if target else None
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
        reasons = "; ".join(decision.reasons)
        raise RejectedError(f"{name} {target.version} is not fit for {to}: {reasons}. Nothing was moved.")
    if to == "staging":
        return f"{name} {store.stage(name, target.version).version} is staging"
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
    """Who approves a promotion, and why; None without a name.

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
    """The version to promote. None if there is no challenger and no stage: the registry refuses that."""
    if version is not None:
        return with_number(name, store.versions(name), version)
    found = store.by_alias(name, STAGING if to == "production" else CHALLENGER)
    if found is None and to is not None:
        missing = "version in staging" if to == "production" else "challenger"
        raise UsageError(
            f"{name}: has no {missing}. Run its pipeline with `gates.stages` in the manifest, or add "
            "--version."
        )
    return found


def promote_rejected(home: Home, store: Registry, name: str, run: str, approval: Approval) -> Move:
    """Register the bundle of a run that the gate rejected, make it champion, and update the run's page.

    The operation is idempotent: after an interruption, call it again.

    Raises:
        UsageError: The run is not of this model, has no rejected model, or the model has promotion stages.
        GauntletError: The bundle was altered, or the registry refuses.
    """
    record = home.find_run(run)
    with home.working_on(record):
        folder = home.run_folder(record.run_id)
        steps = job_folder(folder)
        failed = _rejecting_rules(record, name, steps)
        scores, verdict = steps / "evaluate-model" / "scores", steps / "gate-model" / "verdict"
        if Verdict.read(verdict).stages or went_through_stages(store.champion(name)):
            raise UsageError(
                f"{name}: has promotion stages, which a model must pass. Change `gates.stages`, then run "
                f"`gauntlet gate {record.run_id}`."
            )
        bundle = _bundle(steps)
        manifest_sha256 = read_json(folder / ARGUMENTS_FILE)["manifest_sha256"]
        try:
            info = read_info(bundle)
        except BundleError as error:
            raise GauntletError(f"{error}. Run the pipeline again.") from None
        kind, found = task_kind(info.task), read_json(scores)
        tags = version_tags(info, quality_of(kind, found, scores), manifest_sha256, record.run_id)
        overruled = {OVERRULED_TAG: ", ".join(failed)}
        version = store.register(name, bundle, {**tags, **overruled}, scores=registry_scores(kind, found))
        move = store.promote(name, version.version, approval=approval)
        recorded = move.champion.tags
        if (recorded.get(APPROVED_BY_TAG), recorded.get(REASON_TAG)) == (approval.by, approval.reason):
            _write_page(home, record, steps, move, failed)  # else it was champion already
    return move


def _rejecting_rules(record: RunRecord, name: str, steps: Path) -> list[str]:
    """The rules that the run's model failed."""
    if record.name != name:
        raise UsageError(f"run {record.run_id}: it is a run of {record.name}, not of {name}.")
    verdict = steps / "gate-model" / "verdict"
    if not verdict.is_file():
        raise UsageError(
            f"run {record.run_id}: found no verdict of its gate on this machine, expected a run that was "
            f"rejected. It is {record.shown_state()}."
        )
    content = Verdict.read(verdict)
    if content.decision != "reject":
        raise UsageError(
            f"run {record.run_id}: its model passed the gate. `gauntlet promote {name} --version VERSION` "
            "promotes a version that is registered."
        )
    return list(content.failed)


def _bundle(steps: Path) -> Path:
    """The run's bundle. A model that a service trains is not converted: train-model writes its bundle."""
    converted = steps / "convert-to-onnx" / "bundle"
    return converted if converted.is_dir() else steps / "train-model" / "bundle"


def _write_page(home: Home, record: RunRecord, steps: Path, move: Move, failed: list[str]) -> None:
    champion = move.champion
    folder = steps / "register-model"
    Version(
        name=champion.name,
        version=champion.version,
        uri=champion.bundle_uri,
        registered=True,
        aliases=champion.aliases,
        bundle_sha256=champion.tags[BUNDLE_TAG],
        overruled=tuple(failed),
        approved_by=champion.tags[APPROVED_BY_TAG],
        approved_at=champion.tags[APPROVED_AT_TAG],
        reason=champion.tags[REASON_TAG],
    ).write(folder / "version")
    write_json(folder / DONE_FILE, {})
    collected = collect(str(steps.parent), steps.name, task_of(home.run_folder(record.run_id)))
    write_page(home.run_folder(record.run_id), record, collected)
    ended = outcome(collected)
    home.save(replace(record, exit_code=ended.exit_code, outcome=ended.headline))
