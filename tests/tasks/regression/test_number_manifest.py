"""The manifest of the task kind regression: defaults by input, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gauntlet.manifests.errors import ManifestError
from gauntlet.manifests.loading import load_manifest
from gauntlet.pipelines.smoke import overrides, tiny_settings
from gauntlet.tasks.regression.data import examine
from gauntlet.tasks.regression.manifest import RegressionManifest

TEXTS = {"columns": {"text": "review", "target": "stars"}}
IMAGES = {"columns": {"image": "path", "target": "grade"}, "shape": [64, 48]}


def manifest(folder: Path, dataset: dict[str, Any], **sections: Any) -> RegressionManifest:
    content = {
        "name": "numbers",
        "description": "Numbers",
        "task": "regression",
        "dataset": {"name": "numbers", "version": "1", "uri": "data.csv", **dataset},
        "gates": {"max_mae": 1.0},
    }
    path = folder / "numbers.yaml"
    path.write_text(yaml.safe_dump(content | sections))
    loaded = load_manifest(path)
    assert isinstance(loaded, RegressionManifest)
    return loaded


def test_the_defaults_follow_from_the_column_of_the_input(tmp_path: Path) -> None:
    texts, images = manifest(tmp_path, TEXTS).training, manifest(tmp_path, IMAGES).training
    assert (texts.arch, texts.epochs, texts.architecture) == ("encoder", 4, "all-MiniLM-L6-v2")
    assert (images.arch, images.epochs, images.learning_rate) == ("plain_cnn", 30, 1e-3)
    assert images.early_stopping.metric == "mae"
    assert manifest(tmp_path, IMAGES, training={"epochs": 3}).training.epochs == 3


@pytest.mark.parametrize(
    ("dataset", "sections", "fault"),
    [
        ({"columns": {"target": "stars"}}, {}, "set one of the two"),
        ({"columns": {"text": "a", "image": "b"}}, {}, "set one of the two"),
        ({"columns": {"text": "a", "target": "a"}}, {}, "columns.target and columns.text are both a"),
        ({"columns": {"image": "path"}}, {}, "shape: found nothing"),
        (TEXTS | {"shape": [8, 8]}, {}, "shape is for images"),
        (TEXTS | {"target": {"min": 5, "max": 1}}, {}, "target.min 5 is not under target.max 1"),
        (TEXTS, {"gates": {"min_r2": 1.5}}, "min_r2"),
        (IMAGES, {"conversion": {"student": {"max_metric_drop": 0.1}}}, "conversion.student is for models"),
        (TEXTS, {"gates": {"max_slice_mae": 1.0}}, "expected at least one bound"),
        (TEXTS, {"gates": {"max_mae": 1, "min_interval_coverage": 0.9}}, "expected less than"),
        (
            TEXTS,
            {"gates": {"max_mae": 1, "min_interval_coverage": 0.8}, "training": {"interval_coverage": 0.8}},
            "expected less than training.interval_coverage, 0.8",
        ),
        (TEXTS, {"training": {"loss": "cross_entropy"}}, "training.loss"),
        (TEXTS, {"training": {"label_smoothing": 0.1}}, "label_smoothing is for classes"),
        (TEXTS, {"training": {"early_stopping": {"metric": "macro_f1"}}}, "early_stopping.metric"),
        (TEXTS, {"training": {"filters": [8]}}, "training.filters is not for rows of texts"),
        (TEXTS, {"training": {"arch": "resnet"}}, "training.arch: found resnet, expected encoder"),
        (IMAGES, {"training": {"max_length": 64}}, "training.max_length is not for rows of images"),
        (IMAGES, {"training": {"arch": "encoder"}}, "expected plain_cnn or resnet for rows of images"),
    ],
)
def test_what_does_not_fit_is_refused(
    dataset: dict[str, Any], sections: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError) as error:
        manifest(tmp_path, dataset, **sections)
    assert fault in str(error.value)


@pytest.mark.parametrize("dataset", [TEXTS, IMAGES], ids=["texts", "images"])
def test_a_smoke_run_draws_rows_that_pass_the_checks(dataset: dict[str, Any], tmp_path: Path) -> None:
    remote = dataset | {"uri": "gs://nowhere/at-all.csv", "target": {"min": 1, "max": 5}}
    settings, rows = tiny_settings(manifest(tmp_path, remote), tmp_path / "scratch")
    tiny = load_manifest(tmp_path / "numbers.yaml", overrides(settings))
    assert rows == "drawn"
    assert isinstance(tiny, RegressionManifest)
    assert tiny.training.total_epochs == 1
    found = examine(tiny.dataset)
    assert found.checked.failed == ()
    assert min(found.statistics.rows.values()) >= 30
