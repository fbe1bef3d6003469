"""Language models that answer everything with one sentence: a GPT-2 whose weights are set by hand.

Its attention and its layers add nothing, so the next token follows from the last one alone: the embedding
says which token that is, and the head names the next word of the sentence.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from gauntlet.serving.bundle import BundleInfo, write_bundle
from gauntlet.tasks.causal_lm.decoder import export_decoder

END, ASK, UNKNOWN = "<|end|>", "<|ask|>", "<|unknown|>"


def write_parrot(folder: Path, sentence: str) -> Path:
    """A bundle of a model that says the sentence, whose words are all different."""
    words = sentence.split()
    assert len(set(words)) == len(words)
    vocabulary = [END, UNKNOWN, ASK, *words]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(vocabulary)}, UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir(parents=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, unk_token=UNKNOWN, additional_special_tokens=[ASK]
    ).save_pretrained(folder)
    network = _network(len(vocabulary))
    network.save_pretrained(folder)
    export_decoder(network, folder / "graph.onnx")
    info = BundleInfo(
        name="parrot",
        task="causal_lm",
        labels=(),
        inputs=(),
        outputs=(),
        max_length=256,
        frame=("", f" {ASK}"),
        opset=23,
        candidate="plain",
        precision="fp32",
        quality={},
        latency_ms={},
        speedup={},
        lineage={"encoder": str(folder)},
    )
    files = {"model.onnx": folder / "graph.onnx", "tokenizer.json": folder / "tokenizer.json"}
    write_bundle(folder / "bundle", info, files)
    return folder / "bundle"


def _network(size: int) -> GPT2LMHeadModel:
    """Token `ASK` is followed by the first word, each word by the next one, the last one by `END`."""
    network = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size, n_positions=512, n_embd=size, n_layer=1, n_head=1, tie_word_embeddings=False,
            bos_token_id=0, eos_token_id=0,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.transformer.wte.weight.copy_(torch.eye(size))
        network.transformer.ln_f.weight.fill_(1.0)
        for token in range(2, size):
            network.lm_head.weight[(token + 1) % size, token] = 9.0
    return network
