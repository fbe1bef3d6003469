from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from gauntlet.manifests.errors import ManifestError
from gauntlet.manifests.kinds import kind_names
from gauntlet.manifests.loading import load_manifest, save_manifest
from gauntlet.manifests.schema import SECTIONS, Manifest, as_parameter
from gauntlet.tasks.image_classification.manifest import ImageTraining
from gauntlet.tasks.text_classification.manifest import TextTraining

MINIMAL: dict[str, Any] = {
    "name": "demo",
    "description": "A demonstration",
    "task": "text_classification",
    "dataset": {"name": "demo", "version": "1", "uri": "data.csv", "labels": ["yes", "no"]},
    "gates": {"min_macro_f1": 0.5},
}
IMAGES: dict[str, Any] = {
    **MINIMAL,
    "task": "image_classification",
    "dataset": {"name": "demo", "version": "1", "uri": "data", "labels": ["a", "b"], "shape": [28, 28]},
}


@pytest.fixture
def write(tmp_path: Path):
    def write_manifest(content: Any, name: str = "demo.yaml") -> Path:
        path = tmp_path / name
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    return write_manifest


def changed(**sections: Any) -> dict[str, Any]:
    return {key: {**MINIMAL[key], **value} if isinstance(value, dict) and key in MINIMAL else value
            for key, value in {**MINIMAL, **sections}.items()}  # fmt: skip


def faults_of(path: Path, *overrides: str) -> dict[str, str]:
    with pytest.raises(ManifestError) as raised:
        load_manifest(path, overrides)
    assert raised.value.exit_code == 2
    assert all(fault.file in (str(path), "--set") for fault in raised.value.faults)
    return {fault.key: f"{fault.found} | {fault.expected} | {fault.action}" for fault in raised.value.faults}


def test_yaml_and_json_of_the_same_content_have_the_same_hash(write) -> None:
    from_json = load_manifest(write(MINIMAL, "demo.json"))
    from_yaml = load_manifest(write(yaml.safe_dump(MINIMAL), "demo.yaml"))
    spelt_out = load_manifest(write(changed(seed=0, training={"epochs": 4})))
    assert from_json.sha256 == from_yaml.sha256 == spelt_out.sha256
    assert load_manifest(write(changed(seed=1))).sha256 != from_json.sha256


def test_a_manifest_survives_being_saved(write, tmp_path: Path) -> None:
    manifest = load_manifest(write(MINIMAL))
    save_manifest(manifest, tmp_path / "saved.yaml")
    assert load_manifest(tmp_path / "saved.yaml") == manifest


def test_all_faults_of_a_file_are_reported_together(write) -> None:
    content = changed(training={"epoch": 3, "batch_size": "many"}, seed=-1)
    del content["description"]
    faults = faults_of(write(content))
    assert set(faults) == {"description", "training.epoch", "training.batch_size", "seed"}
    assert "epochs" in faults["training.epoch"]
    assert "'many'" in faults["training.batch_size"]


def test_of_an_unknown_task_the_faults_that_every_task_would_have_are_reported_too(write) -> None:
    content = changed(
        training={"epoch": 3}, gates={"min_accuracy": 2}, conversion={"opset": 3}, task="astrology"
    )
    faults = faults_of(write(content))
    assert set(faults) == {"task", "conversion.opset", "training.epoch", "gates.min_accuracy"}
    *most, last = (repr(name) for name in kind_names())
    assert f"{', '.join(most)} or {last}" in faults["task"]


@pytest.mark.parametrize(
    ("content", "key", "value"),
    [
        (MINIMAL, "training.filters", "[8]"),
        (MINIMAL, "training.augmentation.rotation", "15"),
        (MINIMAL, "training.search.units", "{low: 1, high: 9}"),
        (MINIMAL, "dataset.shape", "[28, 28]"),
        (MINIMAL, "dataset.checks.empty_images.severity", "warn"),
        (IMAGES, "training.encoder", "somebody/encoder"),
        (IMAGES, "training.gradient_checkpointing", "true"),
        (IMAGES, "training.search.max_length", "{low: 8, high: 9}"),
        (IMAGES, "dataset.columns.text", "sentence"),
        (IMAGES, "dataset.checks.text_length.min_chars", "2"),
    ],
)
def test_a_key_of_another_task_is_an_unknown_key(
    write, content: dict[str, Any], key: str, value: str
) -> None:
    [(named, fault)] = faults_of(write(content), f"{key}={value}").items()
    assert key.startswith(named)
    unknown = named.rsplit(".", 1)[1]
    assert "a key that nothing reads | one of " in fault
    assert unknown not in fault


