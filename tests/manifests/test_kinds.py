"""Task kinds that distributions announce, with plug-ins that are broken in each of the ways that happen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gauntlet.manifests.errors import ManifestError, UsageError
from gauntlet.manifests.kinds import TaskKind, installed_kinds, kind_names, task_kind
from gauntlet.manifests.loading import load_manifest
from gauntlet.pipelines.local.step_cache import code_version

BUILT_IN = (
    "causal_lm",
    "image_classification",
    "managed_causal_lm",
    "multi_label_text_classification",
    "ordinal_grading",
    "regression",
    "text_classification",
)
MANIFEST = Path(__file__).parents[2] / "manifests" / "emotion_sample.yaml"
KIND = """
from dataclasses import replace
from gauntlet.tasks.text_classification import KIND
KIND = replace(KIND, {changes})
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one module and one entry point on the path, as pip does."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = []

    def installed(kind: str, source: str, distribution: str = "my_plugin") -> None:
        metadata = tmp_path / f"{distribution}-2.1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.1\n")
        (metadata / "entry_points.txt").write_text(f"[gauntlet.tasks]\n{kind} = {distribution}_code:KIND\n")
        (tmp_path / f"{distribution}_code.py").write_text(source)
        modules.append(f"{distribution}_code")
        installed_kinds.cache_clear()

    yield installed
    for module in modules:
        sys.modules.pop(module, None)
    installed_kinds.cache_clear()


def test_the_built_in_kinds_are_found_like_those_of_a_plug_in() -> None:
    assert kind_names() == BUILT_IN


def test_a_kind_of_a_plug_in_is_a_task_of_manifests(install: Install) -> None:
    install("my_texts", KIND.format(changes=MY_CHANGES) + MY_MANIFEST)
    assert load_manifest(MANIFEST, ["task=my_texts"]).kind.name == "my_texts"


MY_CHANGES = "name='my_texts', manifest='my_plugin_code:MyManifest'"
MY_MANIFEST = """
from typing import Literal
from gauntlet.tasks.text_classification.manifest import TextManifest
class MyManifest(TextManifest):
    task: Literal["my_texts"]
"""


@pytest.mark.parametrize(
    ("kind", "source", "fault"),
    [
        (
            "mine",
            "raise OSError('no CUDA driver')",
            "KIND cannot be imported: OSError: no CUDA driver",
        ),
        ("mine", "1 +", "my_plugin_code:KIND cannot be imported: SyntaxError"),
        ("mine", "", "cannot be imported: AttributeError"),
        ("mine", "KIND = 'mine'", "is a str, expected a gauntlet.manifests.kinds.TaskKind"),
        (
            "mine",
            KIND.format(changes="name='mine', interface=7"),
            "version 7 of the task kind interface",
        ),
        ("mine", KIND.format(changes="name='yours'"), "is named 'yours', but its entry point 'mine'"),
        ("mine", KIND.format(changes="name='mine', role='x'"), "unexpected keyword argument 'role'"),
    ],
)
def test_a_broken_plug_in_is_named_and_the_other_kinds_work(
    install: Install, kind: str, source: str, fault: str
) -> None:
    install(kind, source)
    assert kind_names() == BUILT_IN
    load_manifest(MANIFEST)
    with pytest.raises(ManifestError, match=r"my_plugin 2\.1") as refused:
        load_manifest(MANIFEST, [f"task={kind}"])
    [about_task] = [one for one in refused.value.faults if one.key == "task"]
    assert fault in about_task.action


def test_a_changed_line_of_a_plug_in_changes_the_key_of_cached_steps(
    install: Install, tmp_path: Path
) -> None:
    code_version.cache_clear()
    without = code_version()
    install("mine", KIND.format(changes="name='mine', data='my_plugin_code'"))
    code_version.cache_clear()
    first = code_version()
    with (tmp_path / "my_plugin_code.py").open("a") as module:
        module.write("# another line\n")
    code_version.cache_clear()
    assert len({without, first, code_version()}) == 3
    code_version.cache_clear()


def test_two_kinds_of_one_name_are_both_refused_and_named(install: Install) -> None:
    install("text_classification", KIND.format(changes="title='Mine'"))
    assert kind_names() == tuple(name for name in BUILT_IN if name != "text_classification")
    with pytest.raises(ManifestError) as refused:
        load_manifest(MANIFEST)
    assert "2 distributions provide a task kind of this name" in str(refused.value)
    assert "gauntlet 0.1.0, my_plugin 2.1" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("report=''", "task kind mine: has no report module"),
        (
            "report='my_plugin_code.missing'",
            "task kind mine: report: my_plugin_code.missing cannot be",
        ),
        ("report='my_plugin_code'", "task kind mine: found no `sections` in my_plugin_code"),
    ],
)
def test_a_kind_without_a_role_is_refused_where_the_role_is_needed(
    install: Install, changes: str, message: str
) -> None:
    install("mine", KIND.format(changes=f"name='mine', {changes}"))
    with pytest.raises(UsageError) as refused:
        task_kind("mine").function("report", "sections")
    assert str(refused.value).startswith(message)


def test_a_manifest_class_that_is_not_there_is_a_fault_of_the_task(install: Install) -> None:
    install("mine", KIND.format(changes="name='mine', manifest='my_plugin_code:Mine'"))
    with pytest.raises(ManifestError, match="task kind mine: manifest: found no 'Mine' in my_plugin_code"):
        load_manifest(MANIFEST, ["task=mine"])


def test_reading_a_manifest_of_every_kind_loads_no_torch() -> None:
    names = [file.name for file in sorted(MANIFEST.parent.glob("*.yaml"))]
    code = (
        "import sys; from pathlib import Path; from gauntlet.manifests.loading import load_manifest\n"
        f"for name in {names}: load_manifest(Path({str(MANIFEST.parent)!r}) / name)\n"
        "print(sorted({'torch', 'pandas', 'kfp', 'transformers', 'onnxruntime'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_a_kind_names_at_least_one_metric_and_all_are_distinct() -> None:
    for one in installed_kinds():
        assert isinstance(one.kind, TaskKind)
        names = [metric.name for metric in one.kind.metrics]
        assert names
        assert len(set(names)) == len(names)
