"""train-model for a Gemini model, through the real google-genai client against a server on loopback."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from gauntlet.backends.google import gemini as client
from gauntlet.backends.google.calls import QuotaError
from gauntlet.components.validate_data.run import run as validate_data
from gauntlet.manifests.errors import GauntletError, Preempted, UsageError
from gauntlet.manifests.schema import section_of
from gauntlet.serving.bundle import read_info
from gauntlet.tasks.managed_causal_lm import training as managed
from gauntlet.tasks.managed_causal_lm.manifest import ManagedTraining
from tests.fakes.gemini import LOCATION, PARENT, TOKENS_PER_WORD, FakeGemini

PLACE = f"vertex://demo/{LOCATION}?staging=gs://bucket/root"
RECORDS = [
    {
        "messages": [
            {"role": "system", "content": "You are kind."},
            {"role": "user", "content": f"How is the {thing} today?"},
            {"role": "assistant", "content": f"The {thing} is well."},
            {"role": "user", "content": "And tomorrow?"},
            {"role": "assistant", "content": "Better still."},
        ]
    }
    for thing in ("tea", "rain", "bread", "music", "stone", "river", "train", "bird", "snow", "paint")
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(managed, "SECONDS_OF_A_SLEEP", 0.01)


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    data = tmp_path / "talk.jsonl"
    data.write_text("\n".join(map(json.dumps, RECORDS)))
    content = {"name": "talk", "version": "1", "uri": str(data), "tokenizer": "gemini-2.5-flash"}
    content |= {"checks": {"exact_duplicates": {"severity": "warn"}, "leakage": {"severity": "warn"}}}
    content |= {"split": {"train": 0.6, "validation": 0.2, "test": 0.2}}
    section = section_of("managed_causal_lm", "dataset", content)
    validate_data("managed_causal_lm", section, tmp_path / "splits", tmp_path / "checks", tmp_path / "report")
    return tmp_path / "splits"


def section(**settings: Any) -> ManagedTraining:
    return ManagedTraining.model_validate({"model": "gemini-2.5-flash", "epochs": 2} | settings)


def tune(splits: Path, folder: Path, settings: ManagedTraining, place: str = PLACE) -> dict[str, float]:
    return managed.train(
        section=settings,
        name="talk",
        manifest_sha256="0" * 64,
        place_uri=place,
        splits=splits,
        bundle=folder / "bundle",
        candidates=folder / "candidates",
        history=folder / "history",
    )


def test_the_rows_are_tuned_on_in_the_vendors_form_with_the_manifests_settings(
    gemini: FakeGemini, splits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tune(splits, tmp_path, section(adapter_size=8, learning_rate_multiplier=0.5))
    [job] = gemini.jobs.values()
    spec = job["supervisedTuningSpec"]
    expected = {"epochCount": 2, "learningRateMultiplier": 0.5, "adapterSize": "ADAPTER_SIZE_EIGHT"}
    assert spec["hyperParameters"] == expected
    assert (job["baseModel"], job["labels"]["system"]) == ("gemini-2.5-flash", "talk")
    rows = gemini.rows(spec["trainingDatasetUri"])
    assert rows[0]["systemInstruction"]["parts"] == [{"text": "You are kind."}]
    longest = max(rows, key=lambda row: len(row["contents"]))["contents"]
    assert [turn["role"] for turn in longest] == ["user", "model", "user", "model"]
    assert longest[-1] == {"role": "model", "parts": [{"text": "Better still."}]}
    assert gemini.rows(spec["validationDatasetUri"])

    texts = [
        part["text"]
        for row in rows
        for turn in (row["systemInstruction"], *row["contents"])
        for part in turn["parts"]
    ]
    tokens = TOKENS_PER_WORD * sum(len(text.split()) for text in texts)
    assert figures["training_tokens"] == 2 * tokens
    assert figures["cost_usd"] == pytest.approx(2 * tokens * 5.0 / 1e6, abs=0.01)  # and seconds of a machine
    output = capsys.readouterr().out
    assert f"{tokens:,} tokens × 2 epochs × 5 USD a million" in output
    assert "JOB_STATE_RUNNING after" in output


def test_the_bundle_names_the_endpoint_and_says_that_nothing_was_converted(
    gemini: FakeGemini, splits: Path, tmp_path: Path
) -> None:
    tune(splits, tmp_path, section())
    info = read_info(tmp_path / "bundle")
    endpoint = json.loads((tmp_path / "bundle" / "endpoint.json").read_text())
    assert (info.task, info.candidate) == ("managed_causal_lm", "managed")
    assert endpoint["endpoint"] == f"{PARENT}/endpoints/1"
    assert info.lineage["data_sha256"] == json.loads((splits / "statistics.json").read_text())["sha256"]
    assert json.loads((tmp_path / "candidates").read_text())["converted"].startswith("nothing")


def test_a_step_that_is_run_again_finds_its_job_and_a_changed_one_makes_another(
    gemini: FakeGemini, splits: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        tune(splits, tmp_path, section())
    assert len(gemini.jobs) == 1
    tune(splits, tmp_path, section(epochs=3))
    assert len(gemini.jobs) == 2


@pytest.mark.parametrize("how", ["connection", "unavailable"])
def test_a_lost_answer_does_not_make_a_second_job(
    gemini: FakeGemini, splits: Path, tmp_path: Path, how: str
) -> None:
    if how == "connection":
        gemini.lost = 1
    else:
        gemini.refusals["tune"] = [(503, "try again")]
    tune(splits, tmp_path, section())
    assert len(gemini.jobs) == 1


def test_a_job_that_failed_is_told_and_made_anew_when_the_step_is_run_again(
    gemini: FakeGemini, splits: Path, tmp_path: Path
) -> None:
    gemini.states, gemini.error = (
        ["JOB_STATE_PENDING", "JOB_STATE_FAILED"],
        "Dataset validation failed: Row 3",
    )
    with pytest.raises(GauntletError, match="JOB_STATE_FAILED: Dataset validation failed: Row 3"):
        tune(splits, tmp_path, section())
    assert not (tmp_path / "bundle").exists()
    gemini.states = ["JOB_STATE_PENDING", "JOB_STATE_SUCCEEDED"]
    gemini.jobs[f"{PARENT}/tuningJobs/1"]["state"] = "JOB_STATE_FAILED"
    tune(splits, tmp_path, section())
    assert len(gemini.jobs) == 2


def test_rows_that_the_vendor_refuses_are_named(
    gemini: FakeGemini, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [{"role": "model", "parts": [{"text": "first"}]}] * 2
    monkeypatch.setattr(managed, "examples", lambda _: [{"contents": turns}])
    with pytest.raises(GauntletError, match="Row 1: roles must alternate"):
        tune(splits, tmp_path, section())


def test_a_quota_is_told_and_no_job_is_left(gemini: FakeGemini, splits: Path, tmp_path: Path) -> None:
    gemini.refusals["tune"] = [(429, "Quota exceeded for global_concurrent_tuning_jobs")]
    with pytest.raises(QuotaError, match="global_concurrent_tuning_jobs"):
        tune(splits, tmp_path, section())
    assert gemini.jobs == {}


def test_a_wrong_model_is_told_under_its_key(
    gemini: FakeGemini, splits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("tuning: {gemini-9-ultra: 1.0}\n")
    monkeypatch.setenv("GAUNTLET_PRICES", str(prices))
    with pytest.raises(UsageError, match=r"training\.model: found gemini-9-ultra.*not supported for tuning"):
        tune(splits, tmp_path, section(model="gemini-9-ultra"))


def test_what_would_cost_more_than_the_budget_is_not_begun(
    gemini: FakeGemini, splits: Path, tmp_path: Path
) -> None:
    resources = {"max_hours": 1, "max_cost_usd": 0.2186}
    with pytest.raises(UsageError, match=r"max_cost_usd: found 0.2186, expected at least .* tokens × 100"):
        tune(splits, tmp_path, section(epochs=100, resources=resources))
    assert gemini.jobs == {} and gemini.bucket.objects == {}


def test_a_job_that_takes_too_long_is_cancelled(gemini: FakeGemini, splits: Path, tmp_path: Path) -> None:
    gemini.states = ["JOB_STATE_RUNNING"]
    with pytest.raises(GauntletError, match=r"not done after .* so it was cancelled"):
        tune(splits, tmp_path, section(resources={"max_hours": 0.00001}))
    assert gemini.cancelled == [f"{PARENT}/tuningJobs/1"]


def test_sigterm_cancels_the_job(gemini: FakeGemini, splits: Path, tmp_path: Path) -> None:
    gemini.states = ["JOB_STATE_RUNNING"]
    looked = gemini.look

    def look(name: str) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return looked(name)

    gemini.look = look  # type: ignore[method-assign]
    with pytest.raises(Preempted, match="told to end, so it was cancelled"):
        tune(splits, tmp_path, section())
    assert gemini.cancelled == [f"{PARENT}/tuningJobs/1"]


def test_a_job_that_is_being_cancelled_is_not_taken_over(
    gemini: FakeGemini, splits: Path, tmp_path: Path
) -> None:
    gemini.states = ["JOB_STATE_RUNNING"]
    with pytest.raises(GauntletError, match="so it was cancelled"):
        tune(splits, tmp_path, section(resources={"max_hours": 0.00001}))
    assert gemini.jobs[f"{PARENT}/tuningJobs/1"]["state"] == "JOB_STATE_CANCELLING"
    gemini.states = ["JOB_STATE_SUCCEEDED"]
    tune(splits, tmp_path, section())
    assert len(gemini.jobs) == 2
    assert json.loads((tmp_path / "bundle" / "endpoint.json").read_text())["endpoint"].endswith("/2")


def test_an_endpoint_that_was_deleted_is_named_with_what_to_do(gemini: FakeGemini) -> None:
    endpoint = f"{PARENT}/endpoints/7"
    gemini.deleted.add(endpoint)
    request = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    service = client.Gemini(managed.place_of(PLACE))
    with pytest.raises(UsageError, match=f"^{endpoint}: .*ENDPOINT_NOT_FOUND.*tune it again under another"):
        service.answer("gemini-2.5-flash", request, client.Drawing(8), endpoint)


def test_a_look_that_fails_is_no_failure_of_the_job(
    gemini: FakeGemini,
    splits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    gemini.refusals["get"] = [(503, "overloaded"), (500, "oops")]
    tune(splits, tmp_path, section())
    assert capsys.readouterr().out.count("warning:") == 2


@pytest.mark.parametrize("place", ["sqlite:////x.db", f"vertex://demo/{LOCATION}"])
def test_a_place_without_a_bucket_is_refused(
    gemini: FakeGemini, splits: Path, tmp_path: Path, place: str
) -> None:
    with pytest.raises(UsageError, match="staging=gs://BUCKET/FOLDER"):
        tune(splits, tmp_path, section(), place)


def test_answers_are_asked_for_with_the_evaluations_settings(gemini: FakeGemini) -> None:
    gemini.say = lambda model, question: f"{model.rpartition('/')[2]}: {question}"
    place = managed.place_of(PLACE)
    request = {
        "contents": [{"role": "user", "parts": [{"text": "Hello"}]}],
        "systemInstruction": {"role": "system", "parts": [{"text": "Be kind"}]},
    }
    service = client.Gemini(place)
    drawing = client.Drawing(32, temperature=0.7, top_k=5, top_p=0.9, seed=3)
    assert service.answer("gemini-2.5-flash", request, drawing) == "gemini-2.5-flash: Hello"
    endpoint = f"{PARENT}/endpoints/7"
    gemini.refusals["answer"] = [(429, "slow down")]  # requests a minute are a quota that passes
    assert service.answer("gemini-2.5-pro", request, drawing, endpoint) == "7: Hello"
    (_, flash), (_, pro) = gemini.asked
    config = flash["generationConfig"]
    assert config["maxOutputTokens"] == 32
    assert list(config["thinkingConfig"].values()) == [0]  # the client writes the proto's own name
    assert (config["temperature"], config["topK"], config["seed"]) == (0.7, 5, 3)
    assert flash["systemInstruction"]["parts"] == [{"text": "Be kind"}]
    assert pro["generationConfig"]["maxOutputTokens"] == 32 + 128  # it thinks before it speaks


def test_an_answer_that_a_filter_withholds_is_an_empty_one(gemini: FakeGemini) -> None:
    request = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
    service = client.Gemini(managed.place_of(PLACE))
    assert service.answer("gemini-2.5-flash", request, client.Drawing(8)) == ""
