from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from kfp import dsl, local
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

import gauntlet
from gauntlet.backends.factory import open_registry
from gauntlet.backends.registry import ModelVersion
from gauntlet.components.evaluate_model import EvaluationRun
from gauntlet.components.evaluate_model.component import evaluate_model
from gauntlet.components.training_rows import bundled_file, write_fingerprints
from gauntlet.manifests.errors import DataError, GauntletError
from gauntlet.manifests.schema import as_parameter
from gauntlet.serving.bundle import BundleInfo, TensorSpec, file_sha256, write_bundle
from gauntlet.tasks.classification.evaluation import (
    ChampionFailure,
    ChampionPredictions,
    evaluate,
    read_rows,
    score_challenger,
    score_champion,
)
from gauntlet.tasks.classification.manifest import Evaluation

LABELS = ("joy", "fear")
HAPPY = {"happy": "joy", "glad": "joy", "scared": "fear", "afraid": "fear"}
CONFUSED = HAPPY | {"glad": "fear"}  # every glad row is a mistake
ROWS = [("so happy", 0), ("glad today", 0), ("scared", 1), ("very afraid now", 1)] * 10
SETTINGS = Evaluation(bootstrap_resamples=200, worst_mistakes=3)


def make_bundle(
    folder: Path,
    meaning: Mapping[str, str],
    labels: Sequence[str] = LABELS,
    weight: float = 2.0,
    trained_on: Path | None = None,
) -> Path:
    """A bundle whose logits are the sum of its words' weights, `weight` for the class a word means.

    `trained_on` are the splits that it carries the fingerprints of.
    """
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *meaning])}
    table = np.zeros((len(vocabulary), len(labels)), dtype=np.float32)
    for word, label in meaning.items():
        table[vocabulary[word], labels.index(label)] = weight
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["words"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["mask_of_words"]),
            helper.make_node("Mul", ["words", "mask_of_words"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "tokens"], ["logits"], keepdims=0),
        ],
        "bag_of_words",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(labels)])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array([1]), "tokens"),
        ],
    )
    parts = folder.with_name(folder.name + "-parts")
    parts.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, parts / "model.onnx")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(parts / "tokenizer.json"))
    info = BundleInfo(
        name="emotion",
        task="text_classification",
        labels=tuple(labels),
        inputs=tuple(
            TensorSpec(name, "int64", ("batch", "sequence")) for name in ("input_ids", "attention_mask")
        ),
        outputs=(TensorSpec("logits", "float32", ("batch", len(labels))),),
        max_length=16,
        opset=17,
        candidate="plain",
        precision="fp32",
        quality={},
        latency_ms={},
        speedup={},
        lineage={},
    )
    carried = {} if trained_on is None else bundled_file(trained_on)
    write_bundle(folder, info, {path.name: path for path in parts.iterdir()} | carried)
    return folder


def make_splits(folder: Path, rows: Sequence[tuple[str, int]] = ROWS) -> Path:
    folder.mkdir()
    frame = pd.DataFrame(
        {
            "text": pd.Series([text for text, _ in rows], dtype="string"),
            "label": pd.Series([label for _, label in rows], dtype="int64"),
            "row": pd.Series(range(len(rows)), dtype="int64"),
        }
    )
    frame.to_parquet(folder / "test.parquet", index=False)
    return folder


def version_of(bundle: Path) -> ModelVersion:
    return ModelVersion(
        name="emotion",
        version="3",
        bundle_uri=str(bundle),
        aliases=(),
        tags={"bundle_sha256": file_sha256(bundle / "bundle.json")},
        created=datetime.now(UTC),
    )


def fingerprint(splits: Path, train: Sequence[str], test: Sequence[str]) -> Path:
    """Write the fingerprints of rows, as validate-data does, into the folder of the splits."""
    splits.mkdir(exist_ok=True)
    keys = [*train, *test]
    table = pd.DataFrame({"key": keys, "split": ["train"] * len(train) + ["test"] * len(test)})
    write_fingerprints(splits, "words", table, {key: key for key in keys})
    return splits


def test_the_champions_training_rows_are_left_out_of_the_comparison(tmp_path: Path) -> None:
    splits = make_splits(tmp_path / "splits")
    texts = [f"{text} {row}" for row, (text, _) in enumerate(ROWS)]
    fingerprint(splits, ["else"], texts)
    earlier = fingerprint(tmp_path / "earlier", [*texts[:28], "gone"], ["other"])
    registry_uri = f"sqlite:///{tmp_path / 'registry' / 'mlflow.db'}"
    registry = open_registry(registry_uri)
    outputs = {name: tmp_path / "out" / name for name in ("scores", "predictions", "report")}
    challenger = make_bundle(tmp_path / "challenger", HAPPY, trained_on=splits)

    def overlap_with(champion: Path) -> dict[str, object]:
        registry.register("emotion", champion, {"run_id": champion.name})
        registry.promote("emotion")
        evaluate(EvaluationRun(SETTINGS, "emotion", 0, registry_uri, challenger, splits, **outputs))
        return json.loads(outputs["scores"].read_text())["training_overlap"]  # type: ignore[no-any-return]

    overlap = overlap_with(make_bundle(tmp_path / "champion", CONFUSED, trained_on=earlier))
    assert (overlap["challenger"], overlap["champion"], overlap["clean_rows"]) == (0, 28, 12)
    assert "28 of 40 test rows were in the champion's training split" in str(overlap["summary"])
    assert (
        pd.read_parquet(outputs["predictions"])["champion_trained_on"].tolist() == [True] * 28 + [False] * 12
    )
    assert json.loads(outputs["scores"].read_text())["champion"]["accuracy"] == 0.75  # 9 of the 12

    older = overlap_with(make_bundle(tmp_path / "older", HAPPY | {"glad": "fear"}))
    assert ("champion" not in older, older["clean_rows"]) == (True, 40)
    assert "no fingerprints of training rows" in str(older["summary"])


