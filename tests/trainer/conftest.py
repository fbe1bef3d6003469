"""Trainings in processes of their own, which tests interrupt."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from gauntlet.components.validate_data.run import run as validate
from gauntlet.manifests.loading import load_manifest
from tests import drawn_cards
from tests.conftest import LABELS
from tests.drawn_images import dataset
from tests.language_models import conversations, write_jsonl, write_llama

EPOCHS = 3
STEPS_PER_EPOCH = 9  # 72 rows, batches of 8
STEPS = EPOCHS * STEPS_PER_EPOCH
TIMES = ("seconds", "examples_per_second", "cost_usd", "usage")


@dataclass(frozen=True)
class Trainings:
    """Trainings of one manifest that share a folder of training states."""

    manifest: Path
    splits: Path
    folder: Path

    def attempt(
        self,
        output: str,
        fault: str = "",
        at: int = 0,
        *overrides: str,
        states: str = "states",
        ranks: int = 1,
    ) -> dict[str, Any]:
        checkpoints = str(self.folder / states) if states else ""
        arguments = ["--manifest", str(self.manifest), "--splits", str(self.splits)]
        arguments += ["--output", str(self.folder / output), "--resume-dir", checkpoints]
        arguments += [part for override in overrides for part in ("--set", override)]
        return {"arguments": arguments, "fault": fault, "at": at, "ranks": ranks}

    def undisturbed(self, *overrides: str, ranks: int = 1) -> dict[str, Any]:
        return self.attempt("undisturbed", "", 0, *overrides, states="states-of-the-undisturbed", ranks=ranks)

    def states(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "states").iterdir())

    def outcome(self, output: str) -> tuple[str, dict[str, Any]]:
        """The sha256 of the final weights, and the history without what depends on the time of day."""
        weights = (self.folder / output / "model.safetensors").read_bytes()
        history = json.loads((self.folder / output / "history.json").read_text())
        for record in (history, *history["epochs"]):
            for key in TIMES:
                record.pop(key, None)
        return hashlib.sha256(weights).hexdigest(), history


@pytest.fixture
def trainings(tiny_encoder: Path, tiny_splits: Path, tmp_path: Path) -> Trainings:
    content = {
        "name": "tiny",
        "description": "Three classes",
        "task": "text_classification",
        "seed": 5,
        "dataset": {"name": "tiny", "version": "1", "uri": "data.csv", "labels": list(LABELS)},
        "training": {
            "encoder": str(tiny_encoder),
            "epochs": EPOCHS,
            "batch_size": 8,
            "gradient_accumulation": 2,
            "learning_rate": 2e-3,
            "dropout": 0.1,
            "schedule": "reduce_on_plateau",
            "early_stopping": {"metric": "macro_f1", "patience": 3},
            "resume": {"every_steps": 4},
        },
        "gates": {"min_macro_f1": 0.5},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    return Trainings(tmp_path / "tiny.yaml", tiny_splits, tmp_path)


@pytest.fixture
def image_trainings(image_splits: Path, tmp_path: Path) -> Trainings:
    content = {
        "name": "drawn",
        "description": "Three shapes",
        "task": "image_classification",
        "seed": 5,
        "dataset": dataset(tmp_path),
        "training": {
            "filters": [4, 8],
            "units": 16,
            "augmentation": {"rotation": 15, "shift": 0.1, "zoom": 0.1, "horizontal_flip": True},
            "epochs": EPOCHS,
            "batch_size": 8,
            "gradient_accumulation": 2,
            "learning_rate": 1e-2,
            "schedule": "reduce_on_plateau",
            "early_stopping": {"metric": "accuracy", "patience": 3},
            "resume": {"every_steps": 4},
        },
        "gates": {"min_macro_f1": 0.5},
    }
    (tmp_path / "drawn.yaml").write_text(yaml.safe_dump(content))
    return Trainings(tmp_path / "drawn.yaml", image_splits, tmp_path)


@pytest.fixture
def card_trainings(card_splits: Path, tmp_path: Path) -> Trainings:
    """A phase of one epoch and one of two, of as many steps as the other trainings have."""
    content = {
        "name": "drawn_cards",
        "description": "Cards with a bar",
        "task": "ordinal_grading",
        "seed": 5,
        "dataset": drawn_cards.dataset(tmp_path),
        "training": {
            "filters": [4, 8],
            "units": 16,
            "augmentation": {"rotation": 5, "shift": 0.05, "horizontal_flip": True},
            "phase1_epochs": 1,
            "lr_phase1": 1e-2,
            "phase2_epochs": EPOCHS - 1,
            "lr_phase2": 5e-3,
            "batch_size": 7,
            "dropout": 0.2,
            "schedule": "cosine",
            "resume": {"every_steps": 4},
        },
        "gates": {"min_macro_f1": 0.0, "min_qwk": 0.5, "max_mae": 2.0},
    }
    (tmp_path / "cards.yaml").write_text(yaml.safe_dump(content))
    return Trainings(tmp_path / "cards.yaml", card_splits, tmp_path)


@pytest.fixture
def language_trainings(tmp_path: Path) -> Trainings:
    """A tiny Llama's adapters, with dropout, on the 72 conversations."""
    data = tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "train.jsonl", conversations())
    for split in ("validation", "test"):
        others = [(f"{split} {prompt} {split} again", answer) for prompt, answer in conversations()[::6]]
        write_jsonl(data / f"{split}.jsonl", others)
    content = {
        "name": "talk",
        "description": "Short answers",
        "task": "causal_lm",
        "seed": 5,
        "dataset": {"name": "talk", "version": "1", "uri": str(data), "max_tokens": 96},
        "training": {
            "model": str(write_llama(tmp_path / "model")),
            "lora_dropout": 0.1,
            "epochs": EPOCHS,
            "batch_size": 8,
            "gradient_accumulation": 2,
            "learning_rate": 2e-2,
            "schedule": "reduce_on_plateau",
            "early_stopping": {"metric": "loss", "patience": 3},
            "resume": {"every_steps": 4},
        },
        "gates": {"max_perplexity": 500},
    }
    (tmp_path / "talk.yaml").write_text(yaml.safe_dump(content))
    section = load_manifest(tmp_path / "talk.yaml").dataset
    validate("causal_lm", section, tmp_path / "splits", tmp_path / "checks", tmp_path / "report.html")
    return Trainings(tmp_path / "talk.yaml", tmp_path / "splits", tmp_path)


Run = Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run(warm_processes: None) -> Iterator[Run]:
    """Makes attempts one after the other, each in a process of its own, and says how they ended."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.interrupted"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def attempt_all(attempts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            ended = []
            for attempt in attempts:
                print(json.dumps(attempt), file=process.stdin, flush=True)
                ended.append(json.loads(process.stdout.readline()))
            return ended

        yield attempt_all
