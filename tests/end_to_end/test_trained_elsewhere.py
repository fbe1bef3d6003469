"""A classifier of transformers, trained by torch alone, through the DAG: as a checkpoint, as a graph."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from tests.conftest import class_rows
from tests.end_to_end.conftest import System

pytestmark = pytest.mark.usefixtures("warm_processes")

CLASSES = ("glad", "calm", "angry")
"""In another order than the manifest's."""


@pytest.fixture(scope="module")
def elsewhere(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as save_pretrained writes it, with a graph in the folder `onnx` in it."""
    folder = tmp_path_factory.mktemp("elsewhere") / "moods"
    torch.manual_seed(3)
    config = BertConfig.from_pretrained(tiny_encoder, id2label=dict(enumerate(CLASSES)))
    model = BertForSequenceClassification.from_pretrained(tiny_encoder, config=config)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tiny_encoder / "tokenizer.json"), pad_token="[PAD]"
    )
    rows = class_rows(40, offset=500)
    batch = tokenizer(rows["text"].tolist(), padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    labels = torch.tensor([CLASSES.index(label) for label in rows["label"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(30):
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    graph = folder / "onnx"
    graph.mkdir()
    mask = torch.ones((2, 8), dtype=torch.int64)
    mask[1, 4:] = 0
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        Logits().eval(),
        (torch.ones_like(mask), mask),
        graph / "model.onnx",
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in names} | {"logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    shutil.copyfile(folder / "tokenizer.json", graph / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def system(make_system: Callable[..., System]) -> System:
    return make_system()


def output(system: System, path: str) -> Any:
    return json.loads((system.steps() / path).read_text(encoding="utf-8"))


def judged(system: System) -> dict[str, dict[str, Any]]:
    return {rule["rule"]: rule for rule in output(system, "gate-model/verdict")["rules"]}


def page_of(system: System) -> str:
    run = system.home.find_run("latest").run_id
    return (system.home.run_folder(run) / "report.html").read_text(encoding="utf-8")


def test_a_checkpoint_from_elsewhere_is_promoted_and_answers(system: System, elsewhere: Path) -> None:
    done = system.gauntlet("run", str(system.manifest), "--from-checkpoint", str(elsewhere))
    assert done.returncode == 0, done.stdout + done.stderr
    rules = judged(system)
    assert rules["parity"]["verdict"] == rules["speedup"]["verdict"] == "pass"
    assert rules["metric_drop"]["verdict"] == rules["validation_gap"]["verdict"] == "pass"
    assert rules["cost"]["verdict"] == "not applicable"
    assert rules["training_overlap"]["verdict"] == "not applicable"
    assert "not known which test rows it was trained on" in rules["training_overlap"]["note"]
    assert output(system, "evaluate-model/scores")["challenger"]["macro_f1"] > 0.9
    bundle = output(system, "convert-to-onnx/bundle/bundle.json")
    assert bundle["lineage"]["origin"] == str(elsewhere)
    assert bundle["candidate"] in ("plain", "fused")
    assert f"trained elsewhere, taken from <code>{elsewhere}</code>" in page_of(system)
    predicted = system.gauntlet("predict", "smile sunny cheer", "slam shout rage")
    assert predicted.returncode == 0, predicted.stderr
    assert [line.split()[3] for line in predicted.stdout.splitlines()[1:3]] == ["glad", "angry"]


def test_a_graph_from_elsewhere_is_judged_beside_the_champion(system: System, elsewhere: Path) -> None:
    graph = elsewhere / "onnx" / "model.onnx"
    labels = ("--labels", ",".join(CLASSES))
    done = system.gauntlet("run", str(system.manifest), "--from-onnx", str(graph), *labels)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = judged(system)
    for name in ("parity", "speedup", "metric_drop"):
        assert rules[name]["verdict"] == "not applicable"
        assert rules[name]["note"].startswith("Not proved: the graph was made elsewhere")
    assert {rules[name]["verdict"] for name in ("bundle", "certificate", "neighbours")} == {"pass"}
    assert rules["non_inferiority"]["verdict"] == "pass"
    assert output(system, "convert-to-onnx/bundle/parity.json")["candidate"] == "imported"
    assert f"an ONNX graph that was trained elsewhere, taken from <code>{graph}</code>" in page_of(system)


def test_the_same_files_are_taken_from_the_cache_and_other_files_are_not(
    system: System, elsewhere: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(elsewhere, tmp_path / "moved")
    command = ("run", str(system.manifest), "--from-checkpoint", str(elsewhere))
    again = system.gauntlet(*command)
    assert "train-model: reused" in again.stdout, again.stdout + again.stderr
    assert "convert-to-onnx: reused" in again.stdout
    assert "data:   unchanged since tiny-" in again.stdout
    packed = tmp_path / "data.csv.gz"
    packed.write_bytes(gzip.compress((system.manifest.parent / "data.csv").read_bytes()))
    exported = system.gauntlet(*command, "--set", f"dataset.uri={packed}")
    assert "validate-data: succeeded" in exported.stdout, exported.stdout + exported.stderr
    assert "train-model: reused" in exported.stdout and "convert-to-onnx: reused" in exported.stdout
    assert "rows: the steps after validate-data were reused." in exported.stdout
    judged_again = system.gauntlet("gate", "latest", "--set", "gates.max_model_mb=0.01")
    assert judged_again.returncode == 3, judged_again.stdout + judged_again.stderr
    (moved / "model.safetensors").write_bytes(b"")
    other = system.gauntlet(*command[:-1], str(moved))
    assert other.returncode == 2
    assert "model.safetensors: cannot be read" in other.stdout
    assert "Traceback" not in other.stdout + other.stderr
