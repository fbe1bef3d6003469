"""Fine-tuning of a pretrained language model on answers: of all its weights, or of adapters.

S = sequences, T = tokens, K = tokens of answers, V = vocabulary, B = rows, N = rows of a split.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from gauntlet.contracts.data import STATISTICS_FILE
from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.causal_lm.manifest import LanguageTraining
from gauntlet.tasks.language.data import Statistics
from gauntlet.tasks.language.language_models import (
    LanguageModelFiles,
    context_of,
    find_language_model,
    load_network,
    load_tokenizer,
    require_convertible,
    stop_at,
)
from gauntlet.tasks.language.packing import TokenRow, TokenRows, bins, packed, seen
from gauntlet.tasks.texts.hugging_face import require_saved
from gauntlet.tasks.texts.vocabulary import TOKENIZER_FILE, require_embedded
from gauntlet.trainer.batching import Lengths
from gauntlet.trainer.task import WEIGHTS_FILE, Batch, Task, unaliased

ADAPTER_FOLDER = "adapter"

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""As peft writes and reads them."""


class AnswerModel(nn.Module):
    """A causal language model that computes the logits of the answers' tokens only, not of the prompts'."""

    def __init__(self, network: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        self.network = network
        self._kept: torch.Tensor | None = None
        network.get_output_embeddings().register_forward_pre_hook(self._keep)

    def forward(
        self, ids: torch.Tensor, segments: torch.Tensor, positions: torch.Tensor, kept: torch.Tensor
    ) -> torch.Tensor:
        """Logits (K, V), as `packing.packed` describes its arguments."""
        self._kept = kept
        output = self.network(
            input_ids=ids, attention_mask=seen(segments), position_ids=positions, use_cache=False
        )
        return cast(torch.Tensor, output.logits)[0]

    def _keep(self, _: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        """The hidden states (1, K, H) of answers' tokens, from the head's input (S, T, H)."""
        states = inputs[0]
        return (states.flatten(0, 1)[self._kept][None],)


class CausalLanguageModelling(Task):
    """The task on the splits that validate-data wrote."""

    validation_batch_size = 8
    uses_cpu_kernels = False  # they were measured on encoders

    def __init__(self, section: LanguageTraining, splits: Path) -> None:
        """Read and tokenise the rows; a `UsageError` if validate-data counted tokens for another model."""
        statistics = Statistics.read(splits / STATISTICS_FILE)
        if statistics.tokenizer != section.model:
            raise UsageError(
                f"training.model: found {section.model}, but {splits} is rendered for "
                f"{statistics.tokenizer}. Run the pipeline from validate-data."
            )
        self._section = section
        self._most = statistics.max_tokens
        self._frame = statistics.frame
        self._files = find_language_model(section.model)
        self._tokenizer = load_tokenizer(self._files)
        self._pad_id = int(self._tokenizer.eos_token_id)
        self._train, self._validation = (
            TokenRows(splits, split, self._tokenizer.backend_tokenizer, self._most)
            for split in ("train", "validation")
        )

    @property
    def train_lengths(self) -> Lengths:
        """Tokens in each training row."""
        return self._train.lengths

    @property
    def train_weights(self) -> Lengths:
        """Tokens of each training row's answer."""
        return self._train.targets

    @property
    def validation_lengths(self) -> Lengths:
        """Tokens in each validation row."""
        return self._validation.lengths

    @property
    def of_record(self) -> Mapping[str, Any]:
        """The pretrained model, the maximum tokens of a row, and the text before and after a prompt."""
        return {"encoder": self._section.model, "max_length": self._most, "frame": tuple(self._frame)}

    def build_model(self) -> AnswerModel:
        """The pretrained model, with adapters if `training.method` is lora.

        Raises:
            UsageError: It reads fewer tokens than a row may have, lacks a layer of `target_modules`, or
                cannot be converted.
        """
        network = self._network()
        if self._section.gradient_checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False})
        return AnswerModel(network)

    def _network(self) -> PreTrainedModel | PeftModel:
        network = self.load(self._files)
        return with_adapters(network, self._section) if self._section.method == "lora" else network

    def load(self, files: LanguageModelFiles) -> PreTrainedModel:
        """A model that reads the rows; raises a `UsageError` if it cannot, or cannot be converted."""
        network = load_network(files, self._section.dropout)
        require_embedded(
            max(self._train.largest_id, self._validation.largest_id),
            network.get_input_embeddings().num_embeddings,
            self._section.model,
            "training.model",
        )
        stop_at(network, self._tokenizer.eos_token_id)
        try:
            require_convertible(network)
        except ValueError as error:
            raise UsageError(
                f"training.model: {self._section.model}: {error}. Choose another model."
            ) from None
        if context_of(network) < self._most:
            raise UsageError(
                f"dataset.max_tokens: found {self._most}, but {self._section.model} reads at most "
                f"{context_of(network)} tokens. Lower it."
            )
        return network

    def training_batch(self, rows: Sequence[int], _seed: tuple[int, int]) -> Batch:
        """The rows as `packing.packed` returns them."""
        return self._batch([self._train[row] for row in rows])

    def validation_batch(self, rows: Sequence[int], _epoch: int) -> Batch:
        """As `training_batch`."""
        return self._batch([self._validation[row] for row in rows])

    def _batch(self, rows: Sequence[TokenRow]) -> Batch:
        capacity = self._most if self._section.packing else 0
        return packed(rows, bins([len(row) for row in rows], capacity), self._pad_id)

    def loss_sum(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy, summed over the answers' tokens; the tally is the correct tokens and all tokens."""
        *inputs, targets, _ = batch
        logits = model(*inputs).float()
        loss = functional.cross_entropy(
            logits, targets, reduction="sum", label_smoothing=self._section.label_smoothing
        )
        right = (logits.detach().argmax(dim=1) == targets).sum()
        return loss, torch.stack([right, torch.full_like(right, len(targets))])

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """For each row's answer (B, 3): summed cross-entropy, tokens, correct tokens."""
        *inputs, targets, counts = batch
        logits = model(*inputs).float()
        losses = functional.cross_entropy(logits, targets, reduction="none")
        right = (logits.argmax(dim=1) == targets).float()
        columns = torch.stack([losses, torch.ones_like(losses), right], dim=1)  # (K, 3)
        return torch.segment_reduce(columns, "sum", lengths=counts)

    def training_metrics(self, tally: Sequence[float]) -> dict[str, float]:
        """The share of tokens that were predicted correctly."""
        right, tokens = tally
        return {"token_accuracy": right / tokens}

    def metrics(self, outputs: torch.Tensor) -> dict[str, float]:
        """Mean loss per token of the answers, its exponential, and the share of correct tokens."""
        loss, tokens, right = outputs.double().sum(dim=0).tolist()
        mean = loss / tokens
        return {
            "loss": mean,
            "perplexity": math.exp(mean) if mean < 700 else math.inf,
            "token_accuracy": right / tokens,
        }

    def save(self, model: nn.Module, weights: Mapping[str, torch.Tensor], folder: Path) -> None:  # noqa: ARG002
        """Write the network, adapters merged, as transformers reads it, and the adapters in a folder."""
        with torch.random.fork_rng(devices=[]):  # new adapters draw numbers, which must not change dropout's
            network = self._network()
        names = {name.removeprefix("network."): tensor for name, tensor in weights.items()}
        unknown = network.load_state_dict(names, strict=False).unexpected_keys
        assert not unknown, unknown
        if isinstance(network, PeftModel):
            (folder / ADAPTER_FOLDER).mkdir()
            save_adapters(network, names, folder / ADAPTER_FOLDER, base_name(self._section.model))
            network = merged(network)
        self.write(network, folder)

    def write(self, network: PreTrainedModel, folder: Path) -> None:
        """Write a network, and the tokenizer that the splits were rendered for."""
        write_network(network, folder)
        self._tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))

    def require_vocabulary(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Raise a `UsageError` unless a tokenizer has the tokens that the splits were rendered for."""
        theirs, ours = ((one.get_vocab(), one.eos_token_id) for one in (tokenizer, self._tokenizer))
        if theirs != ours:
            raise UsageError(
                f"--from-checkpoint: its tokenizer has other tokens than that of {self._section.model}, for "
                "which the conversations are rendered. Set training.model to the model that it was trained "
                "from."
            )


def write_network(network: PreTrainedModel, folder: Path) -> None:
    """Write configuration and weights, without aliases."""
    tensors = {name: tensor.contiguous() for name, tensor in unaliased(network).items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    network.config.save_pretrained(folder)
    if network.generation_config is not None:
        network.generation_config.save_pretrained(folder)


load_task = CausalLanguageModelling


def import_checkpoint(
    section: LanguageTraining, source: Path, splits: Path, folder: Path
) -> Mapping[str, Any]:
    """Write a checkpoint's files of a causal language model that transformers saved, adapters merged.

    Args:
        section: The section `training`. Its `model` is the one that the checkpoint was trained from.
        source: Holds `config.json`, `model.safetensors` and `tokenizer.json`.
        splits: What validate-data wrote, rendered for `section.model`.
        folder: Where the files are written.

    Returns:
        The fields of the checkpoint's record.

    Raises:
        UsageError: A file or a tensor is missing, the model has other tokens than `section.model`, reads
            fewer than a row may have, or cannot be converted.
    """
    require_saved(source)
    task = load_task(section, splits)
    files = LanguageModelFiles(source)
    try:
        task.require_vocabulary(load_tokenizer(files))
        network = task.load(files)
    except UsageError as error:
        said = str(error).removeprefix("training.model: ").removeprefix(f"{source}: ")
        where = "" if said.startswith(("--from-checkpoint", "dataset.")) else "--from-checkpoint: "
        raise UsageError(f"{where}{said}") from None
    task.write(network, folder)
    return task.of_record


def network_of(folder: Path) -> PreTrainedModel:
    """A checkpoint's network in eval mode."""
    return load_network(LanguageModelFiles(folder)).eval()


def with_adapters(network: PreTrainedModel, section: LanguageTraining) -> PeftModel:
    """The network, frozen except for new adapters, which have no effect yet. Raises as `require_modules`."""
    require_modules(network, section.target_modules)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=section.lora_r,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        bias=section.lora_bias,
        target_modules=list(section.target_modules),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in network.modules()),
    )
    return cast(PeftModel, get_peft_model(network, config))


