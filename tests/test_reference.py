"""docs/reference: that it is of the code as it is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "docs/reference"
ROOMS = (
    "manifests",
    "contracts",
    "pages",
    "backends",
    "trainer",
    "tasks",
    "components",
    "serving",
    "pipelines",
)
VARIABLE = re.compile(r"\bGAUNTLET_[A-Z_]*[A-Z]\b")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate_reference", REPOSITORY / "docs/generate_reference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_those_of_the_code(generator: ModuleType) -> None:
    pages = generator.pages()
    stale = [name for name, text in pages.items() if (FOLDER / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run `python docs/generate_reference.py` and commit what it writes"
    kept = {str(path.relative_to(FOLDER)) for path in FOLDER.glob("manifest/*.md")}
    assert kept == {name for name in pages if name.startswith("manifest/")}


def test_every_key_of_a_shipped_manifest_has_its_row(generator: ModuleType) -> None:
    page = generator.pages()["manifest/text_classification.md"]
    for key in ("max_length", "rows_per_class", "min_macro_f1", "max_hours", "promotion"):
        assert f"| `{key}` |" in page
    assert "| `learning_rate` | number over 0 under 1 | `0.0001` |" in page


def test_every_environment_variable_is_listed() -> None:
    files = [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")]
    used = {name for path in files for name in VARIABLE.findall(path.read_text(encoding="utf-8"))}
    listed = set(VARIABLE.findall((FOLDER / "environment.md").read_text(encoding="utf-8")))
    assert {name for name in used - listed if not name.startswith("GAUNTLET_TRIGGER_")} == set()
    assert listed - used == set()
