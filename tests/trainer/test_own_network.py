"""Networks and losses of the user's own: what they get, what is refused, and what a checkpoint records."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.own_code import MODULES_VARIABLE, code_sha256, resolve
from gauntlet.tasks.image_classification.manifest import ImageTraining
from gauntlet.tasks.ordinal_grading.manifest import GradeEarlyStopping, GradingTraining
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.tasks.texts.manifest import Student
from gauntlet.trainer.run import TrainingRun, train
from gauntlet.trainer.saved_model import load_model, read_record
from gauntlet.trainer.splits import read_images, read_split
from tests.drawn_images import SHAPES, SIDE

NUMBERS = itertools.count()
NETWORKS = """
import torch
from torch import nn
from torch.nn import functional


class Small(nn.Module):
    def __init__(self, input_shape, classes, width=8):
        super().__init__()
        channels, height, across = input_shape
        self.width = width
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.last = nn.Linear(width * (height // 2) * (across // 2), classes)

    def forward(self, images):
        assert images.dtype == torch.float32
        values = functional.max_pool2d(self.first(images).relu(), 2)
        return self.last(values.view(len(images), -1))


class OnTheEncoder(nn.Module):
    def __init__(self, encoder, classes, dropout):
        super().__init__()
        self.encoder, self.dropout = encoder, nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, input_ids, attention_mask):
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        return self.head(self.dropout(states[:, 0]))


class OnTheFrozenEncoder(OnTheEncoder):
    def __init__(self, encoder, classes, dropout):
        super().__init__(encoder.requires_grad_(False), classes, dropout)


class BagOfWords(nn.Module):
    def __init__(self, vocabulary_size, pad_id, classes):
        super().__init__()
        self.table = nn.Embedding(vocabulary_size, 16, padding_idx=pad_id)
        self.head = nn.Linear(16, classes)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(2).float()
        return self.head((self.table(input_ids) * mask).sum(1) / mask.sum(1))


class Cards(nn.Module):
    def __init__(self, input_shape, classes):
        super().__init__()
        self.body = nn.Conv2d(input_shape[0], 8, 3, stride=4)
        self.grade, self.centering, self.wear = nn.Linear(8, classes), nn.Linear(8, 2), nn.Linear(8, 1)

    def forward(self, front, back):
        sides = [self.body(side).mean(dim=(2, 3)) for side in (front, back) if side is not None]
        centering = torch.cat([50 + self.centering(side) for side in sides], dim=1)
        wear = torch.cat([self.wear(side).sigmoid() for side in sides], dim=1)
        return self.grade(sum(sides)), centering, wear


class WrongShape(Small):
    def forward(self, images):
        return super().forward(images)[:, :-1]


class Dropping(Small):
    def forward(self, images):
        return super().forward(functional.dropout(images, 0.5))


class NotANumber(Small):
    def forward(self, images):
        return super().forward(images) / 0.0 * 0.0


class Spectrum(Small):
    def forward(self, images):
        return super().forward(torch.linalg.svdvals(images).unsqueeze(2) + images)


class Failing(Small):
    def forward(self, images):
        return super().forward(images[:, :, :3])


class Nothing(nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3)).expand(-1, 3)


class Wanting(Small):
    def __init__(self, input_shape, classes, depth_of_field):
        super().__init__(input_shape, classes)


class Raising(Small):
    def __init__(self, input_shape, classes):
        raise RuntimeError("no such weights")


class Frozen(Small):
    def __init__(self, input_shape, classes):
        super().__init__(input_shape, classes)
        self.first.requires_grad_(False)


def features():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())


def noisy_features():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Noise())


class Noise(nn.Module):
    def forward(self, values):
        return values + torch.rand_like(values)


class Focal:
    def __init__(self, gamma=2.0):
        self.gamma = gamma

    def __call__(self, logits, labels):
        losses = functional.cross_entropy(logits, labels, reduction="none")
        return (1 - torch.exp(-losses)) ** self.gamma * losses


