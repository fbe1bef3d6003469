"""Images with numbers: their table and checks, and the task that trains on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional

from gauntlet.components.validate_data.run import run as validate_data
from gauntlet.contracts.data import STATISTICS_FILE, CheckResult
from gauntlet.tasks.regression.data import Statistics, examine, sources
from gauntlet.tasks.regression.manifest import RegressionDataset, RegressionTraining
from gauntlet.tasks.regression.metrics import measure
from gauntlet.tasks.regression.rows import read_rows
from gauntlet.tasks.regression.tiny import write_images
from gauntlet.tasks.regression.training import ImageRegression, Numbers, load_task

SHAPE = (16, 12)
WARN = {"severity": "warn"}


def dataset(uri: Path, **changes: Any) -> RegressionDataset:
    content = {
        "name": "bright",
        "version": "1",
        "uri": str(uri),
        "columns": {"image": "path", "target": "grade"},
        "shape": SHAPE,
        "checks": {"near_duplicates": WARN, "leakage": WARN},
    }
    return RegressionDataset.model_validate(content | changes)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """300 images, the brighter the higher their grade from 1 to 10."""
    return write_images(tmp_path, np.linspace(1, 10, 300), ("path", "grade"), SHAPE)


def result(uri: Path, check: str) -> CheckResult:
    return next(one for one in examine(dataset(uri)).checked.results if one.check == check)


def test_the_splits_hold_pixels_and_numbers(table: Path) -> None:
    found = examine(dataset(table))
    assert found.checked.failed == ()
    assert isinstance(found.statistics, Statistics)
    assert found.statistics.shape == SHAPE and found.statistics.resize == "stretch"
    content = found.content("test")
    assert content["images"].shape == (len(content["target"]), *SHAPE, 3)  # type: ignore[index]
    assert found.statistics.rows["test"] == len(content["target"])  # type: ignore[index]
    brightness = content["images"].mean(axis=(1, 2, 3))  # type: ignore[index, union-attr, call-overload]
    assert np.corrcoef(brightness, content["target"])[0, 1] > 0.99  # type: ignore[index]
    assert found.pictures[0].label == "below 2.8"
    assert len(sources(dataset(table))) == 301


def test_faults_of_rows_are_named_with_file_and_line(table: Path) -> None:
    rows = pd.read_csv(table, dtype=str)
    rows.loc[3, "grade"] = "good"
    rows.loc[4, "path"] = "nowhere.png"
    rows.loc[5, "grade"] = None
    rows.to_csv(table, index=False)
    (table.parent / rows.at[6, "path"]).write_bytes(b"")
    assert result(table, "invalid_targets").examples[0].startswith("images.csv line 5: found “good”")
    assert result(table, "empty_values").examples == ("images.csv line 7: no target",)
    unreadable = result(table, "unreadable_images")
    assert unreadable.verdict == "fail" and unreadable.rows_affected == 2
    assert unreadable.examples[0].startswith("images.csv line 6: ")
    assert "empty file" in unreadable.examples[1]


def test_the_same_image_with_another_number_conflicts(table: Path) -> None:
    rows = pd.read_csv(table, dtype=str)
    pd.concat([rows, rows.iloc[[0]].assign(grade="9")]).to_csv(table, index=False)
    check = result(table, "conflicting_targets")
    assert check.verdict == "fail" and check.rows_affected == 2
    assert check.examples[0].endswith("1 (images.csv line 2), 9 (images.csv line 302)")


@pytest.fixture
def splits(table: Path, tmp_path: Path) -> Path:
    """Written by validate-data."""
    folder = tmp_path / "splits"
    validate_data("regression", dataset(table), folder, tmp_path / "checks.json", tmp_path / "page.html")
    return folder


def training(**changes: Any) -> RegressionTraining:
    content = {"arch": "plain_cnn", "filters": [4], "units": 0, "dropout": 0, "head_dropout": 0}
    return RegressionTraining.model_validate(content | changes)


def test_a_task_learns_standardised_numbers_and_scores_in_their_unit(splits: Path, tmp_path: Path) -> None:
    (splits / "test.npz").unlink()  # `gauntlet tune` never sees it
    task = load_task(training(), splits)
    assert isinstance(task, ImageRegression)
    model = task.build_model()
    train, validation = read_rows(splits, "train"), read_rows(splits, "validation")
    loss, tally = task.loss_sum(model, task.training_batch(range(8), (0, 1)))
    with torch.no_grad():
        answers = model(torch.from_numpy(np.asarray(train.inputs)[:8]))[:, 0]
        scaled = [
            (values - train.targets.mean()) / train.targets.std() for values in (answers, train.targets[:8])
        ]
        expected = functional.huber_loss(scaled[0], torch.from_numpy(scaled[1]).float(), reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    found = task.training_metrics(tally.tolist())
    assert found == pytest.approx(measure(train.targets[:8], answers.double().numpy()), rel=1e-4)
    model.eval()
    with torch.no_grad():
        outputs = task.outputs(model, task.validation_batch(range(len(validation)), 1))
    metrics = task.metrics(outputs)
    assert set(metrics) == {"loss", "mae", "rmse", "r2"}
    assert metrics["mae"] == pytest.approx(
        np.abs(outputs[:, 0].numpy() - validation.targets).mean(), rel=1e-5
    )
    task.save(model, {name: one.contiguous() for name, one in model.state_dict().items()}, tmp_path)
    assert {"target.json", "config.json", "preprocessing.json", "model.safetensors"} <= {
        file.name for file in tmp_path.iterdir()
    }


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("mse", [0.0, 0.25, 9.0]), ("mae", [0.0, 0.5, 3.0]), ("huber", [0.0, 0.125, 2.5])],
)
def test_a_loss_is_of_standardised_errors(loss: str, expected: list[float], splits: Path) -> None:
    train, validation = (read_rows(splits, split).targets for split in ("train", "validation"))
    statistics = Statistics.read(splits / STATISTICS_FILE)
    numbers = Numbers(training(loss=loss), statistics, train, validation, {})
    targets = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
    std = numbers.target.std
    errors = torch.tensor([0.0, 0.5 * std, -3 * std], dtype=torch.float64)
    answers = (targets + errors).view(-1, 1)
    assert numbers.losses(answers, targets).tolist() == pytest.approx(expected, abs=1e-9)


def test_an_image_of_the_wrong_size_for_the_network_is_a_clear_fault(splits: Path) -> None:
    from gauntlet.manifests.errors import UsageError

    with pytest.raises(UsageError, match="found 5 blocks, expected at most 3 for images of 16 × 12"):
        load_task(training(filters=[4, 4, 4, 4, 4]), splits)


def test_pictures_of_any_mode_are_read(table: Path) -> None:
    Image.new("RGBA", (50, 40), (10, 20, 30, 128)).save(table.parent / "000.png")
    Image.new("L", (9, 12), 200).save(table.parent / "001.png")
    assert result(table, "unreadable_images").verdict == "pass"
