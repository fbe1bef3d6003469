"""A language model of some ten thousand parameters with a tokenizer of its own, and conversations for it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"
TOPICS = (
    "tea",
    "rain",
    "bread",
    "music",
    "stones",
    "rivers",
    "trains",
    "birds",
    "snow",
    "paint",
    "maps",
    "bees",
)
FEELINGS = ("calm", "glad", "tired", "proud", "lonely", "curious")


def conversations() -> list[tuple[str, str]]:
    """Questions and answers, each question once."""
    return [
        (
            f"How do {topic} make you feel when you are {feeling}?" + " Please say." * (at % 3),
            f"With {topic} I am {feeling}" + ", truly" * (at % 4) + ", thank you.",
        )
        for at, (topic, feeling) in enumerate((topic, feeling) for topic in TOPICS for feeling in FEELINGS)
    ]


def write_jsonl(path: Path, rows: list[tuple[str, str]]) -> Path:
    """The rows as `input_text` and `output_text`."""
    lines = [json.dumps({"input_text": prompt, "output_text": answer}) for prompt, answer in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([text for row in conversations() for text in row], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def write_gpt2(folder: Path, context: int = 128) -> Path:
    """A GPT-2 of two layers."""
    tokenizer = _tokenizer()
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=context, n_embd=32, n_layer=2, n_head=2,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return _write(folder, GPT2LMHeadModel(config), tokenizer)


def write_llama(folder: Path, context: int = 128) -> Path:
    """A Llama of two layers with its head tied to the embedding, as SmolLM2 has."""
    tokenizer = _tokenizer()
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return _write(folder, LlamaForCausalLM(config), tokenizer)


def _write(
    folder: Path, model: GPT2LMHeadModel | LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