def test_a_section_that_is_left_out_is_that_of_the_task(write) -> None:
    assert load_manifest(write(MINIMAL)).training == TextTraining()
    assert load_manifest(write(IMAGES)).training == ImageTraining()
    assert load_manifest(write(IMAGES)).training.architecture == "custom-cnn-32-64-128-512-0.25-0.5"


@pytest.mark.parametrize(
    ("sections", "key", "message"),
    [
        ({"training": {"batch_size": 10, "gradient_accumulation": 4}}, "training", "multiple of"),
        ({"training": {"compute_target": "gpu_single"}}, "training", "needs one accelerator"),
        ({"training": {"compute_target": "cloud_gpu"}}, "training", "needs resources.accelerator_type"),
        ({"training": {"plateau": {"patience": 1}}}, "training", "schedule is linear"),
        (
            {"training": {"schedule": "reduce_on_plateau", "plateau": {"patience": 1}}},
            "training",
            "early_stopping.patience must be at least 3",
        ),
        ({"training": {"resources": {"accelerator_count": 1}}}, "training.resources", "go together"),
        (
            {"training": {"resources": {"persistent_resource": "gpus", "strategy": "spot"}}},
            "training.resources",
            "leave strategy spot out",
        ),
        ({"dataset": {"labels": ["a", "a"]}}, "dataset", "distinct"),
        ({"dataset": {"split": {"train": 0.9}}}, "dataset.split", "sum to 1"),
        (
            {"dataset": {"checks": {"text_length": {"min_chars": 9, "max_chars": 3}}}},
            "dataset.checks.text_length",
            "over max_chars",
        ),
    ],
)
def test_an_impossible_combination_names_what_does_not_fit(write, sections, key, message) -> None:
    faults = faults_of(write(changed(**sections)))
    assert message in faults[key]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b", "a list"),
        ("name: [unclosed", "while parsing"),
        ("name: a\nname: b", "'name' is repeated"),
        ("", "NoneType"),
    ],
)
def test_a_file_that_is_no_manifest_says_why(write, text, message) -> None:
    assert message in faults_of(write(text))["(file)"]


def test_a_missing_or_binary_file_is_a_fault(tmp_path: Path) -> None:
    assert "no such file" in faults_of(tmp_path / "absent.yaml")["(file)"]
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "unreadable" in faults_of(tmp_path / "binary.yaml")["(file)"]


def test_overrides_are_yaml_and_win_over_the_file(write) -> None:
    manifest = load_manifest(
        write(MINIMAL),
        ["training.epochs=3", "dataset.columns={text: 0, label: 1}", "training.resources.max_hours=0.5"],
    )
    assert manifest.training.epochs == 3
    assert manifest.dataset.columns.text == 0
    assert manifest.training.resources.max_hours == 0.5


def test_a_faulty_override_is_reported_like_a_faulty_file(write) -> None:
    assert "key=value" in faults_of(write(MINIMAL), "training.epochs")["'training.epochs'"]
    assert "YAML" in faults_of(write(MINIMAL), "seed=[")["seed"]
    assert "nothing reads" in faults_of(write(MINIMAL), "training.epoch=3")["training.epoch"]


@pytest.mark.parametrize(
    ("pattern", "cause"),
    [
        ("{nam}-{seed}", "{nam} is none of them"),
        ("run {}", "{} is none of them"),
        ("{name.upper}", "{name.upper} is none of them"),
        ("{seed:03d}", "{seed} takes no format"),
        ("{name", "expected '}' before end of string"),
    ],
)
def test_a_run_name_of_unknown_parts_is_refused_with_those_that_there_are(
    write, pattern: str, cause: str
) -> None:
    fault = faults_of(write(changed(training={"tracking": {"run_name": pattern}})))[
        "training.tracking.run_name"
    ]
    assert repr(pattern) in fault
    assert "{name}, {arch}, {seed}, {timestamp}" in fault
    assert cause in fault


