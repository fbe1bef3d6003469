"""Students, networks of the user's own and models from elsewhere, of the task kind regression."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.metrics import mean_absolute_error
from transformers import BertConfig, BertForSequenceClassification

from gauntlet.components.convert_to_onnx.run import run as convert
from gauntlet.components.train_model.imported import import_model
from gauntlet.components.train_model.imported import origin_of as origin_of_manifest
from gauntlet.components.validate_data.run import run as validate_data
from gauntlet.contracts.training import Origin, OriginForm
from gauntlet.manifests.conversion import Conversion, StudentConversion
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.own_code import MODULES_VARIABLE
from gauntlet.serving.texts import TextInputs
from gauntlet.tasks.regression.manifest import RegressionDataset, RegressionManifest, RegressionTraining
from gauntlet.tasks.regression.rows import NumberRows, read_rows
from gauntlet.tasks.regression.serving import NumberModel
from gauntlet.tasks.regression.tiny import write_images, write_texts
from gauntlet.tasks.regression.training import TextRegression
from gauntlet.tasks.texts.manifest import Student
from gauntlet.trainer.run import TrainingRun, train
from gauntlet.trainer.saved_model import STUDENT_FOLDER, load_model, read_record

TARGETS = np.linspace(100, 500, 240)
WARN = {"severity": "warn"}
OWN = """
import torch
from torch import nn


class Bag(nn.Module):
    def __init__(self, vocabulary_size, pad_id, outputs):
        super().__init__()
        self.table = nn.Embedding(vocabulary_size, 16, padding_idx=pad_id)
        self.head = nn.Linear(16, outputs)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(2).float()
        return self.head((self.table(input_ids) * mask).sum(1) / mask.sum(1))


class Brightness(nn.Module):
    def __init__(self, input_shape, outputs):
        super().__init__()
        self.last = nn.Linear(input_shape[0], outputs)

    def forward(self, images):
        return self.last(images.mean(dim=(2, 3)))


class TwoNumbers(Brightness):
    def __init__(self, input_shape, outputs):
        super().__init__(input_shape, outputs + 1)


class Absolute(nn.Module):
    def forward(self, outputs, targets):
        return (outputs[:, 0] - targets).abs()
