"""Training speed: this trainer against Hugging Face's `Trainer` and a plain loop.

    pip install accelerate
    python benchmarks/training_throughput.py manifests/emotion.yaml --set dataset.uri=… --runs 3

Every contestant fine-tunes the manifest's encoder under the same head, from the same weights, on the same
rows (the first `steps × batch_size` of the training split, once), with the same AdamW, learning rates and
clipping, in a process of its own; they take turns. Printed: examples/s after the warm-up steps, peak memory,
and the loss on 500 validation rows after the last step, which has to be about the same for a comparison to
mean something.

On a GPU also MFU = examples/s × FLOP per example / peak, with FLOP per token = 6 × weights in matrices + 12 ×
layers × hidden size × tokens (Chowdhery et al., 2022, appendix B), over the tokens that are no padding.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from race import peak_flops, race

WARM_UP_STEPS = 8
VALIDATION_ROWS = 500

OURS: dict[str, dict[str, Any]] = {
    "gauntlet, fp32": {"precision": "fp32"},
    "gauntlet, bf16": {"precision": "bf16"},
    "gauntlet, bf16 + compile": {"precision": "bf16", "compile": True},
}
TRAINER: dict[str, dict[str, Any]] = {
    "Trainer, defaults": {},
    "Trainer, length groups + bf16": {"train_sampling_strategy": "group_by_length", "bf16": True},
    "Trainer, length groups + bf16 + compile": {
        "train_sampling_strategy": "group_by_length",
        "bf16": True,
        "torch_compile": True,
    },
}
PLAIN = "plain loop, fp32"


def main() -> None:
    race(__doc__ or "", tuple(OURS), (*TRAINER, PLAIN), "examples/s", 60, work)


# --- in the process of one contestant ---------------------------------------------------------------


@dataclass
class Race:
    """What every contestant is given."""

    section: Any
    task: Any
    rows: int
    device: Any


def work(contestant: str, options: argparse.Namespace, splits: Path) -> dict[str, Any]:
    if contestant in OURS:
        from gauntlet.trainer.process import settle_process

        settle_process()  # what it does at home
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from gauntlet.manifests.loading import load_manifest
    from gauntlet.tasks.text_classification.training import TextClassification
    from gauntlet.trainer.device import choose_device, make_deterministic
    from gauntlet.trainer.ranks import World

    manifest = load_manifest(options.manifest, options.overrides)
    section = manifest.training.model_copy(update={"epochs": 1, **OURS.get(contestant, {})})
    device = choose_device(section.compute_target, World())
    make_deterministic(manifest.seed)
    if contestant not in OURS:
        torch.use_deterministic_algorithms(False)
    task = FirstRows(TextClassification(section, splits), options.steps * section.batch_size)
    race = Race(section, task, options.steps * section.batch_size, device)
    times: list[float] = []
    register_optimizer_step_post_hook(lambda *_: times.append(time.perf_counter()))
    if contestant in OURS:
        weights = train_ours(race, manifest.seed)
    elif contestant in TRAINER:
        weights = train_with_trainer(race, TRAINER[contestant])
    else:
        weights = train_plainly(race)
    if device.type == "cuda":
        torch.cuda.synchronize()
        times[-1] = time.perf_counter()
        peak = torch.cuda.max_memory_allocated() / 1e9
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    assert len(times) == options.steps, f"{len(times)} steps, not {options.steps}"
    rate = (options.steps - WARM_UP_STEPS) * section.batch_size / (times[-1] - times[WARM_UP_STEPS - 1])
    return {
        "rate": rate,
        "peak_gb": peak,
        "final_loss": final_loss(race, weights),
        "mfu": mfu(race, rate) if device.type == "cuda" else None,
    }


class FirstRows:
    """A task with its first training rows alone."""

    def __init__(self, task: Any, rows: int) -> None:
        self._task = task
        self.train_lengths = task.train_lengths[:rows]
        assert len(self.train_lengths) == rows, "the training split is too small for --steps"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


def train_ours(race: Race, seed: int) -> Any:
    from gauntlet.tasks.texts.network import with_whole_tables
    from gauntlet.trainer.loop import fit
    from gauntlet.trainer.ranks import World
    from gauntlet.trainer.replica import Replica

    class Untracked:
        def log_metrics(self, metrics: Any, step: int) -> None:
            pass

    kept: list[Any] = []
    model = race.task.build_model()
    replica = Replica(race.task, model, race.section, race.device, World())
    fit(replica, race.section, seed, lambda weights, _: kept.append(weights), Untracked())
    return with_whole_tables(model, kept[-1])


def plain_model(race: Race) -> Any:
    from gauntlet.tasks.texts.encoder_files import find_encoder
    from gauntlet.tasks.texts.network import TextClassifier, load_encoder

    encoder: Any = load_encoder(find_encoder(race.section.encoder).folder, dropout=race.section.dropout)
    classes = int(race.task._validation.targets.max()) + 1
    return TextClassifier(encoder, encoder.config.hidden_size, classes, race.section.dropout)


def train_with_trainer(race: Race, flags: dict[str, Any]) -> Any:
    import torch
    from torch import nn
    from torch.nn import functional
    from transformers import Trainer, TrainingArguments

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = plain_model(race)

        def forward(self, input_ids: Any, attention_mask: Any, labels: Any) -> dict[str, Any]:
            logits = self.model(input_ids, attention_mask)
            return {"loss": functional.cross_entropy(logits.float(), labels), "logits": logits}

    rows = [
        {"input_ids": race.task._train.ids[i], "labels": int(race.task._train.targets[i])}
        for i in range(race.rows)
    ]

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        """As DataCollatorWithPadding, which wants a tokenizer."""
        width = max(len(row["input_ids"]) for row in batch)
        ids = torch.full((len(batch), width), race.task._pad_id)
        mask = torch.zeros_like(ids)
        for at, row in enumerate(batch):
            ids[at, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            mask[at, : len(row["input_ids"])] = 1
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": torch.tensor([row["labels"] for row in batch]),
        }

    model = WithLoss()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=race.section.batch_size,
            learning_rate=race.section.learning_rate,
            weight_decay=race.section.weight_decay,
            warmup_steps=max(1, round(len(rows) / race.section.batch_size * race.section.warmup_fraction)),
            max_grad_norm=race.section.max_grad_norm,
            lr_scheduler_type="linear",
            use_cpu=race.device.type == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **flags,
        )
        Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate).train()  # type: ignore[arg-type]
    return model.model.state_dict()


def train_plainly(race: Race) -> Any:
    """A loop as tutorials write it: shuffled rows, padded to the longest of the batch, fp32."""
    import torch
    from torch.nn import functional

    from gauntlet.trainer.schedule import learning_rate

    model = plain_model(race).to(race.device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=race.section.learning_rate, weight_decay=race.section.weight_decay
    )
    order = torch.randperm(race.rows).tolist()
    steps = race.rows // race.section.batch_size
    for step in range(steps):
        rows = order[step * race.section.batch_size : (step + 1) * race.section.batch_size]
        ids, mask, labels = (tensor.to(race.device) for tensor in race.task.training_batch(rows, (0, 0)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(race.section, race.section.phases[0], step + 1, steps, [])
        optimizer.zero_grad()
        functional.cross_entropy(model(ids, mask), labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), race.section.max_grad_norm)
        optimizer.step()
    return model.state_dict()


def final_loss(race: Race, weights: Any) -> float:
    import torch
    from torch.nn import functional

    model = plain_model(race).to(race.device).eval()
    model.load_state_dict(weights)
    rows = list(range(min(VALIDATION_ROWS, len(race.task.validation_lengths))))
    ids, mask, labels = (tensor.to(race.device) for tensor in race.task.validation_batch(rows, 1))
    with torch.no_grad():
        return float(functional.cross_entropy(model(ids, mask), labels))


def mfu(race: Race, examples_per_second: float) -> float:

    encoder = plain_model(race).encoder
    config, tokens = encoder.config, statistics.fmean(race.task.train_lengths)
    matrices = sum(
        p.numel() for name, p in encoder.named_parameters() if p.ndim == 2 and "embedding" not in name
    )
    per_token = 6 * matrices + 12 * config.num_hidden_layers * config.hidden_size * tokens
    return examples_per_second * tokens * per_token / peak_flops()


if __name__ == "__main__":
    main()
