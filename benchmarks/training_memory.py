"""Memory of a training on ten thousand and on a million rows: texts, conversations, images.

    python benchmarks/training_memory.py [--rows 10000 1000000] [--steps 20] [--kinds texts images]

Writes splits of synthetic rows as validate-data does, and takes a few steps with a tiny network, in a process
for each number of rows. Printed: the peak of the memory that belongs to the process alone (`Anonymous` in
/proc/self/smaps_rollup), which files that are mapped into memory are no part of, and the seconds until the
first step: on a second training of texts the token ids are read from the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("texts", "conversations", "images")
WORDS = [f"word{number}" for number in range(5_000)]
WORDS_PER_TEXT = 20
SIDE = 32
WRITTEN_AT_ONCE = 50_000
VALIDATION_ROWS = 500
BATCH_SIZE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument(
        "--train", nargs=3, help=argparse.SUPPRESS
    )  # a kind, a folder, steps: one measurement
    given = parser.parse_args()
    if given.train:
        kind, folder, steps = given.train
        print(json.dumps(train(kind, Path(folder), int(steps))))
        return
    print("kind  rows  training  MB of its own  s to the first step")
    for kind in given.kinds:
        for rows in given.rows:
            with tempfile.TemporaryDirectory() as folder:
                write(kind, Path(folder), rows)
                for training in ("first", "second"):
                    command = [sys.executable, __file__, "--train", kind, folder, str(given.steps)]
                    environment = os.environ | {"GAUNTLET_TOKEN_CACHE": str(Path(folder, "tokens"))}
                    said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
                    found = json.loads(said.splitlines()[-1])
                    print(
                        f"{kind}  {rows:,}  {training}  {found['mb']:,.0f}  {found['seconds']:.1f}",
                        flush=True,
                    )


# --- rows --------------------------------------------------------------------------------------------


def write(kind: str, folder: Path, rows: int) -> None:
    """Splits of synthetic rows, written in pieces, and a tiny model."""
    if kind == "images":
        statistics = write_images(folder, rows)
    else:
        statistics = write_texts(folder, rows, ["text"] if kind == "texts" else ["prompt", "target"])
        write_model(folder / "model", kind)
    content = {
        "name": "memory",
        "version": "1",
        "uri": "synthetic",
        "labels": ["a", "b"],
        "sha256": "0" * 64,
        "rows": {"train": rows},
        "class_counts": {},
        **statistics,
    }
    if kind == "conversations":
        model = str(folder / "model")
        content |= {"tokenizer": model, "max_tokens": 128, "frame": ["", ""], "token_length": {}}
    (folder / "statistics.json").write_text(json.dumps(content))


def write_texts(folder: Path, rows: int, names: list[str]) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator, words = np.random.default_rng(0), np.array(WORDS)
    schema = pa.schema([(name, pa.string()) for name in names])
    schema = schema.append(pa.field("label", pa.int64())).append(pa.field("row", pa.int64()))
    for split, count in (("train", rows), ("validation", VALIDATION_ROWS)):
        with pq.ParquetWriter(folder / f"{split}.parquet", schema) as writer:
            for start in range(0, count, WRITTEN_AT_ONCE):
                size = min(WRITTEN_AT_ONCE, count - start)
                drawn = words[generator.integers(0, len(words), (size, WORDS_PER_TEXT))]
                texts = [" ".join(row) for row in drawn.tolist()]
                columns = [
                    *[texts] * len(names),
                    generator.integers(0, 2, size),
                    np.arange(start, start + size),
                ]
                writer.write_table(pa.table(columns, schema=schema))
    return {}


def write_images(folder: Path, rows: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    for split, count in (("train", rows), ("validation", VALIDATION_ROWS)):
        scratch = folder / "images"
        images = np.memmap(scratch, np.uint8, "w+", shape=(count, SIDE, SIDE, 3))
        for start in range(0, count, WRITTEN_AT_ONCE):
            piece = images[start : start + WRITTEN_AT_ONCE]
            piece[:] = generator.integers(0, 256, piece.shape, dtype=np.uint8)
        with (folder / f"{split}.npz").open("wb") as file:
            np.savez(file, images=images, label=generator.integers(0, 2, count), row=np.arange(count))
        scratch.unlink()
    half = {"mean": [127.5] * 3, "std": [73.9] * 3, "edges": [0], "brightness": [rows]}
    return {"shape": [SIDE, SIDE], "channels": 3, "pixels": {"train": half}}


def write_model(folder: Path, kind: str) -> None:
    """Random weights, and a tokenizer by words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    if kind == "texts":
        BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
        tokenizer.save(str(folder / "tokenizer.json"))
        return
    LlamaForCausalLM(LlamaConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[PAD]", unk_token="[UNK]")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)


# --- one measurement ---------------------------------------------------------------------------------


def train(kind: str, folder: Path, steps: int) -> dict[str, float]:
    """Peak of the process's own memory, in MB, and the seconds until its first step."""
    import torch

    from gauntlet.manifests.kinds import task_kind
    from gauntlet.trainer.batching import rank_share, training_batches
    from gauntlet.trainer.ranks import World
    from gauntlet.trainer.replica import Replica

    names = {"texts": "text_classification", "conversations": "causal_lm", "images": "image_classification"}
    settings: dict[str, dict[str, Any]] = {
        "texts": {"encoder": str(folder / "model"), "max_length": 64},
        "conversations": {"model": str(folder / "model"), "target_modules": ["q_proj"]},
        "images": {"filters": (8, 8), "units": 16},
    }
    kind_of = task_kind(names[kind])
    section_of = kind_of.manifest_class().model_fields["training"].annotation
    section = section_of.model_validate(
        {**settings[kind], "compute_target": "cpu", "precision": "fp32", "batch_size": BATCH_SIZE}
    )
    peak = Peak()
    began = time.monotonic()
    with peak:
        task = kind_of.function("training", "load_task")(section, folder)
        torch.manual_seed(0)
        replica = Replica(task, task.build_model(), section, torch.device("cpu"), World())
        batches = training_batches(task.train_lengths, BATCH_SIZE, 0, 1, task.sampling_chances)
        seconds = time.monotonic() - began
        weights = np.asarray(task.train_weights)
        for batch in batches[:steps]:
            prepared = replica.prepare((0, 1), rank_share(batch, 1, 0, 1))
            replica.step(prepared, float(weights[batch].sum()), 1e-4)
        replica.validate(1)
    return {"mb": peak.bytes / 1e6, "seconds": seconds}


class Peak:
    """The largest size of this process's own memory within a block, looked at every 10 ms."""

    def __init__(self) -> None:
        self.bytes, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
            anonymous = next(line for line in lines if line.startswith("Anonymous:"))
            self.bytes = max(self.bytes, int(anonymous.split()[1]) * 1024)


if __name__ == "__main__":
    main()
