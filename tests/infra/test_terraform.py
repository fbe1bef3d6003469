"""infra/ as Terraform itself reads it, with the provider's schema and no Google Cloud."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.provider import Provider
from tests.infra.provider_schema import CONFIGURATION, SCHEMA, used_types

NEEDS = Path("pipelines/doctor/needs.yaml")

pytestmark = pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    server = Provider()
    yield server
    server.close()


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A copy of infra/, with what it reads beside it."""
    shutil.copytree(CONFIGURATION, tmp_path / "infra", ignore=shutil.ignore_patterns(".terraform*"))
    (tmp_path / NEEDS).parent.mkdir(parents=True)
    shutil.copy(CONFIGURATION.parent / NEEDS, tmp_path / NEEDS)
    return tmp_path / "infra"


def terraform(folder: Path, provider: Provider, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), "CHECKPOINT_DISABLE": "1"}
    return subprocess.run(
        ["terraform", *arguments],
        cwd=folder,
        env=environment | provider.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def initialized(folder: Path, provider: Provider) -> Path:
    done = terraform(folder, provider, "init", "-backend=false", "-input=false", "-no-color")
    assert done.returncode == 0, done.stderr
    return folder


def test_every_file_is_written_as_terraform_writes_it(configuration: Path, provider: Provider) -> None:
    done = terraform(configuration, provider, "fmt", "-check", "-recursive", "-diff", "-no-color")

    assert done.stdout == ""
    assert done.returncode == 0


def test_terraform_finds_no_fault_in_it(configuration: Path, provider: Provider) -> None:
    done = terraform(initialized(configuration, provider), provider, "validate", "-no-color")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("uniform_bucket_level_access = true", "uniform_access = true", "Unsupported argument"),
        ("  location = var.region\n", "", 'The argument "location" is required'),
        ("force_destroy               = false", 'force_destroy = "never"', "a bool is required"),
        ("  versioning {", "  versions {", "Unsupported block type"),
    ],
)
def test_terraform_knows_what_the_provider_takes(
    configuration: Path, provider: Provider, old: str, new: str, complaint: str
) -> None:
    file = configuration / "storage.tf"
    assert old in file.read_text(encoding="utf-8")
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")

    done = terraform(initialized(configuration, provider), provider, "validate", "-no-color")

    assert complaint in " ".join(done.stderr.split())


def test_what_would_be_made_is_what_was_asked_for(configuration: Path, provider: Provider) -> None:
    done = terraform(initialized(configuration, provider), provider, "test", "-no-color")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout


def test_the_schema_is_of_the_types_that_are_used_and_of_the_pinned_provider() -> None:
    schema = json.loads(gzip.decompress(SCHEMA.read_bytes()))
    held = set(schema["resource_schemas"]) | {f"data.{name}" for name in schema["data_source_schemas"]}
    pinned = (CONFIGURATION / "versions.tf").read_text(encoding="utf-8")

    assert held == used_types()
    assert f'"~> {schema["version"].rpartition(".")[0]}"' in pinned
    assert not any("key" in name for name in held)