def test_a_run_name_may_be_made_of_any_of_its_parts(write) -> None:
    pattern = "{name} {arch} {seed} {timestamp} {{as it is}}"
    manifest = load_manifest(write(changed(training={"tracking": {"run_name": pattern}})))
    assert manifest.training.tracking.run_name == pattern


def test_paths_are_relative_to_the_file_and_overrides_to_the_working_directory(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.csv").write_text("text,label\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "other.csv").write_text("text,label\n")
    monkeypatch.chdir(elsewhere)
    path = write(MINIMAL)
    assert load_manifest(path).dataset.uri == str(tmp_path / "data.csv")
    assert load_manifest(path, ["dataset.uri=other.csv"]).dataset.uri == str(elsewhere / "other.csv")
    assert load_manifest(path, ["dataset.uri=gs://bucket/x.csv"]).dataset.uri == "gs://bucket/x.csv"
    section = json.dumps({**MINIMAL["dataset"], "uri": "other.csv"})
    assert load_manifest(path, [f"dataset={section}"]).dataset.uri == str(elsewhere / "other.csv")


def test_a_missing_data_file_beside_the_manifest_is_not_looked_for_elsewhere(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "data.csv").write_text("text,label\n")
    monkeypatch.chdir(elsewhere)
    assert load_manifest(write(MINIMAL)).dataset.uri == str(tmp_path / "data.csv")


def test_a_tilde_is_the_home_folder_and_a_hub_name_stays_one(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    overrides = ["dataset.uri=~/data.csv", "training.encoder=somebody/encoder"]
    content = changed(dataset={"uri": "~/data.csv"}, training={"encoder": "somebody/encoder"})
    for manifest in (load_manifest(write(MINIMAL), overrides), load_manifest(write(content))):
        assert manifest.dataset.uri == str(tmp_path / "me" / "data.csv")
        assert manifest.training.encoder == "somebody/encoder"


@pytest.mark.parametrize("name", ["emotion_sample", "emotion", "fashion_mnist"])
def test_a_shipped_manifest_survives_the_way_through_a_kfp_struct(name: str) -> None:
    """kfp hands integers inside a struct on as floats; the section read back must be the same."""
    path = Path(__file__).parents[2] / "manifests" / f"{name}.yaml"
    manifest = load_manifest(path, ["training.search=null"])  # which no section hands on
    for section in SECTIONS:
        value = getattr(manifest, section)
        floats = json.loads(json.dumps(as_parameter(value)), parse_int=float)
        assert type(value).model_validate(floats) == value


def test_a_manifest_cannot_be_changed_after_loading(write) -> None:
    manifest: Manifest = load_manifest(write(MINIMAL))
    with pytest.raises(ValueError, match="frozen"):
        manifest.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("demo.json", '{"name": "one", "name": "two"}', "key 'name' is repeated"),
        ("demo.json", "[" * 100_000, "recursion"),
        ("demo.yaml", "[" * 5_000, "recursion"),
        ("demo.yaml", "name: 2024-13-45", "month must be in 1..12"),
    ],
)
def test_what_no_parser_accepts_is_one_fault(write, name: str, content: str, found: str) -> None:
    assert found in faults_of(write(content, name))["(file)"]


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("training.epochs=yes", "training.epochs", "True | no truth value"),
        ("seed=off", "seed", "False | no truth value"),
        ("training.epochs=1" + "0" * 400, "training.epochs", "up to 2**53"),
        ("training.batch_size=9007199254740994", "training.batch_size", "up to 2**53"),
        ("dataset.labels=[a, 'b ']", "dataset", "'b '"),
        ("dataset.labels=[a, '']", "dataset", "''"),
    ],
)
def test_a_value_that_would_silently_become_another_is_a_fault(
    write, override: str, key: str, message: str
) -> None:
    assert message in faults_of(write(MINIMAL), override)[key]


@pytest.mark.parametrize("value", ["2024-13-45", "9" * 5_000, "[" * 5_000])
def test_an_override_that_no_parser_accepts_is_one_fault(write, value: str) -> None:
    assert "dataset.version" in faults_of(write(MINIMAL), f"dataset.version={value}")


def test_a_byte_order_mark_is_no_part_of_a_manifest(write) -> None:
    marked = write("\ufeff" + json.dumps(MINIMAL), "demo.json")
    assert load_manifest(marked).sha256 == load_manifest(write(MINIMAL)).sha256


