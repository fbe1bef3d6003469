from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import classification_report

from gauntlet.backends.factory import open_tracking
from gauntlet.backends.local.mlflow_database import open_client
from gauntlet.tasks.classification.training import confusion_counts
from gauntlet.trainer.tracking import class_names, class_report, tracked_class_metrics

LABELS = ("T-shirt/top", "Shirt", "Bag & purse")


def test_counts_of_batches_add_up_to_scikit_learns_figures_of_all_rows() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(200, 3, generator=generator)
    labels = torch.randint(0, 3, (200,), generator=generator)
    parts = [confusion_counts(logits[rows], labels[rows]) for rows in torch.arange(200).split(17)]
    confusion = torch.stack(parts).sum(dim=0).view(3, 3).tolist()
    expected = classification_report(
        labels.numpy(), logits.argmax(dim=1).numpy(), target_names=LABELS, output_dict=True
    )
    found = tracked_class_metrics(confusion, LABELS)
    for label, name in zip(LABELS, ("T-shirt_top", "Shirt", "Bag _ purse"), strict=True):
        for figure, key in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert found[f"validation_{figure}.{name}"] == pytest.approx(expected[label][key])


def test_every_name_is_one_that_mlflow_takes_and_counts_by_epochs(tmp_path: Path) -> None:
    metrics = tracked_class_metrics(np.eye(3, dtype=int).tolist(), LABELS)
    database = f"sqlite:///{tmp_path / 'gauntlet.db'}"
    with open_tracking(database, "shapes", "run", {}) as run:
        run.log_metrics(metrics, step=1)
    [found] = open_client(tmp_path / "gauntlet.db").search_runs(["1"])
    assert len(metrics) == 9 and found.data.metrics == metrics
    assert not any("/" in name for name in metrics)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("😀", "😡", "neutral"), ["grinning face", "pouting face", "neutral"]),
        (("<50K", ">50K"), ["less-than sign 50K", "greater-than sign 50K"]),
        (("C+", "C#", "C"), ["C plus sign", "C number sign", "C"]),
        (("C+", "C plus sign", "C_"), ["C plus sign.0", "C plus sign", "C_"]),
        (("yes", "Yes", "yes.0"), ["yes.0.0", "Yes", "yes.0"]),
        (("x" * 300 + "1", "x" * 300 + "2"), ["x" * 200 + ".0", "x" * 200]),
    ],
)
def test_classes_never_share_a_tracked_metric(labels: tuple[str, ...], names: list[str]) -> None:
    from mlflow.utils.validation import _validate_metric_name  # by now `open_client` has set MLflow up

    assert class_names(labels) == names
    confusion = np.eye(len(labels), dtype=int).tolist()
    metrics = tracked_class_metrics(confusion, labels)
    assert len(metrics) == 3 * len(labels)
    for name in metrics:
        _validate_metric_name(name)


def test_the_report_lists_the_commonest_mistakes_first_and_no_others() -> None:
    report = class_report([[90, 10, 0], [25, 75, 0], [0, 0, 0]], LABELS)
    assert report.splitlines()[2] == "Shirt           0.8824  0.7500  0.8108    100"  # 75 / 85, 150 / 185
    assert report.splitlines()[3] == "Bag & purse     0.0000  0.0000  0.0000      0"
    assert report.splitlines()[-2:] == [
        "   25  Shirt taken for T-shirt/top",
        "   10  T-shirt/top taken for Shirt",
    ]
