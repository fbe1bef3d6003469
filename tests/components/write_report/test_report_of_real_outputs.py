"""The report reads what the other steps really write: no figure of theirs is lost on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import finished_runs as runs
import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from gauntlet.components.convert_to_onnx.admission import CandidateResult
from gauntlet.components.convert_to_onnx.admission import Comparison as Conversions
from gauntlet.components.convert_to_onnx.bundling import candidates_document
from gauntlet.components.convert_to_onnx.candidates import Graph
from gauntlet.components.convert_to_onnx.export import FusedOps
from gauntlet.components.convert_to_onnx.scoring import NeighbourEffect
from gauntlet.components.convert_to_onnx.timing import Latency
from gauntlet.components.gate_model.figures import read_figures
from gauntlet.components.gate_model.rules import decide
from gauntlet.components.write_report.collect import collect
from gauntlet.components.write_report.next_steps import RULE_ADVICE
from gauntlet.manifests.conversion import Conversion
from gauntlet.tasks.classification.conversion import LabelParity
from gauntlet.tasks.classification.manifest import Evaluation, Gates
from gauntlet.tasks.classification.scorecard import ChampionPredictions, assess
from gauntlet.tasks.text_classification.conversion import open_subject
from gauntlet.trainer.checkpoint import TrainingRecord
from gauntlet.trainer.history import Epoch, History, Step
from gauntlet.trainer.usage import Usage

CLASSES = ("calm", "angry", "glad")
LABELS = np.array([0, 1, 2] * 20, dtype=np.int64)


def absent(value: object, at: str = "") -> Iterator[str]:
    """The fields of a record, at any depth, that were not found in what a step wrote."""
    if is_dataclass(value):
        for field in fields(value):
            yield from absent(getattr(value, field.name), f"{at}.{field.name}")
    elif isinstance(value, tuple) and value:
        yield from absent(value[0], f"{at}[0]")
    elif isinstance(value, Mapping) and value:
        yield from absent(next(iter(value.values())), f"{at}[…]")
    elif value is None or value in ((), {}, ""):
        yield at


def scorecard() -> dict[str, Any]:
    probabilities = np.full((60, 3), 0.1, dtype=np.float32)
    probabilities[np.arange(60), LABELS] = 0.8
    probabilities[:3] = (0.05, 0.05, 0.9)  # two mistakes
    seen = np.arange(60) < 9  # test rows that the champion was trained on
    champion = ChampionPredictions("2", np.roll(LABELS, 3) * (np.arange(60) > 10), seen)
    texts = [f"text {row}" for row in range(60)]
    settings = Evaluation(bootstrap_resamples=200)
    neither = np.zeros(60, dtype=bool)
    scores = assess(texts, LABELS, probabilities, CLASSES, champion, settings, 0, trained_on=neither)
    return scores.as_json()


def as_read(document: dict[str, Any]) -> dict[str, Any]:
    """As the next step reads it: tuples have become lists."""
    read: dict[str, Any] = json.loads(json.dumps(document))
    return read


def candidates(folder: Path) -> dict[str, Any]:
    (folder / "plain.onnx").write_bytes(b"0" * 2_000_000)
    latency = {1: Latency(2.0, 3.0, 50)}
    result = CandidateResult(
        Graph("plain", folder / "plain.onnx", FusedOps(0, 0, 0)),
        LabelParity(60, 30, 1e-6, 0, 0, {"calm": 1.0}, 0.9, 0.9, (-0.01, 0.01), 0.008, ()),
        "its logits differ",
        NeighbourEffect(60, 0.01, 0),
        latency,
        {1: 5.0},
        memory_mb=90.0,
    )
    made_from = TrainingRecord("text_classification", CLASSES, 7, 1, "d" * 64, "e" * 64, max_length=64)
    texts = pd.DataFrame({"text": ["text"] * 60, "label": LABELS})
    texts.to_parquet(folder / "validation.parquet")
    Tokenizer(WordLevel({})).save(str(folder / "tokenizer.json"))
    subject = open_subject(Conversion(batch_sizes=(1,)), folder, made_from, folder, seed=7)
    conversions = Conversions(
        subject,
        threads=2,
        processor="a CPU",
        pytorch={"macro_f1": 0.9},
        candidates=[result],
        pytorch_latency_ms={"eager": {1: Latency(10.0, 12.0, 50)}},
        pytorch_memory_mb={"eager": 400.0},
        pytorch_absent={"compiled": "there is no compiler"},
        tokenizing_ms={1: Latency(0.1, 0.2, 50)},
    )
    return candidates_document(conversions, result).as_json()


def history() -> dict[str, Any]:
    metrics = {"macro_f1": 0.6, "weighted_f1": 0.6, "accuracy": 0.6}
    epoch = Epoch(1, {"loss": 0.5, **metrics}, {"loss": 0.4, **metrics}, 100.0, 6.0)
    # The step adds the machine and its price to what the loop knows.
    machine = {"device": "cpu", "machine": "n1", "parameters": 9, "cost_usd": 0.1, "usd_per_hour": 0.2}
    machine |= {"max_hours": 4.0, "max_cost_usd": 10.0, "host": "here"}
    usage = Usage(6.0, 64, 5.0, 12.8, 0.5, 0.1, 1.0, 0.9, 8.0)
    found = History([epoch], [Step(1, 0.7, 1e-4)], 1, confusion=[[5, 1], [0, 2]], seconds=6.0, usage=usage)
    return found.to_json() | machine


def test_no_figure_of_the_evaluation_is_lost(tmp_path: Path) -> None:
    runs.finish(tmp_path / runs.JOB / "evaluate-model", {"scores": scorecard()})
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    assert record.unreadable == () and record.scores is not None
    # A challenger has no version, a text no picture and no grade; without a champion's error there is none.
    assert sorted(absent(record.scores)) == [
        ".challenger.grades",
        ".challenger.version",
        ".challenger_on_clean_rows.grades",
        ".challenger_on_clean_rows.version",
        ".champion.grades",
        ".champion_error",
        ".mistakes[0].picture",
        ".paired.qwk_difference",
        ".paired.qwk_lower_bound",
        ".paired.qwk_upper_bound",
    ]


def test_no_figure_of_the_training_is_lost(tmp_path: Path) -> None:
    made_from = TrainingRecord(
        task="text_classification",
        labels=CLASSES,
        seed=7,
        epoch=1,
        data_sha256="d" * 64,
        training_sha256="e" * 64,
        encoder="minilm",
        max_length=64,
    )
    outputs = {"history": history(), "checkpoint/training.json": made_from.as_json()}
    runs.finish(tmp_path / runs.JOB / "train-model", outputs)
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    of_managed_models_alone = [".training_tokens", ".usd_per_million_tokens"]
    assert record.unreadable == ()
    assert [*absent(record.history), *absent(record.training)] == of_managed_models_alone


@pytest.mark.parametrize(("floor", "decision"), [(0.1, "promote"), (0.999, "reject")])
def test_no_rule_of_the_gate_is_lost_and_each_has_advice(tmp_path: Path, floor: float, decision: str) -> None:
    document = candidates(tmp_path)
    bounds = {
        "max_abs_logit_difference": 1e-4,
        "min_label_agreement": 0.995,
        "max_metric_drop": 0.01,
        "max_neighbour_difference": 0.05,
    }
    certificate = {**document["candidates"][0], "bounds": bounds, "model_sha256": "0" * 64}
    gates = Gates(min_macro_f1=floor, non_inferiority_margin=1.0, max_class_f1_drop=1.0)
    documents = (as_read(scorecard()), document, history(), certificate)
    verdict = decide(gates, read_figures(*documents, "0" * 64, bundle_fault=None))
    runs.finish(tmp_path / runs.JOB / "gate-model", {"verdict": asdict(verdict)})
    record = collect(str(tmp_path), runs.JOB, runs.TASK)
    assert record.unreadable == () and record.verdict is not None
    assert record.verdict.decision == decision
    assert {rule.rule for rule in record.verdict.rules} <= set(RULE_ADVICE)
    assert list(absent(record.verdict.rules)) == []
