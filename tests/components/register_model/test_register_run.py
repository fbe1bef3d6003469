from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from gauntlet.backends.factory import open_registry
from gauntlet.backends.registry import Approval, Registry
from gauntlet.components.register_model.component import register_model
from gauntlet.components.register_model.run import run
from gauntlet.manifests.errors import GauntletError
from gauntlet.serving.bundle import BundleInfo, file_sha256, read_info, write_bundle
from gauntlet.tasks.therapy.stages import recheck
from tests.components.gate_model.therapy_scores import THERAPY, stages_of_the_verdict

MODEL = "emotion"
MANIFEST_SHA256 = "a" * 64
LINEAGE = {"manifest_sha256": "b" * 64, "data_sha256": "c" * 64, "git_commit": "d" * 40, "image": ""}


class Step:
    """The inputs that register-model is given in one run, and where it writes."""

    def __init__(self, folder: Path, run_id: str, decision: str = "promote", macro_f1: float = 0.875) -> None:
        folder.mkdir(parents=True)
        self.run_id = run_id
        self.registry_uri = f"sqlite:///{folder.parent / 'gauntlet.db'}"
        self.bundle = folder / "bundle"
        self.version = folder / "version"
        self.scores = folder / "scores"
        self.verdict = folder / "verdict"
        weights = folder / "weights"
        weights.write_text(run_id)
        info = BundleInfo(
            name=MODEL,
            task="text_classification",
            labels=("sadness", "joy"),
            inputs=(),
            outputs=(),
            max_length=128,
            opset=17,
            candidate="int8",
            precision="int8",
            quality={"macro_f1": 0.9},
            latency_ms={"1": 2.0, "32": 40.0},
            speedup={"1": 5.21849, "32": 2.2},
            lineage=LINEAGE,
        )
        write_bundle(self.bundle, info, {"model.onnx": weights, "tokenizer.json": weights})
        champion = self.registry.champion(MODEL)
        compared = {} if champion is None else {"champion": {"version": champion.version}}
        self.scores.write_text(json.dumps({"rows": 8, "challenger": {"macro_f1": macro_f1}} | compared))
        self.verdict.write_text(json.dumps({"decision": decision, "reasons": [], "rules": []}))

    def with_stages(self) -> Step:
        """The same of a model with promotion stages."""
        info = replace(read_info(self.bundle), task="causal_lm", files={})
        weights = self.bundle.parent / "weights"
        shutil.rmtree(self.bundle)
        write_bundle(self.bundle, info, {"model.onnx": weights, "tokenizer.json": weights})
        challenger = {"perplexity": {"value": 20.0}, "rouge_l": {"value": 0.2}}
        scores = json.loads(self.scores.read_text()) | {"therapy": THERAPY, "challenger": challenger}
        verdict = json.loads(self.verdict.read_text()) | {"stages": stages_of_the_verdict()}
        self.scores.write_text(json.dumps(scores))
        self.verdict.write_text(json.dumps(verdict))
        return self

    def run(self, promotion: str = "automatic") -> None:
        run(
            section={"promotion": promotion},
            name=MODEL,
            registry_uri=self.registry_uri,
            manifest_sha256=MANIFEST_SHA256,
            run_id=self.run_id,
            bundle_path=str(self.bundle),
            scores_path=str(self.scores),
            verdict_path=str(self.verdict),
            version_path=str(self.version),
        )

    @property
    def registry(self) -> Registry:
        return open_registry(self.registry_uri)

    @property
    def output(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.version.read_text())
        return content


def test_a_model_that_passed_the_gate_is_registered_with_its_lineage_and_promoted(tmp_path: Path) -> None:
    step = Step(tmp_path / "run", "run-1")

    step.run()

    champion = step.registry.champion(MODEL)
    assert champion is not None
    promoted_at = champion.tags["promoted_at"]
    assert champion.tags == {
        "manifest_sha256": MANIFEST_SHA256,
        "data_sha256": "c" * 64,
        "git_commit": "d" * 40,
        "image": "",
        "run_id": "run-1",
        "macro_f1": "0.875000",
        "speedup_batch_1": "5.218",
        "speedup_batch_32": "2.200",
        "bundle_sha256": file_sha256(step.bundle / "bundle.json"),
        "promoted_at": promoted_at,
        "champion_turns": f"{promoted_at} promote",
    }
    assert step.output == {
        "name": MODEL,
        "version": "1",
        "registered": True,
        "uri": champion.bundle_uri,
        "aliases": ["champion"],
        "bundle_sha256": champion.tags["bundle_sha256"],
    }
    assert read_info(Path(step.output["uri"])).precision == "int8"


