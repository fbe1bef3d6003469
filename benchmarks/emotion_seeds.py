"""How good the recipe is, and how much of that is the seed: one training per seed, scored on the test split.

    python benchmarks/emotion_seeds.py manifests/emotion.yaml --set dataset.uri=DATA/emotion \\
        --set 'dataset.files={train: train.txt, test: validation.txt}'

The data is validated and split once, by the manifest's seed; each training's best epoch by the validation
split is scored once, in PyTorch. Printed: macro-F1, weighted F1 and accuracy of each seed as it ends, then
mean and standard deviation.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from pathlib import Path

from trainer.threads import wait_briefly

SCORES = ("macro_f1", "weighted_f1", "accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    options = parser.parse_args()
    wait_briefly()
    from components.validate_data.run import run as validate_data
    from manifests.loading import load_manifest

    manifest = load_manifest(options.manifest, options.overrides)
    found: dict[str, list[float]] = {score: [] for score in SCORES}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        splits = folder / "splits"
        validate_data(manifest.dataset, manifest.seed, splits, folder / "checks.json", folder / "data.html")
        for seed in range(options.seeds):
            scores = score_of(manifest, seed, splits, folder / f"checkpoint-{seed}")
            for name in SCORES:
                found[name].append(scores[name])
            print(f"seed {seed}  " + "  ".join(f"{name} {scores[name]:.4f}" for name in SCORES), flush=True)
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name}: mean {statistics.mean(values):.4f}, standard deviation {spread:.4f}")


def score_of(manifest, seed: int, splits: Path, checkpoint: Path) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Train with the seed, and score the best epoch's weights on the test split."""
    import torch
    from tokenizers import Tokenizer

    from trainer.batching import evaluation_batches
    from trainer.checkpoint import load_model
    from trainer.metrics import classification_metrics
    from trainer.run import TrainingRun, train
    from trainer.splits import read_split
    from trainer.tasks.text_classification import TokenizedRows

    run = TrainingRun(manifest.training, manifest.name, manifest.task, seed, splits, checkpoint)
    with contextlib.redirect_stdout(sys.stderr):
        train(run)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(manifest.training.max_length)
    rows = TokenizedRows(read_split(splits, "test"), tokenizer)
    model = load_model(checkpoint)
    logits = torch.empty(len(rows.labels), len(manifest.dataset.labels))
    with torch.no_grad():
        for batch in evaluation_batches(rows.lengths, 64):
            ids, mask, _ = rows.batch(batch, pad_id=0)
            logits[batch] = model(ids, mask)
    return classification_metrics(logits, rows.labels)


if __name__ == "__main__":
    main()