class Learned(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.weights = nn.Parameter(torch.ones(classes))


class Infinite:
    def __call__(self, logits, labels):
        return functional.cross_entropy(logits, labels, reduction="none").exp() * float("inf")


not_a_class = 3


def no_module(classes):
    return [classes]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module beside the manifest, which no other test has imported."""
    name = f"networks_{next(NUMBERS)}"
    folder = tmp_path / "beside"
    folder.mkdir()
    (folder / f"{name}.py").write_text(NETWORKS)
    monkeypatch.setenv(MODULES_VARIABLE, str(folder))
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def of_images(**settings: Any) -> ImageTraining:
    stopping = {"metric": "accuracy", "patience": 10}
    common = {"epochs": 1, "batch_size": 12, "learning_rate": 1e-2, "early_stopping": stopping}
    return ImageTraining.model_validate(common | settings)


def trained(section: Any, task: str, splits: Path, folder: Path) -> dict[str, Any]:
    return train(TrainingRun(section, "own", task, 3, splits, folder, resume_dir=""))


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_network_of_the_users_own_learns_shapes_and_is_built_again_from_its_checkpoint(
    module: str, image_splits: Path, tmp_path: Path
) -> None:
    section = of_images(network=f"{module}:Small", network_args={"width": 6.0}, epochs=6)
    folder = tmp_path / "checkpoint"
    history = trained(section, "image_classification", image_splits, folder)
    best = history["epochs"][history["best_epoch"] - 1]
    assert best["validation"]["accuracy"] >= 0.9
    record = read_record(folder)
    assert record.network == f"{module}:Small"
    assert record.network_args == {"input_shape": [1, SIDE, SIDE], "classes": len(SHAPES), "width": 6}
    model = load_model(folder)
    assert model.network.width == 6
    validation = read_images(image_splits, "validation")
    with torch.no_grad():
        predicted = model(torch.from_numpy(validation.images)).argmax(dim=1)
    accuracy = (predicted.numpy() == validation.labels).mean()
    assert accuracy == pytest.approx(best["validation"]["accuracy"])


def test_the_same_seed_gives_the_same_bytes(module: str, image_splits: Path, tmp_path: Path) -> None:
    section = of_images(network=f"{module}:Small")
    for name in ("one", "two"):
        trained(section, "image_classification", image_splits, tmp_path / name)
    assert sha256_of(tmp_path / "one/model.safetensors") == sha256_of(tmp_path / "two/model.safetensors")


def test_a_checkpoint_of_code_that_has_changed_since_is_refused(
    module: str, image_splits: Path, tmp_path: Path
) -> None:
    trained(of_images(network=f"{module}:Small"), "image_classification", image_splits, tmp_path / "made")
    before = code_sha256(f"{module}:Small")
    (tmp_path / "beside" / f"{module}.py").write_text(NETWORKS.replace(".relu()", ".tanh()"))
    assert code_sha256(f"{module}:Small") != before
    with pytest.raises(UsageError, match="whose code has changed since the training"):
        load_model(tmp_path / "made")


@pytest.mark.parametrize(
    ("name", "macro_f1"), [("OnTheEncoder", 0.9), ("BagOfWords", 0.9), ("OnTheFrozenEncoder", 0.0)]
)
def test_a_network_of_texts_gets_token_ids_and_may_ask_for_the_encoder(
    module: str, name: str, macro_f1: float, tiny_encoder: Path, tiny_splits: Path, tmp_path: Path
) -> None:
    section = TextTraining(
        encoder=str(tiny_encoder), network=f"{module}:{name}", epochs=8, learning_rate=5e-3, batch_size=8
    )
    history = trained(section, "text_classification", tiny_splits, tmp_path / "checkpoint")
    best = history["epochs"][history["best_epoch"] - 1]
    assert best["validation"]["macro_f1"] >= macro_f1
    model = load_model(tmp_path / "checkpoint", attention="eager")
    assert type(model).__name__ == name
    frame = read_split(tiny_splits, "validation")
    from gauntlet.serving.texts import TextInputs

    inputs = TextInputs.open(tmp_path / "checkpoint" / "tokenizer.json", section.max_length)
    batch = {key: torch.from_numpy(array) for key, array in inputs.batch(frame["text"].tolist()).items()}
    with torch.no_grad():
        predicted = model(**batch).argmax(dim=1).tolist()
    found = sum(map(int.__eq__, predicted, frame["label"].tolist())) / len(frame)
    assert found == pytest.approx(best["validation"]["accuracy"])


def test_a_grader_of_the_users_own_sees_the_back_alone_and_then_both_sides(
    module: str, card_splits: Path, tmp_path: Path
) -> None:
    section = GradingTraining(
        network=f"{module}:Cards",
        phase1_epochs=1,
        phase2_epochs=1,
        batch_size=12,
        early_stopping=GradeEarlyStopping(metric="loss"),
    )
    history = trained(section, "ordinal_grading", card_splits, tmp_path / "checkpoint")
    assert len(history["epochs"]) == 2
    channels, height, width = read_record(tmp_path / "checkpoint").input_shape
    sides = torch.zeros((2, channels, height, width), dtype=torch.uint8)
    with torch.no_grad():
        found = load_model(tmp_path / "checkpoint")(sides, sides)
    assert found.logits.shape == (2, 10)
    assert torch.allclose(found.distribution, found.logits.softmax(dim=1))
    grades = torch.arange(1.0, 11.0)
    assert torch.allclose(found.expected_grade, (found.distribution * grades).sum(dim=1))


def test_a_loss_of_the_users_own_is_weighted_by_class_and_is_the_validation_loss(
    module: str, image_splits: Path, tmp_path: Path
) -> None:
    weights = {SHAPES[0]: 3.0}
    section = of_images(loss=f"{module}:Focal", loss_args={"gamma": 1.5}, class_weights=weights)
    history = trained(section, "image_classification", image_splits, tmp_path / "checkpoint")
    validation = read_images(image_splits, "validation")
    labels = torch.from_numpy(validation.labels)
    with torch.no_grad():
        logits = load_model(tmp_path / "checkpoint")(torch.from_numpy(validation.images))
    chosen = logits.softmax(dim=1)[torch.arange(len(labels)), labels]
    expected = float((-((1 - chosen) ** 1.5) * chosen.log()).mean())
    assert history["epochs"][0]["validation"]["loss"] == pytest.approx(expected, rel=1e-4)
    task = section_task(section, image_splits)
    targets = torch.tensor([0, 1])
    two = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    losses = functional.cross_entropy(two, targets, reduction="none")
    focal = (1 - (-losses).exp()) ** 1.5 * losses
    assert float(task.loss_of(two, targets)) == pytest.approx(float(3 * focal[0] + focal[1]))


def section_task(section: ImageTraining, splits: Path) -> Any:
    from gauntlet.tasks.image_classification.training import load_task

    return load_task(section, splits)


REFUSED_NETWORKS = {
    "no_such_module_at_all:Net": "there is no module 'no_such_module_at_all'",
    "MODULE:Missing": "has no 'Missing'. It has: .*Small",
    "MODULE:not_a_class": "a int, expected a class or a function",
    "MODULE:no_module": "made a list, expected a torch.nn.Module",
    "MODULE:Wanting": "missing a required argument: 'depth_of_field'.*Of these it gets.*input_shape",
    "MODULE:Raising": "could not be made with .*RuntimeError: no such weights",
    "MODULE:WrongShape": r"for 3 rows .* returned a float32 tensor of shape \(3, 2\), expected a float "
    r"tensor of shape \(3, 3\)",
    "MODULE:Dropping": "is not deterministic: in eval mode the same rows gave two different outputs",
    "MODULE:NotANumber": "returns NaN or infinity for the first rows",
    "MODULE:Spectrum": "cannot be exported to ONNX, so it could not be served: .*aten::linalg_svd",
    "MODULE:Failing": r"failed in forward, given a float32 tensor of shape \(3, 1, 16, 16\): RuntimeError",
    "MODULE:Nothing": "has no parameter with a gradient",
}

REFUSED_LOSSES = {
    "torch.nn:CrossEntropyLoss": r"returned a float32 tensor of shape \(\), expected .* shape \(3,\)",
    "MODULE:Learned": "has parameters, which nothing trains",
    "MODULE:Infinite": "returns NaN or infinity for the first rows",
    "torch.nn:Threshold": "missing a required argument: 'threshold'",
}


@pytest.mark.parametrize(
    ("key", "path", "message"),
    [("network", *one) for one in REFUSED_NETWORKS.items()]
    + [("loss", *one) for one in REFUSED_LOSSES.items()],
)
def test_code_that_is_of_no_use_is_refused_before_training(
    module: str, image_splits: Path, tmp_path: Path, key: str, path: str, message: str
) -> None:
    section = of_images(**{key: path.replace("MODULE", module)})
    with pytest.raises(UsageError, match=message) as refused:
        trained(section, "image_classification", image_splits, tmp_path / "checkpoint")
    assert str(refused.value).startswith(f"training.{key}")
    assert not (tmp_path / "checkpoint").exists()


def test_frozen_parameters_are_not_sharded(module: str, image_splits: Path, tmp_path: Path) -> None:
    section = of_images(network=f"{module}:Frozen", distribution="fsdp2")
    with pytest.raises(UsageError, match=r"has 2 frozen parameters, such as first\.weight\. distribution"):
        trained(section, "image_classification", image_splits, tmp_path / "checkpoint")


def with_backbone(module: str, name: str) -> ImageTraining:
    return of_images(backbone={"name": f"{module}:{name}", "freeze": "none"}, units=0)


def test_a_backbone_of_the_users_own_is_tried_before_training(
    module: str, image_splits: Path, tmp_path: Path
) -> None:
    section = with_backbone(module, "noisy_features")
    with pytest.raises(UsageError, match=r"training\.backbone\.name: .*noisy_features is not deterministic"):
        trained(section, "image_classification", image_splits, tmp_path / "checkpoint")


def test_the_code_of_a_backbone_is_recorded_and_no_other_code_is_run_for_its_checkpoint(
    module: str, image_splits: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    section = with_backbone(module, "features")
    trained(section, "image_classification", image_splits, folder)
    path = f"{module}:features"
    record = read_record(folder)
    assert (record.network, record.network_sha256) == (path, code_sha256(path))
    assert len(load_model(folder).backbone) == 2
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"backbone": f"{module}:noisy_features"}))
    with pytest.raises(UsageError, match=r"found .*:noisy_features, expected .*:features, the network in"):
        load_model(folder)
    (tmp_path / "beside" / f"{module}.py").write_text(NETWORKS.replace("nn.ReLU()", "nn.Tanh()"))
    with pytest.raises(UsageError, match="whose code has changed since the training"):
        load_model(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "models.MyNet"}, "String should match pattern"),
        ({"network_args": {"width": 3}}, "network_args without network"),
        ({"loss": "a:B", "label_smoothing": 0.1}, "label_smoothing is of the loss that a:B replaces"),
        ({"network": "a:B", "network_args": {"width": None}}, "without nulls"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of_images(**settings)


def test_a_student_is_not_made_of_a_network_of_the_users_own() -> None:
    with pytest.raises(ValueError, match="either `student` or `network`, because"):
        TextTraining(network="a:B", student=Student(layers=(0,)))


def test_a_kind_that_takes_no_network_says_so() -> None:
    from gauntlet.tasks.causal_lm.manifest import LanguageTraining

    with pytest.raises(ValueError, match="this task kind takes no network of your own"):
        LanguageTraining.model_validate({"model": "m", "network": "a:B"})


def test_a_module_beside_the_manifest_never_takes_the_place_of_an_installed_one(
    module: str, tmp_path: Path
) -> None:
    (tmp_path / "beside" / "json.py").write_text("Net = None")
    assert resolve(f"{module}:Small", "training.network").__name__ == "Small"
    assert resolve("json:loads", "training.network") is json.loads
