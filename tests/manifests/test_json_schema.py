"""The JSON Schema of manifests: that of the committed file, and what it takes and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from gauntlet.manifests.json_schema import manifest_json_schema, manifest_schema_text
from gauntlet.pipelines.cli import app

MANIFESTS = Path(__file__).parents[2] / "manifests"
COMMITTED = MANIFESTS / "manifest.schema.json"
SHIPPED = sorted(MANIFESTS.glob("*.yaml"))


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    found = manifest_json_schema()
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


def content(name: str) -> Any:
    return yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text())


def test_the_committed_schema_is_that_of_the_code() -> None:
    assert COMMITTED.read_text() == manifest_schema_text(), (
        "stale: run `gauntlet schema --output manifests/manifest.schema.json` and commit it"
    )


def test_the_command_prints_the_schema() -> None:
    printed = CliRunner().invoke(app, ["schema"])
    assert printed.exit_code == 0
    assert json.loads(printed.stdout) == manifest_json_schema()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_manifest_names_the_schema_and_conforms_to_it(
    path: Path, schema: Draft202012Validator
) -> None:
    assert path.read_text().splitlines()[0] == f"# yaml-language-server: $schema={COMMITTED.name}"
    assert list(schema.iter_errors(content(path.stem))) == []


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("training", "epoch", 3, "'epoch' was unexpected"),
        ("training", "epochs", "three", "'three' is not of type 'integer'"),
        ("training", "batch_size", 0, "0 is less than the minimum of 1"),
        ("gates", "min_macro_f1", 1.5, "1.5 is greater than the maximum of 1.0"),
        ("training", "adapter", {"rank": 8}, "'adapter' was unexpected"),  # a key of another task kind
    ],
)
def test_a_fault_of_one_key_is_found(
    section: str, key: str, value: Any, message: str, schema: Draft202012Validator
) -> None:
    faulty = content("emotion_sample")
    faulty[section][key] = value
    found = [error.message for error in schema.iter_errors(faulty)]
    assert len(found) == 1
    assert message in found[0]


def test_an_unknown_task_is_refused_with_the_known_ones(schema: Draft202012Validator) -> None:
    [error] = schema.iter_errors({"name": "a", "task": "text_clasification"})
    assert "'text_clasification' is not one of ['" in error.message
