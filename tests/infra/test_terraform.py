"""infra/ as Terraform itself reads it, with the provider's schema and no Google Cloud."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.provider import Provider
from tests.infra.provider_schema import CONFIGURATION, SCHEMA, used_types

NEEDS = Path("pipelines/vertex/needs.yaml")

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


def test_nothing_is_made_before_the_apis_that_it_needs_are_enabled(
    configuration: Path, provider: Provider
) -> None:
    local_state = (
        'terraform {\n  backend "local" {}\n}\n'  # `graph` wants the backend, and Google's is out of reach
    )
    (configuration / "backend_override.tf").write_text(local_state, encoding="utf-8")
    assert terraform(configuration, provider, "init", "-input=false", "-no-color").returncode == 0
    done = terraform(configuration, provider, "graph")
    assert done.returncode == 0, done.stderr
    nodes = set(re.findall(r'^ *"([^"]+)" \[', done.stdout, re.MULTILINE))
    waits_for: dict[str, set[str]] = {node: set() for node in nodes}
    for later, earlier in re.findall(r'^ *"([^"]+)" -> "([^"]+)"', done.stdout, re.MULTILINE):
        waits_for[later].add(earlier)

    apis = "google_project_service.needed"
    after_the_apis = {apis}
    while more := {node for node in nodes - after_the_apis if waits_for[node] & after_the_apis}:
        after_the_apis |= more

    assert len(nodes) > 20
    assert nodes - after_the_apis == set()


def test_an_account_of_googles_own_is_granted_something_only_once_it_exists() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in CONFIGURATION.glob("*.tf"))

    assert "gcp-sa-" not in text  # names that Google makes up are asked for, which makes the accounts
    assert text.count("google_project_service_identity.pubsub.member") == 3


def test_the_schema_is_of_the_types_that_are_used_and_of_the_pinned_provider() -> None:
    schema = json.loads(gzip.decompress(SCHEMA.read_bytes()))
    held = set(schema["resource_schemas"]) | {f"data.{name}" for name in schema["data_source_schemas"]}
    pinned = (CONFIGURATION / "versions.tf").read_text(encoding="utf-8")

    assert held == used_types()
    assert f'"~> {schema["version"].rpartition(".")[0]}"' in pinned
    assert not any("key" in name for name in held)
