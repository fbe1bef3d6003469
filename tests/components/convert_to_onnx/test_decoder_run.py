"""A language model from its checkpoint to the bundle and what is made of it, by the steps' own functions."""

from __future__ import annotations

import json
import math
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import gauntlet.components.convert_to_onnx.timing as timing_module
from gauntlet.components.convert_to_onnx.candidates import Graph
from gauntlet.components.convert_to_onnx.run import run as convert
from gauntlet.components.evaluate_model import EvaluationRun
from gauntlet.components.gate_model.run import gate
from gauntlet.components.train_model.imported import import_model, origin_of
from gauntlet.components.validate_data.run import run as validate
from gauntlet.manifests.conversion import Conversion
from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.manifests.loading import load_manifest
from gauntlet.serving.bundle import read_info
from gauntlet.serving.generation import Generator
from gauntlet.serving.verification import verify
from gauntlet.tasks.causal_lm.conversion import build, timed_prompts
from gauntlet.tasks.causal_lm.evaluation import LocalModel
from gauntlet.tasks.causal_lm.manifest import LanguageTraining
from gauntlet.tasks.causal_lm.training import network_of
from gauntlet.tasks.language.answers import Prompts
from gauntlet.tasks.language.evaluation import evaluate
from gauntlet.tasks.language.language_models import find_language_model, load_network
from gauntlet.tasks.language.manifest import ConversationDataset, LanguageEvaluation, LanguageGates
from gauntlet.tasks.language.packing import token_rows
from gauntlet.trainer.run import TrainingRun, train
from gauntlet.trainer.saved_model import read_record
from gauntlet.trainer.splits import read_split
from tests.language_models import conversations, write_jsonl, write_llama

pytestmark = pytest.mark.usefixtures("warm_processes")
PENALTY = 2.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits and a checkpoint."""
    folder = tmp_path_factory.mktemp("talk")
    model = write_llama(folder / "model")
    uri = write_jsonl(folder / "talk.jsonl", conversations())
    dataset = ConversationDataset(name="talk", version="1", uri=str(uri), tokenizer=str(model), max_tokens=96)
    validate("causal_lm", dataset, folder / "splits", folder / "checks", folder / "report.html")
    section = LanguageTraining(
        model=str(model), learning_rate=3e-2, epochs=6, lora_r=16, precision="fp32", compute_target="cpu"
    )
    run = TrainingRun(section, "talk", "causal_lm", 3, folder / "splits", folder / "checkpoint")
    (folder / "history").write_text(json.dumps(train(run)))
    return folder


@pytest.fixture(scope="module")
def converted(folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing_module, "SECONDS_PER_CONTENDER", 0.1)
        section = Conversion(candidates=("plain", "fused"), batch_sizes=(1, 2), repetition_penalty=PENALTY)
        places = [folder / name for name in ("checkpoint", "splits", "bundle", "candidates")]
        convert(section, "talk", 0, "a" * 64, *places)
    document: dict[str, Any] = json.loads((folder / "candidates").read_text())
    return document


def base_model(folder: Path) -> tuple[Any, Any]:
    """What was trained, as transformers has it, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    return load_network(find_language_model(str(folder / "model"))).eval(), tokenizer


def test_candidates_are_proved_timed_and_bundled(folder: Path, converted: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in converted["candidates"]}
    assert rows["plain"]["admitted"]
    assert rows["plain"]["max_abs_difference"] < 1e-4
    assert rows["fused"]["reason"] == "is for encoders, and this is a language model"
    assert (converted["chosen"], converted["pareto_front"]) == ("plain", ["plain"])
    assert set(rows["plain"]["latency_ms"]) == {"1", "2"}
    info = read_info(folder / "bundle")
    assert (info.task, info.candidate, info.frame) == (
        "causal_lm",
        "plain",
        ("User: ", "\nAssistant:"),
    )
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(info.files)
    assert [check.fault for check in verify(folder / "bundle")] == [None] * 5


def test_the_bundle_answers_as_transformers_does_with_the_saved_adapters(
    folder: Path, converted: dict[str, Any]
) -> None:
    generator = Generator(folder / "bundle")
    base, tokenizer = base_model(folder)
    model = PeftModel.from_pretrained(base, str(folder / "checkpoint/adapter")).eval()
    question = conversations()[5][0]
    ids = tokenizer(f"User: {question}\nAssistant:", return_tensors="pt")
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    free, theirs = (
        model.generate(**ids, **settings, repetition_penalty=penalty)[0, ids["input_ids"].shape[1] :]
        for penalty in (1.0, PENALTY)
    )
    assert free.tolist() != theirs.tolist()
    expected = tokenizer.decode(theirs, skip_special_tokens=True)
    assert generator.generate([generator.framed(question)], max_new_tokens=8) == [expected]


