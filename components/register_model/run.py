"""register-model: reads what the run proved, registers the bundle, writes the version."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gauntlet.backends.factory import open_registry
from gauntlet.backends.registry import (
    BUNDLE_TAG,
    CHALLENGER,
    RUN_TAG,
    AnswerScores,
    Scores,
    went_through_stages,
)
from gauntlet.components.step import manifest_commit
from gauntlet.contracts.document import read_json
from gauntlet.contracts.verdict import PROMOTE, Version
from gauntlet.manifests.errors import GauntletError
from gauntlet.manifests.kinds import TaskKind, task_kind
from gauntlet.manifests.schema import Registration
from gauntlet.serving.bundle import BundleError, BundleInfo, read_info

LINEAGE = ("data_sha256", "git_commit", "image", "origin_sha256")
"""The keys of the bundle's lineage that become tags of the version."""


def run(
    section: Mapping[str, Any],
    name: str,
    registry_uri: str,
    manifest_sha256: str,
    run_id: str,
    bundle_path: str,
    scores_path: str,
    verdict_path: str,
    version_path: str,
) -> None:
    """Register the bundle, promote it unless `section` says manual, and write the version's JSON.

    A model with promotion stages is promoted to staging; a person approves production. A champion that went
    through stages is not replaced by a model without. A bundle that is or was champion is neither registered
    nor promoted again (`registered` is false). The step is idempotent.

    Raises:
        GauntletError: The verdict is not to promote, one of the inputs is incomplete, or another run has
            promoted a model since this one was compared with the champion: it stays the challenger then.
    """
    registration = Registration.model_validate(section)
    _require_promotion(verdict_path)
    try:
        info = read_info(Path(bundle_path))
    except BundleError as error:
        raise GauntletError(f"{error}. Run convert-to-onnx again.") from None
    kind, scores = task_kind(info.task), read_json(scores_path)
    tags = version_tags(info, quality_of(kind, scores, scores_path), manifest_sha256, run_id)

    registry = open_registry(registry_uri)
    evidence = _evidence(kind, read_json(verdict_path), scores)
    champion = registry.champion(name)
    version = registry.register(name, Path(bundle_path), tags, evidence, registry_scores(kind, scores))
    # A version without the alias is or was champion: this run has registered it before, or its bundle comes
    # from the cache. What has happened to the champion since then, such as a rollback, must not be undone.
    is_new = version.tags.get(RUN_TAG) == run_id
    if not is_new:
        print(
            f"{name} {version.version} has this very bundle: nothing was registered or promoted", flush=True
        )
    elif registration.promotion == "automatic" and CHALLENGER in version.aliases and evidence is not None:
        version = registry.stage(name, version.version)
        print(f"{name} {version.version} is staging", flush=True)
    elif evidence is None and went_through_stages(champion):
        print(
            f"warning: {name} {version.version} stays challenger: the champion went through promotion "
            "stages, and this manifest has no gates.stages",
            flush=True,
        )
    elif registration.promotion == "automatic" and CHALLENGER in version.aliases:
        other = scores.get("champion")  # None if there was none when the model was evaluated
        move = registry.promote(name, version.version, compared_with=other and str(other["version"]))
        print(move, flush=True)
        version = move.champion
    Version(
        name=version.name,
        version=version.version,
        uri=version.bundle_uri,
        registered=is_new,
        aliases=version.aliases,
        bundle_sha256=version.tags[BUNDLE_TAG],
    ).write(version_path)


def version_tags(
    info: BundleInfo, quality: Mapping[str, float], manifest_sha256: str, run_id: str
) -> dict[str, str]:
    """What made this version, its quality on the test split and its speed-ups, as texts for tags."""
    lineage = {key: info.lineage[key] for key in LINEAGE if key in info.lineage}
    speedups = {f"speedup_batch_{size}": f"{ratio:.3f}" for size, ratio in info.speedup.items()}
    return {
        **lineage,
        **manifest_commit(),
        **speedups,
        "manifest_sha256": manifest_sha256,
        RUN_TAG: run_id,
        **{name: f"{value:.6f}" for name, value in quality.items()},
    }


def _require_promotion(verdict_path: str) -> None:
    decision = read_json(verdict_path).get("decision")
    if decision != PROMOTE:
        raise GauntletError(
            f"{verdict_path}: decision: found {decision!r}, expected {PROMOTE!r}. Nothing was registered: "
            "the gate has to pass a model first."
        )


def _evidence(kind: TaskKind, verdict: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, Any] | None:
    if not verdict.get("stages"):
        return None
    return {"task": kind.name, **kind.function("gates", "evidence_of")(verdict, scores)}


def registry_scores(kind: TaskKind, scores: Mapping[str, Any]) -> Scores | AnswerScores | None:
    """The scores that a registry may show with the version."""
    shown: Scores | AnswerScores | None = kind.function("evaluation", "registry_scores")(scores)
    return shown


def quality_of(kind: TaskKind, scores: Mapping[str, Any], path: str | Path) -> dict[str, float]:
    """The kind's metrics that a version has as tags; a `GauntletError` if one of them is no number."""
    challenger = scores.get("challenger", {})
    found = {}
    for metric in kind.metrics:
        if not metric.registered:
            continue
        value = challenger.get(metric.name)
        value = value.get("value") if isinstance(value, Mapping) else value
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise GauntletError(
                f"{path}: challenger.{metric.name}: found {value!r}, expected a number. Nothing was "
                "registered: run evaluate-model again."
            )
        found[metric.name] = float(value)
    return found