def require_modules(network: nn.Module, targets: tuple[str, ...]) -> None:
    """Raise a `UsageError`, with a similar name, unless the network has layers of these names."""
    # An adapter on the head would also be merged into the embedding, if they share weights.
    head = network.get_output_embeddings()  # type: ignore[operator]
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
    known = sorted({name.rsplit(".", 1)[-1] for name in layers})
    for target in targets:
        if any(name == target or name.endswith(f".{target}") for name in layers):
            continue
        near = difflib.get_close_matches(target, known, n=3, cutoff=0.5)
        raise UsageError(
            f"training.target_modules: found {target!r}, expected names of linear layers except the head: "
            f"{', '.join(known)}. {f'Did you mean {near[0]}?' if near else 'Choose among them.'}"
        )


def base_name(model: str) -> str:
    """The name of the adapters' base model on the hub, or of a local folder or file, without its path."""
    is_local = "://" in model or Path(model).is_absolute() or Path(model).exists()
    return model.rstrip("/").rpartition("/")[2] if is_local else model


def save_adapters(model: PeftModel, weights: Mapping[str, torch.Tensor], folder: Path, base: str) -> None:
    """Write `ADAPTER_FILES` for the base model `base`; `weights` are named as in the model."""
    config_file, weights_file = ADAPTER_FILES
    save_file(get_peft_model_state_dict(model, state_dict=dict(weights)), folder / weights_file)
    config = replace(model.peft_config["default"], inference_mode=True, base_model_name_or_path=base)
    config.target_modules = sorted(config.target_modules)  # peft makes it a set, whose order is random
    config.save_pretrained(str(folder))
    assert (folder / config_file).is_file()


def merged(model: PeftModel) -> PreTrainedModel:
    """The network with its adapters merged into its weights; the model cannot be used afterwards."""
    return cast(PreTrainedModel, model.merge_and_unload())