def test_a_model_that_was_trained_on_the_test_rows_is_found_out(tmp_path: Path) -> None:
    splits = fingerprint(make_splits(tmp_path / "splits"), ["so happy"], [text for text, _ in ROWS])
    registry_uri = f"sqlite:///{tmp_path / 'registry' / 'mlflow.db'}"
    outputs = {name: tmp_path / "out" / name for name in ("scores", "predictions", "report")}
    challenger = make_bundle(tmp_path / "challenger", HAPPY, trained_on=splits)
    evaluate(EvaluationRun(SETTINGS, "emotion", 0, registry_uri, challenger, splits, **outputs))
    assert json.loads(outputs["scores"].read_text())["training_overlap"]["challenger"] == 10


def swap_labels(bundle: Path) -> None:
    """A champion whose every answer is wrong, with every hash in `bundle.json` still right."""
    path = bundle / "bundle.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"labels": content["labels"][::-1]}))


TEXTS = [text for text, _ in ROWS]


def test_a_first_model_and_then_a_better_one_are_evaluated_against_the_registry(tmp_path: Path) -> None:
    splits = make_splits(tmp_path / "splits")
    registry_uri = f"sqlite:///{tmp_path / 'registry' / 'mlflow.db'}"
    outputs = {name: tmp_path / "out" / name for name in ("scores", "predictions", "report")}

    def run(bundle: Path) -> dict[str, object]:
        evaluate(EvaluationRun(SETTINGS, "emotion", 0, registry_uri, bundle, splits, **outputs))
        return json.loads(outputs["scores"].read_text(encoding="utf-8"))  # type: ignore[no-any-return]

    first = make_bundle(tmp_path / "first", CONFUSED)
    scores = run(first)
    assert scores["challenger"]["accuracy"] == 0.75  # type: ignore[index]
    assert scores["challenger"]["confusion"] == [[10, 10], [0, 20]]  # type: ignore[index]
    assert [m["text"] for m in scores["mistakes"]] == ["glad today"] * 3  # type: ignore[attr-defined]
    assert "champion" not in scores
    assert "champion_predicted" not in pd.read_parquet(outputs["predictions"])

    registry = open_registry(registry_uri)
    registry.register("emotion", first, {"run_id": "one"})
    registry.promote("emotion")
    scores = run(make_bundle(tmp_path / "second", HAPPY))
    assert scores["challenger"]["accuracy"] == 1.0  # type: ignore[index]
    assert (scores["champion"]["version"], scores["champion"]["accuracy"]) == ("1", 0.75)  # type: ignore[index]
    assert scores["paired"]["lower_bound"] > 0  # type: ignore[index]
    assert "Champion, version 1" in outputs["report"].read_text(encoding="utf-8")

    predictions = pd.read_parquet(outputs["predictions"])
    assert list(predictions.columns) == [
        "text",
        "label",
        "predicted",
        "confidence",
        "probability_joy",
        "probability_fear",
        "champion_predicted",
    ]
    assert predictions["text"].tolist() == TEXTS
    assert predictions.loc[1, ["label", "predicted", "champion_predicted"]].tolist() == ["joy", "joy", "fear"]
    # softmax of (2, 0), by hand
    assert predictions["confidence"].to_numpy() == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["predictions", "report", "scores"]