def test_a_model_that_was_compared_with_an_older_champion_is_not_promoted_over_a_newer_one(
    tmp_path: Path,
) -> None:
    first, second = (Step(tmp_path / run_id, run_id) for run_id in ("run-1", "run-2"))
    first.run()

    with pytest.raises(GauntletError, match=r"compared with champion \(none\), but the champion is 1 by now"):
        second.run()

    newest, champion = first.registry.versions(MODEL)
    assert (newest.aliases, champion.aliases) == (("challenger",), ("champion",))
    assert not second.version.exists()


def test_manual_promotion_stops_at_the_challenger(tmp_path: Path) -> None:
    first = Step(tmp_path / "run-1", "run-1")
    first.run()
    second = Step(tmp_path / "run-2", "run-2")

    second.run(promotion="manual")

    assert second.output["aliases"] == ["challenger"]
    champion = second.registry.champion(MODEL)
    assert champion is not None
    assert champion.version == "1"


@pytest.mark.parametrize("verdict", [{"decision": "reject"}, {"decision": "Promote"}, {}])
def test_a_model_without_a_verdict_to_promote_is_not_registered(
    tmp_path: Path, verdict: dict[str, str]
) -> None:
    step = Step(tmp_path / "run", "run-1")
    step.verdict.write_text(json.dumps(verdict))

    with pytest.raises(GauntletError, match=r"verdict: decision: found .*, expected 'promote'"):
        step.run()

    assert step.registry.names() == []
    assert not step.version.exists()


@pytest.mark.parametrize("scores", ["{}", '{"challenger": {}}', '{"challenger": {"macro_f1": NaN}}'])
def test_a_model_without_a_score_is_not_registered(tmp_path: Path, scores: str) -> None:
    step = Step(tmp_path / "run", "run-1")
    step.scores.write_text(scores)

    with pytest.raises(GauntletError, match=r"scores: challenger\.macro_f1: found (None|nan)"):
        step.run()

    assert step.registry.names() == []


def test_an_altered_bundle_is_not_registered(tmp_path: Path) -> None:
    step = Step(tmp_path / "run", "run-1")
    (step.bundle / "model.onnx").write_text("other")

    with pytest.raises(GauntletError, match=r"model\.onnx: sha256 is .*Run convert-to-onnx again"):
        step.run()

    assert step.registry.names() == []


def test_a_run_killed_between_the_copy_and_the_registry_is_completed_by_running_it_again(
    tmp_path: Path,
) -> None:
    Step(tmp_path / "run-0", "run-0").run()
    step = Step(tmp_path / "run-1", "run-1")
    copied = tmp_path / "models" / MODEL / file_sha256(step.bundle / "bundle.json")
    shutil.copytree(step.bundle, copied)  # as far as the killed run came
    champion = step.registry.champion(MODEL)
    assert champion is not None
    assert champion.tags["run_id"] == "run-0"

    step.run()

    assert (step.output["uri"], step.output["aliases"]) == (str(copied), ["champion"])
    assert [version.version for version in step.registry.versions(MODEL)] == ["2", "1"]


def test_running_a_finished_step_again_changes_nothing(tmp_path: Path) -> None:
    step = Step(tmp_path / "run", "run-1")
    step.run()
    before = (step.output, step.registry.versions(MODEL))
    step.version.unlink()

    step.run()

    assert (step.output, step.registry.versions(MODEL)) == before


def test_running_a_step_again_does_not_undo_a_rollback(tmp_path: Path) -> None:
    Step(tmp_path / "run-1", "run-1").run()
    second = Step(tmp_path / "run-2", "run-2")
    second.run()
    second.registry.rollback(MODEL)

    second.run()

    champion = second.registry.champion(MODEL)
    assert champion is not None
    assert champion.version == "1"
    assert second.output["aliases"] == ["previous"]


