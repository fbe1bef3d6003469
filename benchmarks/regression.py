"""How well numbers are predicted: from texts, from texts that hardly tell them, and from pictures of cards.

    python benchmarks/regression.py --ratings FOLDER [--counsel FILE] [--quick]

FOLDER has amazonReviewSnippets_GroundTruth.txt: 3,708 sentences of product reviews, each with the mean of
20 people's ratings from -4 to 4 (Hutto & Gilbert, ICWSM 2014; MIT licence). It is in an archive inside the
source distribution of vaderSentiment 0.5:

    pip download --no-deps --no-binary :all: vaderSentiment==0.5
    unzip vaderSentiment-0.5.zip && tar xzf vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz

FILE is counsel-chat's conversations.csv, whose upvotes of an answer depend on much that is not in its text.
Cards are drawn, so they need no files. `gauntlet run` takes every system from data to its gate. Aims, each of
which is printed with what was found; exit code 1 if one is missed:

1. The mean absolute error of sentiment is less than that of VADER, fitted to the training rows by a line, and
   of the training rows' mean: both by the upper limit of a paired bootstrap interval (95 %).
2. R² of sentiment is at least 0.5 (VADER's correlation in the paper, 0.565, is an R² of 0.32), and the model
   is promoted.
3. The 90 % interval holds 90 % of the test rows' numbers, within 2.58 standard errors: those of the test rows
   and of the validation rows, by which its width was measured.
4. A model of upvotes is rejected by `min_r2: 0.1`: its R² is not surely more than that.
5. Cards are graded by regression on the same cards in the same splits as by the ordinal grader, and the
   mean absolute error is printed beside the grader's; it is less than that of the training cards' mean.

`--quick` uses fewer rows and epochs, and is less strict: sentiment better than the mean, an R² of 0.2, and
cards no worse than one and a half times the mean.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

ROWS, QUICK_ROWS = None, 900
CARDS, QUICK_CARDS = 300, 160
SHAPE, QUICK_SHAPE = (88, 64), (66, 48)
EPOCHS, QUICK_EPOCHS = (5, 15), (2, 4)
"""Of the grader's two phases; regression trains for as many in one."""

RESAMPLES = 5_000
MOST_ERRORS = 2.58  # standard errors: 99 % of a normal distribution
TEXTS: dict[str, Any] = {
    "training": {"max_length": 64, "batch_size": 16, "learning_rate": 2e-4, "precision": "fp32"},
    "conversion": {"candidates": ["fused"], "pytorch": ["eager"], "batch_sizes": [1]},
}