def test_evaluation_asks_both_models_and_the_gate_judges_them(
    folder: Path, converted: dict[str, Any]
) -> None:
    settings = LanguageEvaluation(prompts=6, max_new_tokens=12, bootstrap_resamples=200, batch_size=4)

    def evaluated(output: Path) -> list[dict[str, Any]]:
        evaluate(
            EvaluationRun(
                settings,
                name="talk",
                seed=1,
                registry_uri=f"sqlite:///{folder}/registry.db",
                bundle=folder / "bundle",
                splits=folder / "splits",
                scores=output / "scores",
                predictions=output / "predictions",
                report=output / "report.html",
            )
        )
        rows: list[dict[str, Any]] = json.loads((output / "predictions/predictions.json").read_text())
        return rows

    rows = evaluated(folder / "first")
    assert len(rows) == 6
    assert {"id", "prompt", "reference", "answer"} <= set(rows[0])
    assert evaluated(folder / "again") == rows  # sampled answers too: the seed is the same
    assert (folder / "first/scores").read_bytes() == (folder / "again/scores").read_bytes()
    scores = json.loads((folder / "first/scores").read_text())
    assert scores == json.loads((folder / "first/predictions/metrics.json").read_text())
    assert scores["baseline"]["gains"]["perplexity"]["interval"][0] > 0  # it has been trained
    base, tokenizer = base_model(folder)  # answers with the bundle's penalty, or it would be another contest
    answers: dict[float, list[str]] = {1.0: [], PENALTY: []}
    for penalty, row in product(answers, rows):
        ids = tokenizer(f"User: {row['prompt']}\nAssistant:", return_tensors="pt")
        theirs = base.generate(
            **ids, max_new_tokens=12, do_sample=False, pad_token_id=0, repetition_penalty=penalty
        )[0, ids["input_ids"].shape[1] :]
        answers[penalty].append(tokenizer.decode(theirs, skip_special_tokens=True).strip())
    assert [row["baseline_answer"] for row in rows] == answers[PENALTY] != answers[1.0]
    assert rows[0]["reference"] in (folder / "first/report.html").read_text()
    gates = LanguageGates(max_perplexity=500, min_speedup=0.001, min_rouge_l=0.0)
    names = ("first/scores", "candidates", "history", "bundle", "verdict", "table")
    decision = gate("causal_lm", gates, *(folder / name for name in names))
    verdicts = {rule.rule: rule.verdict for rule in decision.rules}
    assert verdicts["perplexity_gain"] == verdicts["parity"] == verdicts["certificate"] == "pass"


def test_without_a_candidate_within_the_bounds_nothing_is_bundled(folder: Path, tmp_path: Path) -> None:
    section = Conversion(candidates=("plain",), batch_sizes=(1,), max_abs_logit_difference=1e-12)
    places = [folder / "checkpoint", folder / "splits", tmp_path / "bundle", tmp_path / "candidates"]
    with pytest.raises(GauntletError, match="over max_abs_logit_difference 1e-12"):
        convert(section, "talk", 0, "a" * 64, *places)
    assert not (tmp_path / "bundle").exists()
    assert json.loads((tmp_path / "candidates").read_text())["candidates"][0]["admitted"] is False


def test_a_timed_prompt_leaves_room_for_what_is_to_be_answered() -> None:
    prompts = [list(range(300)), [7, 8]]
    assert timed_prompts(prompts, context=2_048) == [list(range(172, 300)), [7, 8]]
    assert timed_prompts(prompts, context=96) == [list(range(220, 300)), [7, 8]]  # 80, and 16 new ones


def test_weights_have_7_bits_for_cpus_without_int8_instructions(folder: Path, tmp_path: Path) -> None:
    section = Conversion(candidates=("int8",))
    [graph] = build(section, network_of(folder / "checkpoint"), tmp_path)
    assert isinstance(graph, Graph)
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(graph.path).graph.initializer
        if tensor.name.endswith("_quantized")
    ]
    assert max(int(np.abs(array.astype(int)).max()) for array in weights) == 64


