"""Candidates are compared with PyTorch by the labels above their thresholds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, logit
from sklearn.metrics import f1_score
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from gauntlet.components.convert_to_onnx.candidates import FusedOps, Graph
from gauntlet.components.convert_to_onnx.scoring import neighbour_effect
from gauntlet.contracts.data import STATISTICS_FILE
from gauntlet.contracts.training import TrainingRecord
from gauntlet.manifests.conversion import Conversion
from gauntlet.tasks.classification.conversion import ClassScores, compare
from gauntlet.tasks.multi_label_text.conversion import AboveThreshold, MultiLabelSubject
from gauntlet.tasks.multi_label_text.manifest import MultiLabelTraining
from gauntlet.tasks.multi_label_text.thresholds import choose_thresholds
from gauntlet.tasks.multi_label_text.training import import_checkpoint
from gauntlet.trainer.saved_model import TRAINING_FILE

LABELS = ("joy", "fear", "anger")
DECIDE = AboveThreshold(np.array([0.5, 0.25, 0.9], dtype=np.float32))
TRUTH = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
PROBABILITIES = np.array([[0.8, 0.1, 0.2], [0.6, 0.3, 0.1], [0.4, 0.9, 0.1], [0.1, 0.2, 0.95]])
NONE = np.empty((0, 3), dtype=np.float32)


def scores(probabilities: np.ndarray) -> ClassScores:
    return ClassScores(logit(probabilities).astype(np.float32), NONE, DECIDE)


def test_a_row_agrees_if_it_gets_exactly_the_same_labels() -> None:
    changed = PROBABILITIES.copy()
    changed[1] = [0.45, 0.22, 0.1]  # loses both of its labels: one row of four
    changed[3, 2] = 0.91  # moves, and stays above 0.9
    parity = compare(scores(PROBABILITIES), scores(changed), TRUTH, LABELS, seed=0)
    assert (parity.rows, parity.disagreements, parity.label_agreement) == (4, 1, 0.75)
    assert parity.agreement_by_class == {"joy": 0.5, "fear": 0.5, "anger": 1.0}
    given = (changed >= [0.5, 0.25, 0.9]).astype(int)
    assert parity.macro_f1 == pytest.approx(f1_score(TRUTH, given, average="macro"))
    assert (parity.pytorch_macro_f1, parity.metric_drop) == (1.0, pytest.approx(1 - parity.macro_f1))
    worst = parity.worst[0]
    assert (worst.row, worst.label, worst.pytorch, worst.candidate) == (
        1,
        "joy, fear",
        "joy, fear",
        "no label",
    )
    assert "1 of 4 labels differ from PyTorch's" in (parity.refusal("int8", Conversion()) or "")


def test_neighbours_change_a_label_where_its_probability_crosses_its_threshold(tmp_path: Path) -> None:
    subject = MultiLabelSubject(Conversion(), tmp_path, None, tmp_path, 0)  # type: ignore[arg-type]
    alone, beside = (logit(np.array([row], dtype=np.float32)) for row in ([0.6, 0.26, 0.3], [0.7, 0.24, 0.3]))
    effect = neighbour_effect(alone, [beside], subject.answer(DECIDE))
    assert (effect.rows, effect.label_changes) == (1, 1)
    assert effect.max_difference == pytest.approx(0.1, abs=1e-6)


def test_a_checkpoint_of_transformers_gets_thresholds_for_its_labels_by_name(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    elsewhere = ("anger", "joy", "fear")
    torch.manual_seed(1)
    config = BertConfig.from_pretrained(
        tiny_encoder, id2label=dict(enumerate(elsewhere)), problem_type="multi_label_classification"
    )
    classifier = BertForSequenceClassification(config).eval()
    classifier.save_pretrained(tmp_path / "given")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tiny_encoder / "tokenizer.json"), pad_token="[PAD]"
    )
    tokenizer.save_pretrained(tmp_path / "given")
    checkpoint, splits = tmp_path / "checkpoint", tmp_path / "splits"
    checkpoint.mkdir()
    splits.mkdir()
    statistics = {"name": "moods", "version": "1", "uri": "moods.csv", "labels": LABELS, "rows": {}}
    (splits / STATISTICS_FILE).write_text(json.dumps(statistics | {"sha256": "0" * 64}))
    fields = import_checkpoint(MultiLabelTraining(), tmp_path / "given", splits, checkpoint)
    record = TrainingRecord(
        task="multi_label_text_classification",
        labels=LABELS,
        seed=0,
        epoch=0,
        data_sha256="0" * 64,
        training_sha256="0" * 64,
        **fields,
    )
    (checkpoint / TRAINING_FILE).write_text(json.dumps(record.as_json()))
    texts = ["quiet lake", "shout rage fist", "smile", "still slow breath", "sunny dance", "glare"]
    truth = np.random.default_rng(0).integers(0, 2, (6, 3))
    frame = pd.DataFrame({"text": texts, "labels": truth.tolist(), "row": range(6)})
    frame.to_parquet(splits / "validation.parquet")
    subject = MultiLabelSubject(Conversion(), checkpoint, record, splits, 0)
    graph = Graph("plain", tmp_path / "graph" / "plain.onnx", FusedOps(0, 0, 0))
    graph.path.parent.mkdir()
    written = json.loads(subject.files(graph)["thresholds.json"].read_text())
    with torch.no_grad():
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        found = classifier(batch["input_ids"], batch["attention_mask"]).logits.numpy()
    in_order = expit(found)[:, [elsewhere.index(label) for label in LABELS]]
    assert list(written) == list(LABELS)
    np.testing.assert_allclose(list(written.values()), choose_thresholds(in_order, truth), atol=1e-5)