"""


@pytest.fixture(scope="module")
def own_module(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The name of a module beside the manifest."""
    folder = tmp_path_factory.mktemp("beside")
    (folder / "own_numbers.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MODULES_VARIABLE, str(folder))
        patch.setattr(sys, "path", [*sys.path])
        yield "own_numbers"
    sys.modules.pop("own_numbers", None)


def write_splits(folder: Path, **keys: Any) -> Path:
    checks = {"near_duplicates": WARN, "leakage": WARN}
    content = {"name": "numbers", "version": "1", "checks": checks} | keys
    outputs = folder / "splits", folder / "checks", folder / "page"
    validate_data("regression", RegressionDataset.model_validate(content), *outputs)
    return folder / "splits"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits of 240 texts, a word of which tells a tenth of the range from 100 to 500."""
    folder = tmp_path_factory.mktemp("texts")
    uri = write_texts(folder, TARGETS, ("text", "stars"))
    return write_splits(folder, uri=str(uri), columns={"text": "text", "target": "stars"})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits of 240 images, the brighter the larger their number."""
    folder = tmp_path_factory.mktemp("images")
    uri = write_images(folder, TARGETS, ("path", "grade"), (16, 12))
    columns = {"image": "path", "target": "grade"}
    return write_splits(folder, uri=str(uri), columns=columns, shape=(16, 12))


def trained(section: RegressionTraining, splits: Path, folder: Path) -> dict[str, Any]:
    return train(TrainingRun(section, "numbers", "regression", 3, splits, folder, resume_dir=""))


def of_texts(encoder: Path, **keys: Any) -> RegressionTraining:
    common = {"epochs": 1, "batch_size": 16, "learning_rate": 3e-3, "max_length": 16, "precision": "fp32"}
    return RegressionTraining.model_validate({"encoder": str(encoder)} | common | keys)


def of_images(**keys: Any) -> RegressionTraining:
    common = {"arch": "plain_cnn", "filters": [4], "batch_size": 16, "dropout": 0, "head_dropout": 0}
    return RegressionTraining.model_validate(common | keys)


def answers_to(model: torch.nn.Module, rows: NumberRows, checkpoint: Path) -> np.ndarray:
    if isinstance(rows.inputs, np.ndarray):
        batch = {"images": torch.from_numpy(rows.inputs)}
    else:
        inputs = TextInputs.open(checkpoint / "tokenizer.json", 16).batch(rows.inputs)
        batch = {name: torch.from_numpy(array) for name, array in inputs.items()}
    with torch.no_grad():
        return np.asarray(model.eval()(**batch)[:, 0].double())


@pytest.fixture(scope="module")
def with_student(tiny_encoder: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model and of its student, which has one of its two layers."""
    folder = tmp_path_factory.mktemp("with_student") / "checkpoint"
    student = Student(layers=(1,), epochs=1, teacher_weight=0.5)
    trained(of_texts(tiny_encoder, student=student), texts, folder)
    return folder


@pytest.fixture(scope="module")
def converted(with_student: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of convert-to-onnx, in which the student's graph alone keeps its bounds."""
    folder = tmp_path_factory.mktemp("converted")
    section = Conversion(
        candidates=("plain",),
        pytorch=("eager",),
        batch_sizes=(1,),
        student=StudentConversion(candidates=("fused",), max_metric_drop=0.99),
    ).model_copy(update={"max_metric_drop": -1e6})
    convert(section, "numbers", 1, "0" * 64, with_student, texts, folder / "bundle", folder / "candidates")
    return folder


def test_a_student_is_compared_with_itself_and_its_error_with_its_teachers(
    converted: Path, with_student: Path, texts: Path
) -> None:
    table = json.loads((converted / "candidates").read_text())
    rows = {row["name"]: row for row in table["candidates"]}
    assert list(rows) == ["plain", "student_fused"] and table["chosen"] == "student_fused"
    student, split = rows["student_fused"], read_rows(texts, "validation")
    errors = [
        mean_absolute_error(split.targets, answers_to(load_model(folder), split, with_student))
        for folder in (with_student, with_student / STUDENT_FOLDER)
    ]
    assert errors[0] != pytest.approx(errors[1], rel=1e-4)
    assert student["mae"] == pytest.approx(errors[1], rel=1e-5)
    assert student["mae_rise"] == pytest.approx(errors[1] - errors[0], rel=1e-3)
    assert student["max_abs_difference"] < 1e-4 * TARGETS.std()
    model = NumberModel(converted / "bundle")
    found = model.numbers(split.inputs)
    np.testing.assert_allclose(
        found, answers_to(load_model(with_student / STUDENT_FOLDER), split, with_student), rtol=1e-4
    )


def test_a_student_loses_its_errors_against_targets_and_against_its_teachers_numbers(
    tiny_encoder: Path, texts: Path
) -> None:
    student = Student(layers=(1,), teacher_weight=0.75)
    rows = read_rows(texts, "train")
    wanted = torch.linspace(100, 500, len(rows))[:, None]
    task = TextRegression(of_texts(tiny_encoder, student=student, loss="mse"), texts, student, wanted)
    model = task.build_model().eval()
    batch = task.training_batch([0, 3], (0, 0))
    numbers = model(batch[0], batch[1])[:, 0]
    square = [
        ((numbers - given.float()) / rows.targets.std()).square().sum()
        for given in (wanted[[0, 3], 0], torch.from_numpy(rows.targets[[0, 3]]))
    ]
    expected = 0.75 * square[0] + 0.25 * square[1]
    torch.testing.assert_close(task.loss_sum(model, batch)[0], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "network", "share"),
    [("texts", "Bag", 1.1), ("images", "Brightness", 0.5)],  # the tiny tokenizer does not know the words
)
def test_a_network_of_the_users_own_learns_in_standard_deviations_and_answers_in_the_unit(
    kind: str,
    network: str,
    share: float,
    own_module: str,
    tiny_encoder: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    splits: Path = request.getfixturevalue(kind)
    keys = {"network": f"{own_module}:{network}", "epochs": 12, "learning_rate": 3e-2}
    keys |= {"loss": f"{own_module}:Absolute"}
    section = of_texts(tiny_encoder, **keys) if kind == "texts" else of_images(**keys)
    history = trained(section, splits, tmp_path / "checkpoint")
    best = history["epochs"][history["best_epoch"] - 1]["validation"]
    validation, mean = read_rows(splits, "validation"), read_rows(splits, "train").targets.mean()
    assert best["mae"] < share * np.abs(validation.targets - mean).mean()
    assert best["loss"] == pytest.approx(best["mae"] / read_rows(splits, "train").targets.std(), rel=1e-4)
    record = read_record(tmp_path / "checkpoint")
    assert record.network == f"{own_module}:{network}"
    assert record.network_args is not None and record.network_args["outputs"] == 1
    answers = answers_to(load_model(tmp_path / "checkpoint"), validation, tmp_path / "checkpoint")
    assert mean_absolute_error(validation.targets, answers) == pytest.approx(best["mae"], rel=1e-4)


def test_a_network_with_two_numbers_is_refused_before_training(
    own_module: str, images: Path, tmp_path: Path
) -> None:
    section = of_images(network=f"{own_module}:TwoNumbers")
    with pytest.raises(UsageError, match=r"shape \(3, 2\), expected a float tensor of shape \(3, 1\)"):
        trained(section, images, tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def origin_of(form: OriginForm, source: Path, labels: tuple[str, ...] = ()) -> Origin:
    manifest = RegressionManifest.model_validate(
        {
            "name": "numbers",
            "description": "Numbers",
            "task": "regression",
            "dataset": {"name": "n", "version": "1", "uri": "n.csv", "columns": {"text": "t"}},
            "gates": {"max_mae": 1},
        }
    )
    return origin_of_manifest(manifest, form, str(source), labels)


def taken(origin: Origin, encoder: Path, splits: Path, folder: Path) -> dict[str, float]:
    section = of_texts(encoder)
    return import_model(section, "regression", 1, origin, splits, folder / "checkpoint", folder / "history")


@pytest.fixture
def graph(converted: Path, tmp_path: Path) -> Path:
    """A folder with a graph, what it needs, and the configuration that Transformers writes beside it."""
    folder = tmp_path / "graph"
    folder.mkdir()
    for name in ("model.onnx", "tokenizer.json", "target.json"):
        shutil.copyfile(converted / "bundle" / name, folder / name)
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "LABEL_0"}}))
    return folder


