from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gauntlet.manifests.errors import ManifestError
from gauntlet.manifests.loading import load_manifest, save_manifest
from gauntlet.manifests.schema import Manifest, as_parameter
from gauntlet.manifests.search import Dimension
from gauntlet.tasks.text_classification.manifest import TextTraining

CONTENT: dict[str, Any] = {
    "name": "demo",
    "description": "A demonstration",
    "task": "text_classification",
    "dataset": {"name": "demo", "version": "1", "uri": "data.csv", "labels": ["yes", "no"]},
    "gates": {"min_macro_f1": 0.5},
}


def load(tmp_path: Path, search: str | None, **training: Any) -> Manifest:
    path = tmp_path / "demo.yaml"
    space = {} if search is None else {"search": yaml.safe_load(search)}
    path.write_text(yaml.safe_dump({**CONTENT, "training": {**training, **space}}))
    return load_manifest(path)


@pytest.mark.parametrize(
    ("search", "key", "words"),
    [
        ("{lerning_rate: {low: 0.1, high: 0.2}}", "training.search.lerning_rate", "learning_rate"),
        ("{encoder: {choices: [a, b]}}", "training.search.encoder", "a key that nothing reads"),
        ("{learning_rate: {low: 0.2, high: 0.1}}", "training.search.learning_rate", "0.2 is not under 0.1"),
        ("{epochs: {low: 3, high: 3}}", "training.search.epochs", "3 is not under 3"),
        ("{weight_decay: {low: 0, high: 0.1, log: true}}", "training.search.weight_decay", "over 0"),
        ("{schedule: {choices: [linear, cosin]}}", "training.search.schedule", "cosin"),
        ("{epochs: {choices: [3, 4.5]}}", "training.search.epochs", "4.5"),
        ("{learning_rate: {choices: [5e-5, 1e-4]}}", "training.search.learning_rate", "5e-5"),
        ("{schedule: {low: 1, high: 2}}", "training.search.schedule", "linear"),
        ("{dropout: {low: 0.1, high: 1.0}}", "training.search.dropout", "less than 1"),
        ("{epochs: {low: 0, high: 4}}", "training.search.epochs", "greater than or equal to 1"),
        ("{epochs: {low: 1, high: 4, step: 2}}", "training.search.epochs", "step"),
        ("{epochs: {low: 1, high: 2, step: 0.5}}", "training.search.epochs", "1.5"),
        ("{epochs: {low: 1}}", "training.search.epochs", "low and high, or choices"),
        ("{dropout: {choices: [0.1]}}", "training.search.dropout.choices", "at least 2"),
        ("{dropout: {choices: [0.1, 0.2], low: 0}}", "training.search.dropout", "choices without"),
        ("{dropout: {choices: [0.1, 0.1]}}", "training.search.dropout", "differ"),
        ("{}", "training.search", "at least one of"),
    ],
)
def test_a_space_that_no_training_could_use_is_a_fault_that_names_the_key(
    tmp_path: Path, search: str, key: str, words: str
) -> None:
    with pytest.raises(ManifestError) as raised:
        load(tmp_path, search)
    [fault] = raised.value.faults
    assert fault.key == key
    assert words in str(fault)


def test_all_keys_with_a_fault_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as raised:
        load(
            tmp_path,
            "{epochs: {low: 0, high: 4}, dropout: {low: 0.1, high: 2}, max_length: {low: 8, high: 9}}",
        )
    assert [fault.key for fault in raised.value.faults] == [
        "training.search.epochs",
        "training.search.dropout",
    ]


def test_a_value_inside_a_range_is_held_against_the_rest_of_the_section(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as raised:
        load(tmp_path, "{batch_size: {low: 8, high: 16}}", gradient_accumulation=4, batch_size=8)
    assert "multiple of gradient_accumulation 4" in str(raised.value)
    assert load(tmp_path, "{batch_size: {low: 8, high: 16, step: 4}}", gradient_accumulation=4, batch_size=8)


def test_nothing_that_a_training_depends_on_depends_on_the_space(tmp_path: Path) -> None:
    narrow, wide = (load(tmp_path, f"{{epochs: {{low: 1, high: {high}}}}}") for high in (2, 9))
    assert narrow.training.search != wide.training.search
    none = load(tmp_path, None)
    assert narrow.sha256 == wide.sha256 == none.sha256
    assert as_parameter(narrow.training) == as_parameter(TextTraining())
    save_manifest(narrow, tmp_path / "saved.yaml")
    assert load_manifest(tmp_path / "saved.yaml") == none


def test_a_range_with_a_step_lists_its_values_and_both_ends() -> None:
    assert Dimension(low=1, high=7, step=2).listed() == (1, 3, 5, 7)
    assert Dimension(low=0.0, high=0.3, step=0.1).listed() == (0.0, 0.1, 0.2, 0.3)
    assert Dimension(choices=("linear", "cosine")).listed() == ("linear", "cosine")
    assert Dimension(low=0.0, high=0.3).listed() is None


@pytest.mark.parametrize(
    ("dimension", "inside", "outside"),
    [
        (Dimension(low=1, high=7, step=2), 3, 4),
        (Dimension(low=0.1, high=0.3), 0.3, 0.31),
        (Dimension(low=0.0, high=0.5, step=0.1), 0.3, 0.35),
        (Dimension(low=0.0, high=0.6, step=0.05), 0.15000000000000002, 0.16),
        (Dimension(low=0.1, high=0.7, step=0.2), 0.1 + 0.2, 0.4),
        (Dimension(choices=("linear", "cosine")), "cosine", "constant"),
    ],
)
def test_a_dimension_knows_its_values(dimension: Dimension, inside: Any, outside: Any) -> None:
    assert dimension.holds(inside)
    assert not dimension.holds(outside)
