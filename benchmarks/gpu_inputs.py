"""Models and data for `gpu.py`: networks of published sizes with random weights, and rows of joined texts.

How fast a network trains does not depend on its weights, and neither MiniLM's (87 MB) nor SmolLM2's (98 MB)
fit beside the wheels that a bare machine needs. So both are built from their configurations, with a tokenizer
made from the texts, and a loss measured on them says only that two trainers compute the same.

The rows are made from the samples that ship with Gauntlet: sentences of one emotion joined in pairs, and
questions and answers of one to six conversations joined, so that lengths differ as they do in real data.
Images are Fashion-MNIST's, or drawn shapes where only the path through the code is tried.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import json
import platform
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).resolve().parent.parent / "manifests/data"
EMOTION_FILE, ENCODER = "emotion.csv", "encoder"
CONVERSATION_FILE, LANGUAGE_MODEL = "conversations.jsonl", "language-model"
JOINED = (
    "dataset.name=joined_sample",
    "dataset.split={train: 0.8, validation: 0.1, test: 0.1}",
    "dataset.checks.leakage.severity=warn",
)
MOST_JOINED = 6  # conversations
SEED = 7

# https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/blob/main/config.json
MINILM = {
    "vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
    "intermediate_size": 1536, "max_position_embeddings": 512,
}  # fmt: skip
# https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct/blob/main/config.json
SMOLLM2 = {
    "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "intermediate_size": 1536, "max_position_embeddings": 8192,
    "rope_theta": 100_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
TINY = {
    "vocab_size": 2048, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 512,
}  # fmt: skip
TINY_DECODER = TINY | {"num_key_value_heads": 1, "tie_word_embeddings": True}


@dataclass(frozen=True)
class Inputs:
    """A manifest of this repository and what is set in it."""

    manifest: str
    overrides: tuple[str, ...]


def main() -> None:
    """Write the data, the models, and for each of them `NAME.json`; then what the machine has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with fashion-mnist/")
    parser.add_argument("--emotion-rows", type=int, required=True)
    parser.add_argument("--conversation-rows", type=int, required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    folder, is_tiny = options.folder, options.tiny
    write(folder / "machine.json", machine())
    write(folder / "emotion.json", asdict(emotion_inputs(folder, options.emotion_rows, is_tiny)))
    conversations = conversation_inputs(folder, options.conversation_rows, is_tiny)
    write(folder / "conversations.json", asdict(conversations))
    if options.data or is_tiny:
        write(folder / "images.json", asdict(image_inputs(folder, options.data)))


def write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    providers = []
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime

        providers = onnxruntime.get_available_providers()
    on_gpu = torch.cuda.is_available()
    packages = ("torch", "transformers", "peft", "trl", "accelerate", "onnxruntime", "onnxruntime-gpu")
    return {
        "device": "cuda" if on_gpu else "cpu",
        "name": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in packages},
        "onnxruntime_providers": providers,
    }


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def image_inputs(folder: Path, data: Path | None) -> Inputs:
    """Fashion-MNIST of `data`, or drawn shapes."""
    if data:
        # No validation split is used: the test file is scored, and chooses nothing.
        overrides: tuple[str, ...] = (
            f"dataset.uri={data / 'fashion-mnist'}",
            "dataset.validation_fraction=0.02",
        )
        return Inputs("manifests/fashion_mnist.yaml", overrides)
    from gauntlet.tasks.image_classification.tiny import write_files
    from tests.drawn_images import SHAPES, SIDE, draw

    drawn = write_files(folder / "drawn", draw(200, seed=1), draw(40, seed=2))
    return Inputs(
        "manifests/fashion_mnist.yaml",
        (
            f"dataset.uri={drawn}",
            "dataset.name=drawn",
            "dataset.sha256=null",
            f"dataset.labels=[{', '.join(SHAPES)}]",
            f"dataset.shape=[{SIDE}, {SIDE}]",
        ),
    )


