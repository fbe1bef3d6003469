"""What a manifest with several labels per text may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gauntlet.manifests.errors import ManifestError
from gauntlet.manifests.loading import load_manifest


@pytest.fixture
def faults(tmp_path):
    """What is wrong with the smallest manifest after changes to its sections, in words by key."""

    def refused(task: str = "multi_label_text_classification", **changes: dict[str, Any]) -> dict[str, str]:
        content: dict[str, Any] = {
            "name": "m",
            "description": "d",
            "task": task,
            "dataset": {"name": "d", "version": "1", "uri": "a.csv", "labels": ["joy", "fear"]},
            "gates": {"min_macro_f1": 0.5},
        }
        for section, keys in changes.items():
            content[section] = content.get(section, {}) | keys
        path = tmp_path / "m.yaml"
        path.write_text(yaml.safe_dump(content))
        try:
            load_manifest(path)
        except ManifestError as error:
            return {fault.key: f"{fault.found} | {fault.expected}" for fault in error.faults}
        return {}

    return refused


def test_the_smallest_manifest_and_the_example_are_right(faults) -> None:
    assert faults() == {}
    example = load_manifest(Path(__file__).parents[3] / "examples" / "goemotions.yaml")
    assert len(example.dataset.labels) == 7


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"dataset": {"labels": []}}, "dataset.labels", "at least 2"),
        ({"dataset": {"labels": ["joy"]}}, "dataset.labels", "at least 2"),
        ({"dataset": {"labels": ["joy", "joy"]}}, "dataset", "joy is repeated"),
        ({"dataset": {"labels": ["joy", "a,b"]}}, "dataset", "'a,b', which contains the label_separator ','"),
        (
            {"dataset": {"columns": {"label": ["a", "b", "c"]}}},
            "dataset",
            "columns.label: found 3 columns, expected 2",
        ),
        ({"dataset": {"labels_per_row": "many"}}, "dataset", "Remove the key: the task says it"),
        (
            {"training": {"positive_weights": {"anger": 2.0}}},
            None,
            "training.positive_weights: found anger, expected some of dataset.labels: joy, fear",
        ),
        ({"training": {"positive_weights": "some"}}, "training.positive_weights", "none, balanced, or"),
        ({"gates": {"min_label_f1": {"anger": 0.2}}}, None, "gates.min_label_f1: found anger"),
        ({"training": {"early_stopping": {"metric": "weighted_f1"}}}, "training.early_stopping.metric", ""),
    ],
)
def test_what_cannot_be_right_is_refused(faults, changes, key, words) -> None:
    found = faults(**changes)
    assert len(found) == 1
    if key is not None:
        assert list(found) == [key]
    assert words in next(iter(found.values()))


def test_a_separator_may_be_part_of_a_label_if_another_one_separates(faults) -> None:
    assert faults(dataset={"labels": ["joy", "a,b"], "label_separator": "|"}) == {}
    assert faults(dataset={"labels": ["joy", "a,b"], "columns": {"label": ["joy", "a,b"]}}) == {}


@pytest.mark.parametrize(
    "keys", [{"labels_per_row": "many"}, {"columns": {"label": ["joy", "fear"]}}], ids=["key", "columns"]
)
def test_a_manifest_with_one_label_per_text_names_the_kind_for_several(faults, keys) -> None:
    found = faults("text_classification", dataset=keys)
    assert "If a row can have several labels, set task: multi_label_text_classification" in found["dataset"]
