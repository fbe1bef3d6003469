import json
import os
from pathlib import Path

import pytest
from kfp import dsl, local

import gauntlet
from gauntlet.components.gate_model.component import gate_model
from gauntlet.manifests.schema import as_parameter
from gauntlet.tasks.classification.manifest import Gates
from tests.components.gate_model.bundles import write_certified_bundle

SCORES = {
    "challenger": {
        "lower_bounds": {"macro_f1": 0.85, "accuracy": 0.86},
        "intervals": {"macro_f1": [0.84, 0.93]},
    },
    "training_overlap": {"challenger": 0},
}
CANDIDATES = {
    "chosen": "plain",
    "chosen_speedup": {"1": 5.2},
    "objective_batch_size": 1,
    "candidates": [{"name": "plain", "admitted": True, "size_mb": 22.0}],
}
HISTORY = {
    "cost_usd": 0.02,
    "best_epoch": 1,
    "epochs": [{"epoch": 1, "validation": {"macro_f1": 0.91}}],
}


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def say(word: str) -> str:
    return word


@dsl.pipeline(name="gate")
def branch(gates: dict, scores: str, candidates: str, history: str, bundle: str) -> str:
    decision = gate_model(
        gates=gates,
        task="text_classification",
        scores=dsl.importer(artifact_uri=scores, artifact_class=dsl.Artifact).output,
        candidates=dsl.importer(artifact_uri=candidates, artifact_class=dsl.Artifact).output,
        history=dsl.importer(artifact_uri=history, artifact_class=dsl.Artifact).output,
        bundle=dsl.importer(artifact_uri=bundle, artifact_class=dsl.Model).output,
    ).outputs["Output"]
    with dsl.If(decision == "promote"):
        promoted = say(word="promoted")
    with dsl.Else():
        rejected = say(word="rejected")
    return dsl.OneOf(promoted.output, rejected.output)


@pytest.mark.parametrize(
    ("floor", "decision", "taken"), [(0.5, "promote", "promoted"), (0.99, "reject", "rejected")]
)
def test_a_pipeline_branches_on_the_decision_and_a_rejection_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, floor: float, decision: str, taken: str
) -> None:
    for name, document in {"scores": SCORES, "candidates": CANDIDATES, "history": HISTORY}.items():
        (tmp_path / name).write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(Path(gauntlet.__file__).parents[1]), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "runs"))

    task = branch(
        gates=as_parameter(Gates(min_macro_f1=floor)),
        scores=str(tmp_path / "scores"),
        candidates=str(tmp_path / "candidates"),
        history=str(tmp_path / "history"),
        bundle=str(write_certified_bundle(tmp_path)),
    )

    assert task.output == taken
    (verdict,) = tmp_path.glob("runs/*/gate-model/verdict")
    assert json.loads(verdict.read_text(encoding="utf-8"))["decision"] == decision