def cached(tmp_path: Path, of: Step, run_id: str) -> Step:
    """A later run whose bundle came from the cache: that of `of`."""
    step = Step(tmp_path / run_id, run_id)
    step.bundle = of.bundle
    return step


def test_a_run_whose_bundle_is_the_champions_own_registers_and_promotes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Step(tmp_path / "january", "january").run()
    june = Step(tmp_path / "june", "june")
    june.run()
    later = cached(tmp_path, june, "a-sunday-in-june")

    later.run()

    assert (later.output["registered"], later.output["aliases"]) == (False, ["champion"])
    assert [version.version for version in later.registry.versions(MODEL)] == ["2", "1"]
    assert "emotion 2 has this very bundle: nothing was registered or promoted" in capsys.readouterr().out
    assert later.registry.rollback(MODEL).champion.tags["run_id"] == "january"


def test_a_run_whose_bundle_was_rolled_back_does_not_undo_the_rollback(tmp_path: Path) -> None:
    Step(tmp_path / "january", "january").run()
    june = Step(tmp_path / "june", "june")
    june.run()
    june.registry.rollback(MODEL)
    later = cached(tmp_path, june, "a-sunday-in-june")

    later.run()

    assert (later.output["registered"], later.output["aliases"]) == (False, ["previous"])
    champion = later.registry.champion(MODEL)
    assert champion is not None and champion.tags["run_id"] == "january"


def test_the_component_passes_each_artifact_to_its_place(tmp_path: Path) -> None:
    step = Step(tmp_path / "run", "run-1")

    register_model.python_func(
        registration={"promotion": "automatic"},
        name=MODEL,
        registry_uri=step.registry_uri,
        manifest_sha256=MANIFEST_SHA256,
        run_id=step.run_id,
        bundle=dsl.Model(uri=str(step.bundle)),
        scores=dsl.Artifact(uri=str(step.scores)),
        verdict=dsl.Artifact(uri=str(step.verdict)),
        version=dsl.Artifact(uri=str(step.version)),
    )

    assert step.output["aliases"] == ["champion"]


def test_a_refused_model_ends_the_component_with_its_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Step(tmp_path / "run", "run-1", decision="reject")

    with pytest.raises(SystemExit) as ended:
        register_model.python_func(
            registration={},
            name=MODEL,
            registry_uri=step.registry_uri,
            manifest_sha256=MANIFEST_SHA256,
            run_id=step.run_id,
            bundle=dsl.Model(uri=str(step.bundle)),
            scores=dsl.Artifact(uri=str(step.scores)),
            verdict=dsl.Artifact(uri=str(step.verdict)),
            version=dsl.Artifact(uri=str(step.version)),
        )

    assert ended.value.code == 1
    assert json.loads((tmp_path / "run" / "error.json").read_text())["exit_code"] == 1
    assert "expected 'promote'" in capsys.readouterr().err


def test_a_model_with_stages_goes_to_staging_with_its_evidence_and_never_to_production(
    tmp_path: Path,
) -> None:
    step = Step(tmp_path / "run", "run-1").with_stages()
    step.run()

    [version] = step.registry.versions(MODEL)
    evidence = step.registry.evidence(version)

    assert version.aliases == ("challenger", "staging")
    assert step.output["aliases"] == ["challenger", "staging"]
    assert evidence is not None
    assert evidence["therapy"]["figures"] == THERAPY["figures"]
    assert recheck(evidence, "production").decision == "promote"


def test_a_manual_model_with_stages_waits_with_its_evidence(tmp_path: Path) -> None:
    step = Step(tmp_path / "run", "run-1").with_stages()
    step.run("manual")
    step.run("manual")

    [version] = step.registry.versions(MODEL)
    assert version.aliases == ("challenger",)
    assert step.registry.evidence(version) is not None


def test_a_champion_that_went_through_stages_is_not_replaced_by_a_model_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    approved = Step(tmp_path / "one", "run-1").with_stages()
    approved.run()
    approved.registry.promote(MODEL, "1", approval=Approval("A. Person"))
    bare = Step(tmp_path / "two", "run-2")
    bare.run()

    champion = bare.registry.champion(MODEL)
    assert champion is not None and champion.version == "1"
    assert bare.output["aliases"] == ["challenger"]
    assert "2 stays challenger: the champion went through promotion stages" in capsys.readouterr().out
