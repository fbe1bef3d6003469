"""The edge of register-model: reads what the run proved, registers the bundle, writes the version."""

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
from gauntlet.components.lineage import manifest_commit
from gauntlet.components.step import read_json, write_json
from gauntlet.manifests.errors import GauntletError
from gauntlet.manifests.schema import Registration
from gauntlet.serving.bundle import BundleError, BundleInfo, read_info
from gauntlet.tasks.therapy.stages import evidence_of

PROMOTE = "promote"
LINEAGE = ("data_sha256", "git_commit", "image")
"""What a version's tags take over from the bundle's lineage."""
QUALITY = {"causal_lm": ("perplexity", "rouge_l"), "managed_causal_lm": ("rouge_l",)}
"""The figures of a version by task; a classifier's is macro-F1."""


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

    With promotion stages that is to staging: production is for a person to approve. A champion that went
    through stages is not replaced by a model of a manifest without them.

    A bundle that is champion, or has been, is neither registered nor promoted again: `registered` is false in
    the version's JSON then.

    Every write can be repeated: when this is cut short, running it again ends as if it had not been.

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
    tags = version_tags(info, quality_of(info.task, scores_path), manifest_sha256, run_id)

    registry = open_registry(registry_uri)
    evidence = evidence_of(read_json(verdict_path), read_json(scores_path))
    champion = registry.champion(name)
    version = registry.register(name, Path(bundle_path), tags, evidence, scores_of(scores_path))
    # A version without the alias is champion or has been: this run was here already, or its bundle came from
    # the cache. What has happened to the champion since, a rollback for one, is not to be undone.
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
        move = registry.promote(name, version.version, compared_with=_compared_with(scores_path))
        print(move, flush=True)
        version = move.champion
    write_json(
        version_path,
        {
            "name": version.name,
            "version": version.version,
            "uri": version.bundle_uri,
            "registered": is_new,
            "aliases": list(version.aliases),
            "bundle_sha256": version.tags[BUNDLE_TAG],
        },
    )


def version_tags(
    info: BundleInfo, quality: Mapping[str, float], manifest_sha256: str, run_id: str
) -> dict[str, str]:
    """What made this version and how good it is, as the registry's tags, which are text.

    `quality` is the test split's; `speedup_batch_N` is over PyTorch, at that batch size.
    """
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


def _compared_with(scores_path: str) -> str | None:
    """The version of the champion that evaluate-model scored on the same rows, None for none."""
    champion = read_json(scores_path).get("champion")
    return None if champion is None else str(champion["version"])


def scores_of(scores_path: str) -> Scores | AnswerScores | None:
    """The figures that a registry may show: of a classifier with its confusion matrix, or of answers."""
    scores = read_json(scores_path)
    challenger = scores["challenger"]
    if "bleu" in challenger:
        return AnswerScores(bleu=challenger["bleu"]["value"])
    if "confusion" not in challenger:
        return None
    return Scores(
        labels=tuple(scores["labels"]),
        accuracy=challenger["accuracy"],
        macro_f1=challenger["macro_f1"],
        confusion=tuple(tuple(row) for row in challenger["confusion"]),
    )


def quality_of(task: str, scores_path: str) -> dict[str, float]:
    """The figures of the task by which versions are told apart."""
    challenger = read_json(scores_path).get("challenger", {})
    found = {}
    for name in QUALITY.get(task, ("macro_f1",)):
        value = challenger.get(name)
        value = value.get("value") if isinstance(value, Mapping) else value
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise GauntletError(
                f"{scores_path}: challenger.{name}: found {value!r}, expected a number. Nothing was "
                "registered: run evaluate-model again."
            )
        found[name] = float(value)
    return found
