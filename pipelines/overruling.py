"""A person promotes a model that the gate rejected: who, why and over which rules is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gauntlet.backends.registry import (
    APPROVED_AT_TAG,
    APPROVED_BY_TAG,
    BUNDLE_TAG,
    OVERRULED_TAG,
    REASON_TAG,
    Approval,
    Move,
    Registry,
    went_through_stages,
)
from gauntlet.components.register_model.run import quality_of, scores_of, version_tags
from gauntlet.components.step import read_json, write_json
from gauntlet.components.write_report.collect import DONE_FILE, collect
from gauntlet.components.write_report.outcome import outcome
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.pipelines.home import ARGUMENTS_FILE, Home, RunRecord
from gauntlet.pipelines.local_run import job_folder, task_of, write_page
from gauntlet.serving.bundle import BundleError, read_info
from gauntlet.tasks.therapy.stages import evidence_of


def promote_rejected(home: Home, store: Registry, name: str, run: str, approval: Approval) -> Move:
    """Register the bundle of a run that the gate rejected, make it champion, and say so on the run's page.

    If it is interrupted, calling it again finishes it.

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
        if evidence_of(read_json(verdict), read_json(scores)) or went_through_stages(store.champion(name)):
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
        tags = version_tags(info, quality_of(info.task, str(scores)), manifest_sha256, record.run_id)
        overruled = {OVERRULED_TAG: ", ".join(failed)}
        version = store.register(name, bundle, {**tags, **overruled}, scores=scores_of(str(scores)))
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
    content = read_json(verdict)
    if content["decision"] != "reject":
        raise UsageError(
            f"run {record.run_id}: its model passed the gate. `gauntlet promote {name} --version VERSION` "
            "promotes a version that is registered."
        )
    return [rule["rule"] for rule in content["rules"] if rule["verdict"] == "fail"]


def _bundle(steps: Path) -> Path:
    """The run's bundle; for a managed model it is an output of train-model."""
    converted = steps / "convert-to-onnx" / "bundle"
    return converted if converted.is_dir() else steps / "train-model" / "bundle"


def _write_page(home: Home, record: RunRecord, steps: Path, move: Move, failed: list[str]) -> None:
    """Write the outputs of register-model, and update the run's page and record."""
    champion = move.champion
    folder = steps / "register-model"
    content = {
        "name": champion.name,
        "version": champion.version,
        "uri": champion.bundle_uri,
        "registered": True,
        "aliases": list(champion.aliases),
        "bundle_sha256": champion.tags[BUNDLE_TAG],
        "overruled": failed,
        "approved_by": champion.tags[APPROVED_BY_TAG],
        "approved_at": champion.tags[APPROVED_AT_TAG],
        "reason": champion.tags[REASON_TAG],
    }
    write_json(folder / "version", content)
    write_json(folder / DONE_FILE, {})
    collected = collect(str(steps.parent), steps.name, task_of(home.run_folder(record.run_id)))
    write_page(home.run_folder(record.run_id), record, collected)
    ended = outcome(collected)
    home.save(replace(record, exit_code=ended.exit_code, outcome=ended.headline))
