"""Manifests of models that a vendor tunes and serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gauntlet.manifests.errors import ManifestError, UsageError
from gauntlet.manifests.loading import load_manifest, save_manifest
from gauntlet.manifests.training import trained_here
from gauntlet.pipelines.checks import load_affordable
from gauntlet.pipelines.cli import main
from gauntlet.tasks.managed_causal_lm.manifest import ManagedTraining

GEMINI = Path(__file__).parents[2] / "manifests" / "gemini_lm.yaml"
LORA = GEMINI.with_name("lora_lm.yaml")


def write(folder: Path, **sections: Any) -> Path:
    content = yaml.safe_load(GEMINI.read_text(encoding="utf-8"))
    for section, keys in sections.items():
        content[section] = {**content.get(section, {}), **keys}
    file = folder / "managed.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def test_the_task_kind_says_which_keys_training_has(tmp_path: Path) -> None:
    manifest = load_manifest(GEMINI)
    assert isinstance(manifest.training, ManagedTraining)
    save_manifest(manifest, tmp_path / "saved.yaml")
    assert load_manifest(tmp_path / "saved.yaml") == manifest
    with pytest.raises(UsageError, match=r"gemini-2\.5-flash, which a service tunes"):
        trained_here(manifest.training)


@pytest.mark.parametrize(
    ("sections", "found"),
    [
        ({"training": {"lora_r": 8}}, r"training\.lora_r: found a key that nothing reads.*adapter_size"),
        ({"training": {"adapter_size": 3}}, r"training\.adapter_size: found 3"),
        (
            {"training": {"resources": {"replica_count": 2}}},
            "replica_count is of machines that train",
        ),
        (
            {"gates": {"max_perplexity": 50}},
            "max_perplexity: .*tuned and served by Vertex AI",
        ),
        ({"gates": {"min_speedup": 2.0}}, "gates.min_speedup: .*nothing is converted"),
        ({"conversion": {"candidates": ["plain"]}}, "conversion: .*nothing is converted: remove the section"),
    ],
)
def test_what_nothing_would_read_is_a_fault(tmp_path: Path, sections: dict[str, Any], found: str) -> None:
    with pytest.raises(ManifestError, match=found):
        load_manifest(write(tmp_path, **sections))


def test_a_gemini_model_of_the_kind_that_is_trained_here_is_refused_with_the_kind_to_use() -> None:
    with pytest.raises(ManifestError, match=r"training\.model: .*set `task: managed_causal_lm`"):
        load_manifest(GEMINI, ["task=causal_lm"])


def test_a_model_that_is_trained_here_needs_a_bound_on_perplexity() -> None:
    with pytest.raises(ManifestError, match=r"gates\.max_perplexity: found nothing"):
        load_manifest(LORA, ["gates={min_rouge_l: 0.1}"])


@pytest.mark.parametrize(
    ("name", "setting", "found"),
    [
        ("emotion", "repetition_penalty=1.2", r"conversion\.repetition_penalty is for language models"),
        ("review_sentiment", "repetition_penalty=1.2", r"conversion\.repetition_penalty is for language"),
        ("fashion_mnist", "student.max_metric_drop=0.1", r"conversion\.student is for models that can have"),
        ("lora_lm", "student.max_metric_drop=0.1", r"conversion\.student is for models that can have"),
    ],
)
def test_what_only_the_conversion_of_other_kinds_reads_is_a_fault(
    name: str, setting: str, found: str
) -> None:
    with pytest.raises(ManifestError, match=found):
        load_manifest(LORA.with_name(f"{name}.yaml"), [f"conversion.{setting}"])


def test_the_conversion_of_texts_reads_students_and_that_of_language_models_a_penalty() -> None:
    assert load_manifest(LORA).conversion.repetition_penalty == 1.05
    of_student = ["conversion.student.max_metric_drop=0.1"]
    assert load_manifest(LORA.with_name("emotion.yaml"), of_student).conversion.student.max_metric_drop == 0.1


def test_the_defaults_of_a_gpu_are_no_setting_of_a_student() -> None:
    assert load_manifest(LORA.with_name("fashion_mnist.yaml"), ["conversion={target: gpu}"])


def test_a_language_model_is_not_converted_for_a_gpu() -> None:
    with pytest.raises(ManifestError, match=r"conversion\.target: found gpu, but a language model's bundle"):
        load_manifest(LORA, ["conversion={target: gpu}"])


def test_what_tuning_costs_is_told_before_its_rows_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cost", str(GEMINI), str(LORA)])
    output = capsys.readouterr().out
    assert "gemini_lm: and 5 USD a million training tokens in each of 3 epochs" in output
    assert "https://cloud.google.com/vertex-ai/generative-ai/pricing, as quoted elsewhere: check it" in output


def test_a_model_without_a_price_is_refused_and_can_be_given_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, training={"model": "gemini-9-ultra"})
    with pytest.raises(ManifestError, match="gemini-9-ultra: no price of tuning it is known"):
        load_affordable(file, None)
    prices = tmp_path / "prices.yaml"
    prices.write_text("tuning: {gemini-9-ultra: 1.0}\n")
    monkeypatch.setenv("GAUNTLET_PRICES", str(prices))
    load_affordable(file, None)


def test_a_model_is_trained_whole_by_the_manifest_that_trains_adapters() -> None:
    assert trained_here(load_manifest(LORA, ["training.method=full"]).training).architecture.endswith("Q4_1")


def test_a_language_model_stops_by_a_metric_that_it_has() -> None:
    assert (
        load_manifest(LORA, ["training.early_stopping={patience: 3}"]).training.early_stopping.metric
        == "loss"
    )
    assert load_manifest(LORA, ["training.early_stopping={metric: perplexity}"])
    with pytest.raises(ManifestError, match=r"early_stopping.metric: found 'macro_f1'"):
        load_manifest(LORA, ["training.early_stopping={metric: macro_f1}"])


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("conversion.candidates=[fused]", "found fused, expected for a language model some of plain, int8"),
        ("dataset.roles={user: [Client], assistant: [client]}", "both called client"),
        ("dataset.roles={user: ['']}", "dataset.roles.user"),
        ("dataset.columns={prompt: a, response: a}", "the model would learn to echo"),
    ],
)
def test_what_a_language_model_cannot_use_is_a_fault_of_the_manifest(override: str, found: str) -> None:
    with pytest.raises(ManifestError, match=found):
        load_manifest(LORA, [override])


def test_a_grader_stops_by_grades_where_a_part_of_the_section_is_left_out() -> None:
    stopping = load_manifest(
        LORA.with_name("card_grading.yaml"), ["training.early_stopping={patience: 12}"]
    ).training.early_stopping
    assert (stopping.metric, stopping.patience) == ("qwk", 12)