def emotion_inputs(folder: Path, rows: int, is_tiny: bool) -> Inputs:
    """The emotion manifest on `rows` made rows and an encoder with random weights."""
    texts = list(emotion_rows(rows))
    with (folder / EMOTION_FILE).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *texts])
    write_encoder(folder / ENCODER, TINY if is_tiny else MINILM, [text for text, _ in texts])
    return emotion_settings(folder)


def emotion_settings(folder: Path) -> Inputs:
    return Inputs(
        "manifests/emotion.yaml",
        (
            f"dataset.uri={folder / EMOTION_FILE}",
            *JOINED,
            "dataset.checks.rows_per_class.severity=warn",
            f"training.encoder={folder / ENCODER}",
        ),
    )


def conversation_inputs(folder: Path, rows: int, is_tiny: bool) -> Inputs:
    """The LoRA manifest on `rows` made rows and a language model with random weights."""
    pairs = list(conversation_rows(rows))
    lines = (json.dumps({"input_text": asked, "output_text": answer}) for asked, answer in pairs)
    (folder / CONVERSATION_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = [text for row in pairs for text in row]
    write_language_model(folder / LANGUAGE_MODEL, TINY_DECODER if is_tiny else SMOLLM2, texts)
    return conversation_settings(folder)


def conversation_settings(folder: Path) -> Inputs:
    return Inputs(
        "manifests/lora_lm.yaml",
        (f"dataset.uri={folder / CONVERSATION_FILE}", *JOINED, f"training.model={folder / LANGUAGE_MODEL}"),
    )


def emotion_rows(rows: int) -> Iterator[tuple[str, str]]:
    """Pairs of the sample's sentences with the same label, no pair twice, the labels in turn."""
    by_label: dict[str, list[str]] = defaultdict(list)
    with (SAMPLES / "emotion_sample.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            by_label[row["label"]].append(row["text"])
    draw = random.Random(SEED)
    labels = list(by_label)
    each = rows // len(labels) + 1
    pairs = {label: draw.sample(list(combinations(texts, 2)), each) for label, texts in by_label.items()}
    for number in range(rows):
        label = labels[number % len(labels)]
        yield " ".join(pairs[label][number // len(labels)]), label


def conversation_rows(rows: int) -> Iterator[tuple[str, str]]:
    """Questions and answers of one to six conversations joined, no question twice."""
    document = json.loads((SAMPLES / "conversations_sample.json").read_text(encoding="utf-8"))
    openings = [_opening(conversation["text"]) for conversation in document["conversations"]]
    draw, seen = random.Random(SEED), set()
    while len(seen) < rows:
        joined = draw.sample(openings, draw.randint(1, MOST_JOINED))
        asked, answered = (" ".join(parts) for parts in zip(*joined, strict=True))
        if asked not in seen:
            seen.add(asked)
            yield asked, answered


def _opening(text: str) -> tuple[str, str]:
    """What the client says first, and the answer to it."""
    client, therapist = text.split("\n")[:2]
    return client.removeprefix("Client: "), therapist.removeprefix("Therapist: ")


def write_encoder(folder: Path, config: dict[str, Any], texts: Sequence[str]) -> None:
    """A BERT of that configuration with random weights, and a WordPiece tokenizer of the texts."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel

    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(texts, vocab_size=config["vocab_size"], show_progress=False)
    torch.manual_seed(SEED)
    BertModel(BertConfig(**config)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_language_model(folder: Path, config: dict[str, Any], texts: Iterable[str]) -> None:
    """A Llama of that configuration with random weights, and a byte-level BPE tokenizer of the texts."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    end = "<|im_end|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config["vocab_size"],
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)
    torch.manual_seed(SEED)
    ends = {"bos_token_id": fast.eos_token_id, "eos_token_id": fast.eos_token_id}
    LlamaForCausalLM(LlamaConfig(**config, **ends)).save_pretrained(folder)
    fast.save_pretrained(folder)


if __name__ == "__main__":
    main()