def test_the_component_logs_metrics_and_the_confusion_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, splits = make_bundle(tmp_path / "bundle", CONFUSED), make_splits(tmp_path / "splits")
    monkeypatch.setenv("PYTHONPATH", str(Path(gauntlet.__file__).parents[1]), prepend=os.pathsep)
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "runs"))

    @dsl.pipeline(name="evaluation")
    def pipeline():  # type: ignore[no-untyped-def]
        evaluate_model(
            evaluation=as_parameter(SETTINGS),
            name="emotion",
            task="text_classification",
            seed=0,
            registry_uri=f"sqlite:///{tmp_path / 'registry' / 'mlflow.db'}",
            bundle=dsl.importer(artifact_uri=str(bundle), artifact_class=dsl.Model).output,
            splits=dsl.importer(artifact_uri=str(splits), artifact_class=dsl.Dataset).output,
        )

    pipeline()
    (step,) = tmp_path.glob("runs/*/evaluate-model")
    assert {"scores", "predictions", "report"} <= {path.name for path in step.iterdir()}
    logged = json.loads((step / "executor_output.json").read_text(encoding="utf-8"))["artifacts"]
    metrics, confusion = (logged[name]["artifacts"][0]["metadata"] for name in ("metrics", "confusion"))
    assert metrics["accuracy"] == 0.75
    # by hand: joy has F1 2/3, fear 40/50
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert confusion["confusionMatrix"] == {
        "annotationSpecs": [{"displayName": "joy"}, {"displayName": "fear"}],
        "rows": [{"row": [10, 10]}, {"row": [0, 20]}],
    }


def test_a_champion_with_its_labels_in_another_order_is_compared_by_name(tmp_path: Path) -> None:
    champion = make_bundle(tmp_path / "champion", HAPPY, labels=("fear", "joy"))
    outcome = score_champion(version_of(champion), LABELS, TEXTS)
    assert isinstance(outcome, ChampionPredictions)
    assert outcome.predicted.argmax(axis=1).tolist() == [label for _, label in ROWS]


def test_a_champion_with_other_labels_is_refused_with_the_difference_and_what_to_do(tmp_path: Path) -> None:
    champion = make_bundle(tmp_path / "champion", HAPPY, labels=("joy", "fear", "love"))
    outcome = score_champion(version_of(champion), ("joy", "fear", "anger"), TEXTS)
    assert isinstance(outcome, ChampionFailure)
    assert "only the champion has love; only this model has anger" in outcome.reason
    assert "give the manifest a new name" in outcome.reason


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "bundle.json: no such file"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: missing"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"x"), "model.onnx: sha256 is"),
        (swap_labels, "the registry says"),
    ],
)
def test_a_broken_champion_is_reported_with_its_version_and_what_to_do(
    tmp_path: Path, damage: object, message: str
) -> None:
    champion = make_bundle(tmp_path / "champion", HAPPY)
    version = version_of(champion)
    damage(champion)  # type: ignore[operator]
    outcome = score_champion(version, LABELS, TEXTS)
    assert isinstance(outcome, ChampionFailure)
    assert outcome.reason.startswith(f"Champion emotion version 3 ({champion}) cannot be read")
    assert message in outcome.reason
    assert "`gauntlet rollback`" in outcome.reason


def test_a_champion_that_onnxruntime_refuses_is_reported_and_not_raised(tmp_path: Path) -> None:
    champion = make_bundle(tmp_path / "champion", HAPPY)
    info = json.loads((champion / "bundle.json").read_text(encoding="utf-8"))
    shutil.copy(champion / "tokenizer.json", champion / "model.onnx")
    info["files"]["model.onnx"] = info["files"]["tokenizer.json"]
    (champion / "bundle.json").write_text(json.dumps(info), encoding="utf-8")
    outcome = score_champion(version_of(champion), LABELS, TEXTS)
    assert isinstance(outcome, ChampionFailure)
    assert "Protobuf parsing failed" in outcome.reason


def test_a_champion_that_answers_nan_is_reported(tmp_path: Path) -> None:
    champion = make_bundle(tmp_path / "champion", HAPPY, weight=float("nan"))
    outcome = score_champion(version_of(champion), LABELS, TEXTS)
    assert isinstance(outcome, ChampionFailure)
    assert "answers NaN for 40 of 40 test rows" in outcome.reason


def test_a_challenger_that_answers_nan_stops_the_step(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", HAPPY, weight=float("nan"))
    rows = read_rows(make_splits(tmp_path / "splits"))
    with pytest.raises(GauntletError, match="found NaN scores for 40 of 40 test rows"):
        score_challenger(bundle, rows)


def test_a_challenger_that_is_no_bundle_stops_the_step(tmp_path: Path) -> None:
    rows = read_rows(make_splits(tmp_path / "splits"))
    with pytest.raises(GauntletError, match=r"converted model cannot be read.*no such file"):
        score_challenger(tmp_path / "nowhere", rows)


def test_a_label_that_the_bundle_does_not_know_stops_the_step(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", HAPPY)
    rows = read_rows(make_splits(tmp_path / "splits", [("so happy", 0), ("?", 2)]))
    with pytest.raises(DataError, match=r"label: found class 2, expected 0 to 1, the classes joy, fear"):
        score_challenger(bundle, rows)


def test_an_empty_test_split_stops_the_step(tmp_path: Path) -> None:
    splits = make_splits(tmp_path / "splits", [])
    outputs = {name: tmp_path / name for name in ("scores", "predictions", "report")}
    with pytest.raises(DataError, match="found 0 test rows"):
        evaluate(
            EvaluationRun(
                SETTINGS, "emotion", 0, "sqlite:////nowhere", tmp_path / "bundle", splits, **outputs
            )
        )
    assert not outputs["scores"].exists()
