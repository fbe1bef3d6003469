"""How good a recipe is, and how much of that is the seed: one training per seed, scored on the test split.

    python benchmarks/seeds.py manifests/emotion.yaml --seeds 5 --set dataset.uri=DATA/emotion \\
        --set 'dataset.files={train: train.txt, test: validation.txt}'
    python benchmarks/seeds.py manifests/fashion_mnist.yaml --set dataset.uri=DATA/fashion-mnist

The data is validated and split once, by the manifest's seed; each training's best epoch by the validation
split is scored once, in PyTorch. Printed: macro-F1, weighted F1 and accuracy of each seed as it ends, of a
grader QWK, mean absolute error, share within one grade and centering error; then mean and standard deviation.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

from gauntlet.trainer.process import settle_process

SCORES = ("macro_f1", "weighted_f1", "accuracy")
GRADING_SCORES = ("qwk", "mae", "within_one", "centering_error")
BATCH_SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    options = parser.parse_args()
    settle_process()
    from gauntlet.components.validate_data.run import run as validate_data
    from gauntlet.manifests.loading import load_manifest

    manifest = load_manifest(options.manifest, options.overrides)
    names = GRADING_SCORES if manifest.task == "ordinal_grading" else SCORES
    found: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        splits = folder / "splits"
        validate_data(manifest.task, manifest.dataset, splits, folder / "checks.json", folder / "data.html")
        for seed in range(options.seeds):
            began = time.monotonic()
            scores = score_of(manifest, seed, splits, folder / f"checkpoint-{seed}")
            for name in names:
                found[name].append(scores[name])
            figures = "  ".join(f"{name} {scores[name]:.4f}" for name in names)
            print(f"seed {seed}  {figures}  {time.monotonic() - began:.0f} s", flush=True)
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{name}: mean {statistics.mean(values):.4f}, standard deviation {spread:.4f}")


def score_of(manifest, seed: int, splits: Path, checkpoint: Path) -> dict[str, float]:  # type: ignore[no-untyped-def]
    """Train with the seed, and score the best epoch's weights on the test split."""
    import numpy as np
    import torch

    from gauntlet.components.convert_to_onnx.scoring import pytorch_forward
    from gauntlet.manifests.kinds import task_kind
    from gauntlet.tasks.classification.training import classification_metrics
    from gauntlet.trainer.batching import evaluation_batches
    from gauntlet.trainer.run import TrainingRun, train
    from gauntlet.trainer.saved_model import load_model, read_record

    run = TrainingRun(manifest.training, manifest.name, manifest.task, seed, splits, checkpoint)
    with contextlib.redirect_stdout(sys.stderr):
        train(run)
    if manifest.task == "ordinal_grading":
        return grading_scores(splits, checkpoint)
    open_subject = task_kind(manifest.task).function("conversion", "open_subject")
    rows = open_subject(manifest.conversion, checkpoint, read_record(checkpoint), splits, seed).read_rows(
        "test"
    )
    forward = pytorch_forward(load_model(checkpoint))
    logits = np.empty((len(rows), len(rows.labels)), dtype=np.float32)
    for batch in map(np.array, evaluation_batches(rows.lengths, BATCH_SIZE)):
        logits[batch] = forward(rows.batch(batch))
    return classification_metrics(torch.from_numpy(logits), rows.truth)


def grading_scores(splits: Path, checkpoint: Path) -> dict[str, float]:
    """What the best epoch's weights make of the test cards."""
    import numpy as np
    import torch

    from gauntlet.tasks.ordinal_grading.data import read_card_split
    from gauntlet.tasks.ordinal_grading.metrics import mean_known_error, measure_grades
    from gauntlet.trainer.saved_model import load_model

    cards, model = read_card_split(splits, "test"), load_model(checkpoint)
    predicted, centering = [], []
    with torch.inference_mode():
        for sides in torch.from_numpy(cards.images).split(BATCH_SIZE):
            found = model(sides[:, 0], sides[:, 1])
            predicted.append(found.logits.argmax(dim=1).numpy())
            centering.append(found.centering.numpy())
    figures = measure_grades(cards.labels, np.concatenate(predicted), found.logits.shape[1])
    error = mean_known_error(np.concatenate(centering), cards.centering)
    return vars(figures) | {"centering_error": float("nan") if error is None else error}


if __name__ == "__main__":
    main()