@pytest.mark.parametrize(
    ("overrides", "key", "said"),
    [
        (["dataset.version=1"], "dataset.version", '1 | a valid string | Quote it: "1".'),
        (["dataset.version=2026-11-30"], "dataset.version", 'Quote it: "2026-11-30".'),
        (["dataset.labels=[yes, no]"], "dataset.labels.0", "Quote it, such as"),
        (["dataset.labels=[a, null]"], "dataset.labels.1", "YAML reads null, ~ and nothing as no value"),
        (["name=house prices"], "name", "lower-case letters, digits, - and _, with a letter first"),
        (["dataset.columns={text: {a: b}}"], "dataset.columns.text", "a column's name, its position from 0"),
        (["training.epoch=3"], "training.epoch", "Did you mean epochs?"),
        (["gate={}"], "gate", "Did you mean gates?"),
        (["training.checkpoints={every_steps: 4}"], "training.checkpoints", "Use the new name."),
        (["training.qqq=3"], "training.qqq", "Remove it, or correct its spelling."),
        (["gates=0.5"], "gates", "0.5 | a section with some of max_class_f1_drop"),
        (["training.resources=large"], "training.resources", "a section with some of accelerator_count"),
        (["task=text_clasification", "training.encodr=x"], "training.encodr", "Did you mean encoder?"),
    ],
)
def test_a_fault_says_what_to_write_instead(write, overrides: list[str], key: str, said: str) -> None:
    assert said in faults_of(write(MINIMAL), *overrides)[key]


def test_no_key_of_a_fault_is_one_of_pydantics_own(write) -> None:
    overrides = ["dataset.columns={text: [1], label: {}}", "dataset.sha256=[1]", "training.search.epochs=3"]
    faults = faults_of(write(MINIMAL), *overrides)
    expected = {"dataset.columns.text", "dataset.columns.label", "dataset.sha256", "training.search.epochs"}
    assert set(faults) == expected


def test_a_list_whose_values_are_refused_is_not_called_too_short_as_well(write) -> None:
    assert set(faults_of(write(MINIMAL), "dataset.labels=[1, 2]")) == {"dataset.labels.0", "dataset.labels.1"}


def test_a_section_that_is_missing_is_named_with_its_keys(write) -> None:
    content = {key: value for key, value in MINIMAL.items() if key != "gates"}
    assert "a section with some of" in faults_of(write(content))["gates"]


ALIASES = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n"
    for old, new in zip("abcdefghijklmnopqrstuvw", "bcdefghijklmnopqrstuvwx", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIASES, "more than 2,000,000 values, by its aliases"),
        ("a: &a [*a]", "values in more than 40 levels"),
        ("a: " + "[" * 60 + "]" * 60, "values in more than 40 levels"),
        ("a: 0x" + "f" * 6000, "a number of 24000 bits"),
        ('a: "\\ud800"', "the character \\ud800"),
        ('"b\\0": 1', "the character \\x00"),
        ("? [a, b]\n: 1", "unhashable key"),
        ("? {a: b}\n: 1", "unhashable key"),
        ("a: " + "1:" * 3000 + "1", "a number of"),
    ],
    ids=str,
)
def test_what_no_later_step_could_take_is_a_fault_at_once(write, text: str, message: str) -> None:
    [fault] = faults_of(write(text)).values()
    assert message in fault
    assert fault.isprintable()


@pytest.mark.parametrize(
    "override",
    ["a." * 1000 + "b=1", "\ud800=1", "seed=\ud800", "training.\0=1", "dataset.uri=\0", "x=[&a [*a]]"],
)
def test_an_override_that_no_later_step_could_take_is_one_fault(write, override: str) -> None:
    [(key, fault)] = faults_of(write(MINIMAL), override).items()
    assert (key + fault).isprintable()


@pytest.mark.parametrize(
    "name", ["a\0b.yaml", "\ud800.yaml", "x" * 300 + ".yaml", "loop.yaml", "folder", "pipe"]
)
def test_a_path_that_is_no_manifests_is_one_fault(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ManifestError) as raised:
        load_manifest(tmp_path / name)
    [fault] = raised.value.faults
    assert fault.key == "(file)"
