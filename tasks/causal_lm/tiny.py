"""Settings, data and a model with which any manifest of the kind trains in seconds, for `gauntlet smoke`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SETTINGS: dict[str, Any] = {
    "training.epochs": 1,
    "training.batch_size": 16,
    "training.gradient_accumulation": 1,
    "training.target_modules": ["q_proj", "v_proj"],
    "dataset.checks.context_length": {"severity": "warn", "max_fraction": 1.0},
    "conversion.candidates": ["plain"],
    "evaluation.prompts": 4,
    "evaluation.max_new_tokens": 8,
}
FEWER_PROBES = {"evaluation.therapy.training_probes": 4}
PACKAGED_CONVERSATIONS = "package://gauntlet.manifests/data/conversations_sample.json"
END = "<|end|>"
SAMPLE = "User: What makes you feel calm?\nAssistant: Walking slowly, and talking to a friend.\n"
LONGEST_CONTEXT = 131_072  # whatever dataset.max_tokens is


def settings(manifest: Any, folder: Path, at_hand: bool) -> tuple[dict[str, Any], str]:
    """Manifest keys to set, and in words which conversations are read. The model has random weights."""
    model = str(write_llama(folder / "model", [SAMPLE], LONGEST_CONTEXT))
    own = SETTINGS | {"training.model": model, "dataset.tokenizer": model}
    if manifest.evaluation.therapy is not None:
        own |= FEWER_PROBES
    if at_hand:
        return own, "its own"
    packaged = {"name": manifest.dataset.name, "version": "drawn", "uri": PACKAGED_CONVERSATIONS}
    return {"dataset": packaged} | own, "packaged"


def write_llama(folder: Path, texts: Iterable[str], context: int, seed: int = 0, tied: bool = False) -> Path:
    """A Llama of two layers with random weights, which the head shares if `tied`, and a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=context,
                tie_word_embeddings=tied,
                bos_token_id=tokenizer.eos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 400 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