def test_an_answer_leaves_room_for_its_prompt(
    folder: Path,
    converted: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def prompts(new: int) -> Prompts:
        settings = LanguageEvaluation(prompts=6, max_new_tokens=new)
        return LocalModel(folder / "bundle", settings).prompts(folder / "splits", seed=1)

    with pytest.raises(UsageError, match=r"max_new_tokens: found 128, but the model reads 128 tokens"):
        prompts(128)
    prompts(12)
    assert capsys.readouterr().out == ""
    prompts(126)
    assert "warning: 6 of 6 prompts are cut to the last 2 tokens" in capsys.readouterr().out


def test_the_baseline_stops_where_the_tuned_model_does(folder: Path, converted: dict[str, Any]) -> None:
    model = LocalModel(folder / "bundle", LanguageEvaluation(prompts=3, max_new_tokens=4))
    prompts = model.prompts(folder / "splits", seed=1)
    assert any(model.baseline(prompts, seed=1).answers.greedy)
    model._generator.decoder.stop_tokens = list(range(1_000))
    assert not any(model.baseline(prompts, seed=1).answers.greedy)


def test_a_champion_of_another_template_does_not_compare_and_one_of_other_system_text_does(
    folder: Path,
    converted: dict[str, Any],
    tmp_path: Path,
) -> None:
    model = LocalModel(folder / "bundle", LanguageEvaluation())
    before, after = read_info(folder / "bundle").frame or ("", "")
    for frame, found in (
        ([before, after], None),
        ([f"System: Be kind.\n{before}", after], None),
        ([before, f"{after} "], "has another chat template"),
    ):
        shutil.copytree(folder / "bundle", tmp_path / "other", dirs_exist_ok=True)
        path = tmp_path / "other" / "bundle.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"frame": frame}))
        assert model.unlike(tmp_path / "other") == found


def taken(folder: Path, source: Path, into: Path, **section: Any) -> dict[str, float]:
    """The figures of a model that was trained elsewhere; its checkpoint and history are in `into`."""
    manifest = into / "manifest.yaml"
    into.mkdir()
    manifest.write_text(
        "{name: talk, description: Talk, task: causal_lm, gates: {max_perplexity: 1000},"
        " dataset: {name: talk, version: '1', uri: talk.jsonl}}"
    )
    origin = origin_of(load_manifest(manifest), "checkpoint", str(source))
    training = LanguageTraining.model_validate({"model": str(folder / "model")} | section)
    places = folder / "splits", into / "checkpoint", into / "history"
    return import_model(training, "causal_lm", 3, origin, *places)


def validation_perplexity(folder: Path, checkpoint: Path) -> float:
    """Of transformers' own loss, one conversation at a time."""
    network = load_network(find_language_model(str(checkpoint))).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    frame = read_split(folder / "splits", "validation")
    rows = [row.whole for row in token_rows(frame, tokenizer.backend_tokenizer, 96)]
    chosen = [rows[at] for at in np.random.default_rng(3).permutation(len(rows))[:16]]
    losses = 0.0
    with torch.no_grad():
        for row in chosen:
            ids = torch.tensor([list(row)])
            losses += float(network(input_ids=ids, labels=ids).loss) * (len(row) - 1)
    return math.exp(losses / sum(len(row) - 1 for row in chosen))


def test_a_checkpoint_of_gauntlet_is_taken_with_its_perplexity(folder: Path, tmp_path: Path) -> None:
    figures = taken(folder, folder / "checkpoint", tmp_path / "own")
    expected = validation_perplexity(folder, folder / "checkpoint")
    assert figures == {"validation_perplexity": pytest.approx(expected, rel=1e-4)}
    record = read_record(tmp_path / "own/checkpoint")
    assert record == read_record(folder / "checkpoint").model_copy(update={"origin": record.origin})
    for name in ("adapter/adapter_config.json", "adapter/adapter_model.safetensors"):
        assert (folder / "checkpoint" / name).read_bytes() == (
            tmp_path / "own/checkpoint" / name
        ).read_bytes()


def saved_elsewhere(folder: Path, target: Path) -> Path:
    """Another model with the same tokens, as save_pretrained writes it."""
    base, tokenizer = base_model(folder)
    with torch.no_grad():
        base.get_input_embeddings().weight.mul_(1.5)
    base.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def test_a_language_model_of_transformers_is_taken_as_it_is(folder: Path, tmp_path: Path) -> None:
    source = saved_elsewhere(folder, tmp_path / "given")
    figures = taken(folder, source, tmp_path / "out")
    expected = validation_perplexity(folder, source)
    assert figures == {"validation_perplexity": pytest.approx(expected, rel=1e-4)}
    own, record = read_record(folder / "checkpoint"), read_record(tmp_path / "out/checkpoint")
    assert (record.encoder, record.max_length, record.frame) == (own.encoder, own.max_length, own.frame)
    theirs, ours = (
        load_file(source / "model.safetensors"),
        load_file(tmp_path / "out/checkpoint/model.safetensors"),
    )
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


def spoil(source: Path, how: str) -> None:
    file = source / "model.safetensors"
    if how == "no tokenizer":
        (source / "tokenizer.json").unlink()
    elif how == "broken weights":
        file.write_bytes(file.read_bytes()[:5_000])
    elif how == "a missing tensor":
        weights = load_file(file)
        del weights["model.norm.weight"]
        save_file(weights, file, metadata={"format": "pt"})
    elif how == "other tokens":
        tokenizer = json.loads((source / "tokenizer.json").read_text())
        first, second = [*tokenizer["model"]["vocab"]][5:7]
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
        (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    elif how == "a short context":
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no tokenizer", "--from-checkpoint: found no tokenizer.json beside model.safetensors"),
        ("broken weights", "--from-checkpoint: cannot be loaded: "),
        (
            "a missing tensor",
            "--from-checkpoint: cannot be loaded: .* lack 1 tensors, such as model.norm",
        ),
        ("other tokens", "--from-checkpoint: its tokenizer has other tokens than that of "),
        ("a short context", "--from-checkpoint: dataset.max_tokens: found .* reads at most 32 tokens"),
    ],
)
def test_a_language_model_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, how: str, message: str
) -> None:
    source = saved_elsewhere(folder, tmp_path / "given")
    spoil(source, how)
    with pytest.raises(UsageError, match=f"^{message}"):
        taken(folder, source, tmp_path / "out")
    assert not (tmp_path / "out/checkpoint").exists()