@dataclass
class Aims:
    """The aims, and how many were missed."""

    missed: int = 0

    def judge(self, what: str, holds: bool) -> None:
        """Print the aim."""
        print(f"{'met   ' if holds else 'MISSED'}  {what}", flush=True)
        self.missed += not holds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ratings", type=Path, required=True)
    parser.add_argument("--counsel", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    aims, parts = Aims(), []
    with tempfile.TemporaryDirectory(prefix="gauntlet-regression-") as scratch:
        folder = Path(scratch)
        parts.append(sentiment(folder, options.ratings, options.quick, aims))
        if options.counsel is not None:
            parts.append(upvotes(folder, options.counsel, options.quick, aims))
        parts.append(cards(folder, options.quick, aims))
    print(f"regression: {'; '.join(parts)}; {aims.missed} aims missed")
    return 1 if aims.missed else 0


# --- sentiment ---------------------------------------------------------------------------------------


def sentiment(folder: Path, ratings: Path, quick: bool, aims: Aims) -> str:
    """The system of the how-to, on all rows."""
    source = ratings / "amazonReviewSnippets_GroundTruth.txt"
    lines = [line.split("\t") for line in source.read_text(encoding="utf-8").splitlines()]
    rows = [(text.strip(), float(rating)) for _, rating, text in lines][: QUICK_ROWS if quick else ROWS]
    data = write_table(folder / "reviews.csv", ("text", "sentiment"), rows)
    found = run(
        folder,
        "sentiment",
        {
            "uri": str(data),
            "columns": {"text": "text", "target": "sentiment"},
            "target": {"min": -4, "max": 4, "tolerance": 0.5},
            "checks": {
                "conflicting_targets": {"severity": "drop", "max_fraction": 0.01},
                "exact_duplicates": {"severity": "drop", "max_fraction": 0.01},
            },
        },
        {
            **TEXTS,
            "gates": {"max_mae": 1.5 if quick else 0.8, "min_interval_coverage": 0.7, "min_speedup": 0.1},
        },
        {"training.epochs": 2 if quick else 4},
    )
    test = pd.read_parquet(found.step("evaluate-model") / "predictions")
    train = pd.read_parquet(found.step("validate-data") / "splits" / "train.parquet")
    errors = np.abs(test["predicted"] - test["target"]).to_numpy()
    mean = np.abs(train["target"].mean() - test["target"]).to_numpy()
    vader = np.abs(fitted_vader(train, test["text"].tolist()) - test["target"]).to_numpy()
    challenger = found.scores["challenger"]
    low, high = challenger["intervals"]["mae"]
    print(
        f"sentiment, {len(train):,} training and {len(test):,} test rows: MAE {challenger['mae']:.3f} "
        f"({low:.3f} to {high:.3f}), R² {challenger['r2']:.3f}; VADER {vader.mean():.3f}, mean "
        f"{mean.mean():.3f}"
    )
    references = {"the training mean": mean} if quick else {"the training mean": mean, "VADER": vader}
    for name, reference in references.items():
        least = np.quantile(resampled(reference - errors), 0.025)
        aims.judge(f"1. MAE less than that of {name} by at least {least:+.3f}", least > 0)
    aims.judge(f"2. R² {challenger['r2']:.3f}", challenger["r2"] >= (0.2 if quick else 0.5))
    aims.judge(f"2. decision: {found.decision}", found.decision == "promote")
    coverage, validated = challenger["coverage"], found.rows("validation")
    doubt = MOST_ERRORS * np.sqrt(0.9 * 0.1 * (1 / len(test) + 1 / validated))
    aims.judge(
        f"3. {coverage:.1%} of the numbers in their 90 % interval, ± {doubt:.1%}",
        abs(coverage - 0.9) <= doubt,
    )
    return f"sentiment MAE {challenger['mae']:.3f} (VADER {vader.mean():.3f}), R² {challenger['r2']:.2f}"


def fitted_vader(train: pd.DataFrame, texts: list[str]) -> np.ndarray:
    """VADER's compound scores of texts, on the line through those of the training rows."""
    analyzer = SentimentIntensityAnalyzer()
    compound: Callable[[str], float] = lambda text: analyzer.polarity_scores(text)["compound"]  # noqa: E731
    slope, start = np.polyfit([compound(text) for text in train["text"]], train["target"], 1)
    return slope * np.array([compound(text) for text in texts]) + start


def resampled(differences: np.ndarray) -> np.ndarray:
    """The means of `RESAMPLES` draws of the differences with replacement."""
    generator, rows = np.random.default_rng(0), len(differences)
    return np.array([differences[generator.integers(rows, size=rows)].mean() for _ in range(RESAMPLES)])


# --- upvotes -----------------------------------------------------------------------------------------


def upvotes(folder: Path, counsel: Path, quick: bool, aims: Aims) -> str:
    """Of answers of therapists."""
    with counsel.open(encoding="utf-8", newline="") as file:
        answers = {row["answerText"].strip(): float(row["upvotes"]) for row in csv.DictReader(file)}
    rows = [(text, count) for text, count in answers.items() if text][: QUICK_ROWS if quick else ROWS]
    data = write_table(folder / "answers.csv", ("answer", "upvotes"), rows)
    found = run(
        folder,
        "upvotes",
        {
            "uri": str(data),
            "columns": {"text": "answer", "target": "upvotes"},
            "target": {"min": 0},
            "checks": {
                "text_length": {"max_chars": 20_000},
                "near_duplicates": {"severity": "warn"},
                "conflicting_targets": {"severity": "drop", "max_fraction": 0.05},
                "exact_duplicates": {"severity": "drop", "max_fraction": 0.05},
            },
        },
        {**TEXTS, "gates": {"min_r2": 0.1, "min_speedup": 0.1}},
        {"training.epochs": 1 if quick else 3},
    )
    challenger = found.scores["challenger"]
    low, high = challenger["intervals"]["r2"]
    aims.judge(
        f"4. R² of upvotes {challenger['r2']:.3f} ({low:.3f} to {high:.3f}): {found.decision}, "
        f"{'; '.join(found.reasons)[:80]}",
        found.decision == "reject" and any(reason.startswith("r2") for reason in found.reasons),
    )
    return f"upvotes R² {challenger['r2']:.2f}, {found.decision}"


# --- cards -------------------------------------------------------------------------------------------


def cards(folder: Path, quick: bool, aims: Aims) -> str:
    """Both kinds on the same drawn cards; regression sees front and back beside each other in one picture."""
    from gauntlet.tasks.ordinal_grading.synthetic_cards import write_cards

    drawn, pictures = folder / "cards", folder / "pictures"
    write_cards(drawn, QUICK_CARDS if quick else CARDS, seed=7)
    pictures.mkdir()
    height, width = QUICK_SHAPE if quick else SHAPE
    grades: dict[str, list[float]] = {}
    for split, entries in json.loads((drawn / "splits.json").read_text()).items():
        rows = []
        for number, card in enumerate(entries):
            both = Image.new("RGB", (2 * width, height))
            for at, side in enumerate(("front", "back")):
                both.paste(
                    Image.open(drawn / card[side]).convert("RGB").resize((width, height)), (at * width, 0)
                )
            both.save(pictures / f"{split}-{number}.png")
            rows.append((f"{split}-{number}.png", card["grade"]))
        name = {"val": "validation"}.get(split, split)
        write_table(pictures / f"{name}.csv", ("picture", "grade"), rows)
        grades[name] = [float(grade) for _, grade in rows]
    first, second = QUICK_EPOCHS if quick else EPOCHS
    warn = {"severity": "warn"}
    network = {"filters": [16, 32, 64], "units": 64, "batch_size": 8, "schedule": "cosine", "dropout": 0}
    common = {"conversion": {"candidates": ["plain"], "pytorch": ["eager"], "batch_sizes": [1],
                             "max_abs_logit_difference": 1e-2, "max_metric_drop": 0.2}}  # fmt: skip
    graded = run(
        folder,
        "graded",
        {
            "uri": str(drawn),
            "shape": [height, width],
            "checks": dict.fromkeys(("rows_per_class", "class_balance"), warn),
        },
        {
            **common,
            "training": {
                **network, "lambda_fusion": 0.5, "phase1_epochs": first, "phase2_epochs": second,
                "lr_phase1": 2e-3, "lr_phase2": 2e-3, "beta_edge": 10.0, "beta_center": 2.0,
                "augmentation": {"horizontal_flip": True},
            },
            "gates": {"min_macro_f1": 0.0, "min_qwk": -1, "max_mae": 9, "min_speedup": 0.1},
        },
        task="ordinal_grading",
    )  # fmt: skip
    numbered = run(
        folder,
        "numbered",
        {
            "uri": str(pictures),
            "columns": {"image": "picture", "target": "grade"},
            "shape": [height, 2 * width],
            "target": {"min": 1, "max": 10},
            "checks": dict.fromkeys(
                ("exact_duplicates", "near_duplicates", "leakage", "conflicting_targets", "outliers"), warn
            )
            | {"rows_per_split": {"min_rows": 2}},
        },
        {
            **common,
            "training": {
                **network, "arch": "resnet", "head_dropout": 0, "epochs": first + second,
                "learning_rate": 2e-3, "early_stopping": {"patience": 10},
            },
            "gates": {"max_mae": 9, "min_speedup": 0.1},
        },
    )  # fmt: skip
    ordinal, regression = graded.scores["challenger"]["grades"], numbered.scores["challenger"]
    truth = np.array(grades["test"])
    mean = float(np.abs(truth - np.mean(grades["train"])).mean())
    print(f"{len(grades['train'])} training and {len(truth)} test cards, {height} × {width} pixels a side")
    print("| grader | mean absolute error, 95 % interval | seconds |\n|---|---|---|")
    for name, scored, seconds in (
        ("ordinal grading", ordinal, graded.seconds),
        ("regression", regression, numbered.seconds),
    ):
        low, high = scored["intervals"]["mae"]
        print(f"| {name} | {scored['mae']:.3f} ({low:.3f} to {high:.3f}) | {seconds:.0f} |")
    print(f"| the training cards' mean | {mean:.3f} | |")
    assert graded.scores["rows"] == numbered.scores["rows"] == len(truth)
    most = mean * (1.5 if quick else 1.0)
    aims.judge(
        f"5. MAE of grades by regression {regression['mae']:.3f}, less than {most:.3f}",
        regression["mae"] < most,
    )
    return f"cards MAE {regression['mae']:.2f} by regression and {ordinal['mae']:.2f} by the ordinal grader"


# --- running -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run that came to its gate's decision."""

    folder: Path
    seconds: float

    def step(self, name: str) -> Path:
        """The outputs of a step."""
        return next(self.folder.glob(f"steps/*/{name}"))

    def rows(self, split: str) -> int:
        """Of a split."""
        statistics = json.loads((self.step("validate-data") / "splits" / "statistics.json").read_text())
        return statistics["rows"][split]

    @property
    def scores(self) -> dict[str, Any]:
        """Of evaluate-model."""
        return json.loads((self.step("evaluate-model") / "scores").read_text(encoding="utf-8"))

    @property
    def _verdict(self) -> dict[str, Any]:
        return json.loads((self.step("gate-model") / "verdict").read_text(encoding="utf-8"))

    @property
    def decision(self) -> str:
        """Of the gate."""
        return self._verdict["decision"]

    @property
    def reasons(self) -> list[str]:
        """Why it rejected."""
        return self._verdict["reasons"]


def run(
    folder: Path,
    name: str,
    dataset: dict[str, Any],
    sections: dict[str, Any],
    settings: dict[str, Any] | None = None,
    task: str = "regression",
) -> Run:
    """A manifest's run in a home of its own."""
    content = {
        "name": name,
        "description": "Of benchmarks/regression.py",
        "task": task,
        "seed": 7,
        "dataset": {"name": name, "version": "1", **dataset},
        **sections,
    }
    manifest = folder / f"{name}.yaml"
    manifest.write_text(yaml.safe_dump(content))
    options = [part for key, value in (settings or {}).items() for part in ("--set", f"{key}={value}")]
    home = folder / f"home-{name}"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "gauntlet.pipelines.cli", "run", str(manifest), *options],
        env=os.environ | {"GAUNTLET_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    folders = list((home / "runs").glob("*"))
    if not folders or not list(folders[0].glob("steps/*/gate-model/verdict")):
        print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)
        raise SystemExit(f"{name}: the run came to no decision")
    seconds = time.monotonic() - began
    print(f"{name}: {seconds:.0f} s", flush=True)
    return Run(folders[0], seconds)


def write_table(path: Path, columns: tuple[str, str], rows: list[tuple[str, float]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows((text, f"{number:.6g}") for text, number in rows)
    return path


if __name__ == "__main__":
    sys.exit(main())