@pytest.mark.parametrize("named", ["", "model.onnx"])
def test_a_graph_from_elsewhere_has_the_metrics_of_its_answers(
    named: str, graph: Path, tiny_encoder: Path, texts: Path, tmp_path: Path
) -> None:
    figures = taken(origin_of("onnx", graph / named), tiny_encoder, texts, tmp_path)
    split = read_rows(texts, "validation")
    session = onnxruntime.InferenceSession(graph / "model.onnx")
    (answers,) = session.run(["logits"], TextInputs.open(graph / "tokenizer.json", 16).batch(split.inputs))
    assert figures["validation_mae"] == pytest.approx(mean_absolute_error(split.targets, answers[:, 0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "found no target.json beside the graph, which models of regression need"),
        ("[]", "target.json: found no description of a target"),
        ({"name": "stars", "mean": 300}, "target.json: found no description of a target: .*'std'"),
        ({"name": "stars", "mean": 300, "std": 0}, "target.json: .*std: found 0, expected a number over 0"),
        ({"name": "stars", "mean": "3", "std": 1}, "target.json: .*mean: found '3', expected a number"),
        ({"name": "price", "mean": 300, "std": 1}, "of price, expected one of stars, dataset.columns.target"),
    ],
)
def test_a_graph_without_a_description_of_its_target_is_refused(
    content: object, message: str, graph: Path, tiny_encoder: Path, texts: Path, tmp_path: Path
) -> None:
    (graph / "target.json").unlink()
    if content is not None:
        (graph / "target.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UsageError, match=message):
        taken(origin_of("onnx", graph), tiny_encoder, texts, tmp_path)
    assert not (tmp_path / "checkpoint").exists()


def test_a_graph_of_classes_is_refused(graph: Path, tiny_encoder: Path, texts: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found the classes good, bad, and models of regression have none"):
        taken(origin_of("onnx", graph, ("good", "bad")), tiny_encoder, texts, tmp_path)


def test_a_folder_of_transformers_is_refused(tiny_encoder: Path, texts: Path, tmp_path: Path) -> None:
    config = BertConfig.from_pretrained(tiny_encoder, num_labels=1, problem_type="regression")
    BertForSequenceClassification(config).save_pretrained(tmp_path / "saved")
    with pytest.raises(UsageError, match="the task kind regression reads no other form"):
        taken(origin_of("checkpoint", tmp_path / "saved"), tiny_encoder, texts, tmp_path)


def test_a_checkpoint_of_the_kind_is_taken_with_its_figures(
    with_student: Path, tiny_encoder: Path, texts: Path, tmp_path: Path
) -> None:
    figures = taken(origin_of("checkpoint", with_student), tiny_encoder, texts, tmp_path)
    split = read_rows(texts, "validation")
    answers = answers_to(load_model(with_student), split, with_student)
    assert figures["validation_mae"] == pytest.approx(mean_absolute_error(split.targets, answers), rel=1e-5)
