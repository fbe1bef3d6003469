"""A language model of some ten thousand parameters with a tokenizer of its own, and conversations for it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gauntlet.tasks.causal_lm.tiny import train_tokenizer
from gauntlet.tasks.causal_lm.tiny import write_llama as write_tiny_llama

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


def write_gpt2(folder: Path, context: int = 128) -> Path:
    """A GPT-2 of two layers."""
    tokenizer = train_tokenizer(_texts())
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=context, n_embd=32, n_layer=2, n_head=2,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_llama(folder: Path, context: int = 128) -> Path:
    """A Llama of two layers with its head tied to the embedding, as SmolLM2 has."""
    return write_tiny_llama(folder, _texts(), context, seed=4, tied=True)


def _texts() -> list[str]:
    return [text for row in conversations() for text in row]
