"""How well detect-drift finds a change and proves harm, beside other packages, at equal false-alarm rates.

    python benchmarks/drift_detection.py [--data TEXTS.txt …] [--domain TEXTS.tsv] [--peers PEER …] [--speed]
    python benchmarks/drift_detection.py --quick

The rows are texts with labels: the files of `--data` (lines `text;label`, or a CSV file with the columns
`text` and `label`), by default the embedded sample. A classifier of words and pairs of words is trained on
a third of them, and answers the others, which it has never seen. Each of 20 splits draws half of those as
its reference; windows are drawn from the rest, the pool. A row has what the server logs of a text:
characters, tokens, confidence, entropy, energy, the probability of each class, and the predicted class.

Shifts have six sizes, the share of the window's rows that are changed:

- `label`: rows of one class; the classes take turns;
- `subpopulation`: rows that have one word; twelve words take turns;
- `typos`: half of the words lose, double or swap a letter;
- `domain`: rows of other texts (`--domain`, by default reviews of products);
- `length`: the same rows with words that the classifier does not know; no answer changes, so it does no
  harm;
- `concept`: the same rows, whose right label has become another one; only labels can show it.

Every detector gives each window a score, and its threshold is the score that 1 % of the clean windows
exceed. So all have the same measured rate of false alarms, whatever their own p-values and thresholds are.
Detectors that read labels are compared on the `concept` shift, the others on the other shifts. The peers
are installed into environments of their own (`benchmarks/drift_peers/`); Kolmogorov-Smirnov with
Bonferroni's correction on the probabilities is computed here; `always` and `never` fire in every window and
in none, so that their power at 1 % false alarms is that of a coin: 0.01 and 0.

Money: 100 windows, each of 5,000 requests, of which 500 are logged. One of the shifts above, of one of the
sizes, begins with window 20. An error costs 0.10 USD, a label 0.05 USD and a retraining 100 USD; it removes
the errors that the shift has added, if there are any. A detector retrains at its first alarm and then knows
the shift; its alarms before are paid for as well. detect-drift asks for 200 labels a window once it has
found a change, for 20 a window before, and retrains when they have proven harm. `always` retrains in every
tenth window. A shift that adds less than one point of errors is harmless, and so is an alarm for it.

Aims, each printed with what was found; exit code 1 if one is missed:

1. no split has more false alarms than stated (alpha 0.01) among 500 clean windows of 500 rows, beyond the
   binomial interval that all 20 splits stay in with a chance of 99 %;
2. at 500 rows, power at least that of the best peer on every shift, averaged over its six sizes;
3. at 500 rows, at least 1.3 times the power of the best peer, averaged over the shifts of the inputs;
4. an error that rises from 10 % to 20 % is proven within 700 labelled rows (median of 400 simulations), at
   one false alarm in 10⁶ rows;
5. with --speed, on four columns of numbers: at least 2,000,000 rows/s of CPU at the largest size, at least
   20 times as many as evidently at its largest, and at most 1.2 times the memory for 10 times the rows.

`--quick` takes the embedded sample, few windows of 100 rows and no peer, and judges aim 4 only. The same
seed, rows and releases give the same results, but for the speed.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet
from scipy.special import logsumexp
from scipy.stats import binom, ks_2samp
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from gauntlet.components.detect_drift.counts import count_rows
from gauntlet.components.detect_drift.harm import detector, upper_error
from gauntlet.components.detect_drift.reference import log_reference
from gauntlet.components.detect_drift.run import Settings, detect
from gauntlet.serving.request_log import SCHEMA_VERSION

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

HERE = Path(__file__).parent / "drift_peers"
PEERS = ("evidently", "nannyml", "frouros", "river", "alibi_detect")
OURS, OUR_LABELS = "Gauntlet", "Gauntlet, e-detector (labels)"
KS = "KS of probabilities, Bonferroni"
INPUT_SHIFTS = ("label", "subpopulation", "typos", "domain", "length")
SHIFTS = (*INPUT_SHIFTS, "concept")
SIZES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.6)
ALPHA = 0.01
SEED = 22
PROCESSES = 2
WORDS = 12
TYPO_SHARE = 0.5
TRAINED = 1 / 3
SUFFIX = " qzvarrow xkeldun"
"""Words that the classifier does not know."""
MOST_DELAY = 100.0
"""Windows that a detector is given to find a shift."""
MOST_ROWS = 4_000
"""Labelled rows of a simulation."""

RETRAINING_USD, LABEL_USD, ERROR_USD = 100.0, 0.05, 0.10
WINDOWS, SHIFT_AT, REQUESTS, TIMELINES = 100, 20, 5_000, 5
LABELS, LABELS_ASKED, WINDOWS_ASKED = 20, 200, 5
PROMISED_ON = 2_000
HARMLESS = 0.01
"""Added errors below which a shift does no harm."""

SPEED_SIZES = (100_000, 1_000_000, 10_000_000)
SPEED_REFERENCE, PART_ROWS, EVIDENTLY_ROWS = 20_000, 1_000_000, 1_000_000


@dataclass(frozen=True)
class Plan:
    """How much is drawn.

    Attributes:
        rows: Of a window.
        clean: Windows of each split that set the thresholds.
        checked: Clean windows of each split whose false alarms are counted, of 500 rows.
        shifted: Windows of each split, shift and size.
        reference: The share of the rows that is the reference; the rest is the pool.
    """

    splits: int = 20
    rows: tuple[int, ...] = (200, 500, 2_000)
    judged: int = 500
    clean: int = 50
    checked: int = 500
    shifted: int = 2
    reference: float = 0.5
    simulations: int = 400


FULL = Plan()
QUICK = Plan(splits=2, rows=(100,), judged=100, clean=20, checked=20, shifted=1)

# --- rows --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Rows as the request log has them: those of the texts, then the same with typos, longer, and others.

    Attributes:
        numbers: (R, D), of the columns `names`.
        classes: The predicted class of each row, (R,).
        labels: The right one, (R,); -1 if the text has none of the classes.
        rows: How many rows the texts have; a row with typos is so many places further, a longer one twice.
        has_word: Rows of the texts with each of the words, (words, rows).
    """

    names: tuple[str, ...]
    numbers: Floats
    classes: Numbers
    labels: Numbers
    rows: int
    has_word: npt.NDArray[np.bool_]

    @property
    def wrong(self) -> Floats:
        """1 for each row whose predicted class is not the right one."""
        return (self.classes != self.labels).astype(np.float64)


def read_texts(file: Any) -> list[tuple[str, str]]:
    """Texts and labels of a CSV file, of lines `text;label`, or of tab-separated lines without a header."""
    with file.open(encoding="utf-8", newline="") as opened:
        if file.name.endswith(".tsv"):
            names = (file.parent / "labels.txt").read_text().split()
            cells = (line.rstrip("\n").split("\t") for line in opened)
            return [(text, names[int(label.split(",")[0])]) for text, label, *_ in cells]
        rows = csv.reader(opened, delimiter=";" if file.name.endswith(".txt") else ",")
        next(rows)
        return [(text, label) for text, label, *_ in rows]


def embedded(name: str) -> Any:
    return files("gauntlet.manifests") / "data" / name


def make_table(texts: Sequence[tuple[str, str]], others: Sequence[tuple[str, str]]) -> Table:
    """Train a classifier on a third of the texts, and let it answer the rest, and the others."""
    generator = np.random.default_rng(SEED)
    order = generator.permutation(len(texts))
    cut = round(len(texts) * TRAINED)
    train, held = ([texts[at] for at in part] for part in (order[:cut], order[cut:]))
    labels = sorted({label for _, label in train})
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    found = vectorizer.fit_transform([text for text, _ in train])
    model = LogisticRegression(C=20, max_iter=400).fit(found, [label for _, label in train])
    plain = [text for text, _ in held]
    given = [*plain, *(with_typos(text, generator) for text in plain), *(text + SUFFIX for text in plain)]
    given += [text for text, _ in others]
    logits = model.decision_function(vectorizer.transform(given))
    answered = log_columns(given, logits)
    place = {label: at for at, label in enumerate(labels)}
    right = [place.get(label, -1) for _, label in held]
    words = [{*re.findall(r"\w+", text.lower())} for text in plain]
    counts = {word: 0 for text in words for word in text}
    for text in words:
        for word in text:
            counts[word] += 1
    usable = sorted(word for word, count in counts.items() if 0.02 <= count / len(plain) <= 0.08)
    chosen = generator.choice(usable, WORDS, replace=False)
    return Table(
        names=tuple(answered),
        numbers=np.column_stack([*answered.values()]),
        classes=logits.argmax(1),
        labels=np.array([*right * 3, *(place.get(label, -1) for _, label in others)]),
        rows=len(plain),
        has_word=np.array([[word in text for text in words] for word in chosen]),
    )


def log_columns(texts: Sequence[str], logits: Floats) -> dict[str, Floats]:
    """What the server logs of texts and their logits (N, C)."""
    likely = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    probabilities = {f"probabilities[{at}]": likely[:, at] for at in range(likely.shape[1])}
    return {
        "characters": np.array([float(len(text)) for text in texts]),
        "tokens": np.array([float(len(re.findall(r"\w+|[^\w\s]", text))) for text in texts]),
        "confidence": likely.max(1),
        "entropy": -(likely * np.log(np.maximum(likely, 1e-300))).sum(1),
        "energy": -logsumexp(logits, axis=1),
        **probabilities,
    }


def with_typos(text: str, generator: np.random.Generator) -> str:
    """A text in which a letter of some words is left out, doubled, or swapped with the next."""
    words = text.split(" ")
    for at, word in enumerate(words):
        if len(word) > 2 and generator.random() < TYPO_SHARE:
            cut = int(generator.integers(len(word) - 1))
            head, two, tail = word[:cut], word[cut : cut + 2], word[cut + 2 :]
            words[at] = head + (two[1], two[0] + two, two[::-1])[int(generator.integers(3))] + tail
    return " ".join(words)


# --- windows -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """Windows of one size, as they are given to detectors and peers.

    Attributes:
        table: The rows.
        references: The rows of each split's reference, (S, M).
        windows: The rows of each window, (W, N).
        split: The split of each window, (W,).
        losses: 1 for each row of a window that is wrong, (W, N).
        group: The place of the window's shift and size in `CELLS`; -1 of clean windows, (W,).
    """

    table: Table
    references: Numbers
    windows: Numbers
    split: Numbers
    losses: npt.NDArray[np.bool_]
    group: Numbers

    def save(self, path: Path) -> None:
        np.savez(
            path,
            names=self.table.names,
            numbers=self.table.numbers,
            classes=self.table.classes,
            references=self.references,
            reference_losses=self.table.wrong[self.references].astype(bool),
            windows=self.windows,
            split=self.split,
            losses=self.losses,
        )


CELLS = tuple((shift, size) for shift in SHIFTS for size in SIZES)


def draw(table: Table, plan: Plan, rows: int, clean: int, shifted: int) -> Job:
    """Windows of so many rows, from the pool of each split."""
    generator = np.random.default_rng([SEED, rows, clean])
    references, windows, splits, losses, groups = [], [], [], [], []
    for split in range(plan.splits):
        order = np.random.default_rng([SEED, split]).permutation(table.rows)
        cut = round(table.rows * plan.reference)
        references.append(order[:cut])
        pool = order[cut:]
        for group in [-1] * clean + [*range(len(CELLS))] * shifted:
            chosen = generator.choice(pool, rows, replace=rows > len(pool))
            wrong = table.wrong[chosen]
            if group >= 0:
                shift, size = CELLS[group]
                turn = int(generator.integers(10**6))
                chosen, wrong = shifted_rows(table, shift, round(size * rows), pool, chosen, turn, generator)
            windows.append(chosen)
            losses.append(wrong)
            splits.append(split)
            groups.append(group)
    arrays = (np.array(one) for one in (references, windows, splits, losses, groups))
    return Job(table, *arrays)


def shifted_rows(
    table: Table,
    shift: str,
    count: int,
    pool: Numbers,
    chosen: Numbers,
    turn: int,
    generator: np.random.Generator,
) -> tuple[Numbers, Floats]:
    """The rows (N,) of a window of which `count` are changed, and its losses (N,)."""
    chosen = chosen.copy()
    changed = chosen[:count]
    if shift == "label":
        of_class = pool[table.labels[pool] == turn % (int(table.labels.max()) + 1)]
        chosen[:count] = generator.choice(of_class, count)
    elif shift == "subpopulation":
        with_word = pool[table.has_word[turn % len(table.has_word)][pool]]
        chosen[:count] = generator.choice(with_word, count)
    elif shift == "typos":
        chosen[:count] = changed + table.rows
    elif shift == "length":
        chosen[:count] = changed + 2 * table.rows
    elif shift == "domain":
        chosen[:count] = generator.integers(3 * table.rows, len(table.numbers), count)
    wrong = table.wrong[chosen]
    if shift == "concept":
        classes = int(table.labels.max()) + 1
        labels = (table.labels[changed] + generator.integers(1, classes, count)) % classes
        wrong[:count] = table.classes[changed] != labels
    order = generator.permutation(len(chosen))
    return chosen[order], wrong[order]


# --- detectors ---------------------------------------------------------------------------------------


PLACE, EVENTS = Path("windows"), "event-{}"


class Detected:
    """detect-drift on the reference rows of one split, as it reads them from a request log."""

    def __init__(self, table: Table, reference: Numbers) -> None:
        self._log = log_of(table)
        self._wrong = table.wrong
        self._reference = log_reference(PLACE, [self._rows(reference)])
        errors = int(self._wrong[reference].sum())
        self.promised = upper_error(errors, len(reference)) + Settings().margin

    def _rows(self, rows: Numbers) -> pa.Table:
        ids = pa.array([EVENTS.format(at) for at in range(len(rows))])
        return self._log.take(pa.array(rows)).append_column("event_id", ids)

    def p_value(self, rows: Numbers) -> float:
        """The smallest p-value of a family whose effect is large enough: an alarm if it is at most alpha."""
        arrays, known = self._reference.arrays, self._reference.baseline
        window = count_rows(PLACE, [self._rows(rows)], arrays.edges, known.energy_bound)
        found = detect(self._reference, window, Settings(alpha=1.0))  # `changed`: all that are large enough
        return min([1.0, *(found.families[family] for family in found.changed)])


def log_of(table: Table) -> pa.Table:
    """The rows as columns of the request log, but for `event_id`."""
    rows, start = len(table.numbers), datetime(2026, 1, 1, tzinfo=UTC)
    fixed = {
        "model": "model",
        "bundle_sha256": "0" * 12,
        "schema_version": SCHEMA_VERSION,
        "sample_rate": 1.0,
        "client": "client",
        "status": 200,
        "time": start,
    }
    columns: dict[str, Any] = {name: pa.array([value] * rows) for name, value in fixed.items()}
    scalars = [at for at, name in enumerate(table.names) if not name.startswith("probabilities")]
    for at in scalars:
        name = table.names[at]
        columns["feature_characters" if name == "characters" else name] = pa.array(table.numbers[:, at])
    likely = np.delete(table.numbers, scalars, axis=1)
    columns["probabilities"] = pa.FixedSizeListArray.from_arrays(
        pa.array(likely.ravel().astype(np.float32)), likely.shape[1]
    ).cast(pa.list_(pa.float32()))
    columns["predicted"] = pa.array(table.classes.astype(str))
    return pa.table(columns)


def own_scores(job: Job, split: int) -> dict[str, Floats]:
    """Ours, and Kolmogorov-Smirnov on the probabilities, of the windows of a split in their order."""
    places = np.flatnonzero(job.split == split)
    ours = Detected(job.table, job.references[split])
    probabilities = [at for at, name in enumerate(job.table.names) if name.startswith("probabilities")]
    reference = job.table.numbers[job.references[split]][:, probabilities].T
    found: dict[str, list[float]] = {OURS: [], KS: []}
    for rows in job.windows[places]:
        found[OURS].append(-math.log(max(ours.p_value(rows), 1e-300)))
        columns = zip(reference, job.table.numbers[rows][:, probabilities].T, strict=True)
        smallest = min(ks_2samp(one, other, method="asymp").pvalue for one, other in columns)
        found[KS].append(-math.log(max(smallest, 1e-300)))
    values = detector(job.losses[places].astype(np.float64), ours.promised).max(1)
    return {name: np.array(one) for name, one in found.items()} | {OUR_LABELS: np.log(values)}


def scores_of(job: Job, pythons: Mapping[str, Path], folder: Path) -> dict[str, Floats]:
    """The score of each window (W,), by detector."""
    found: dict[str, Floats] = {}
    with ProcessPoolExecutor(PROCESSES) as pool:
        for split, scores in enumerate(pool.map(own_scores, repeat(job), range(len(job.references)))):
            for name, values in scores.items():
                found.setdefault(name, np.empty(len(job.windows)))[job.split == split] = values
    job.save(folder / "job.npz")
    with ThreadPoolExecutor(PROCESSES) as threads:
        for scores in threads.map(peer_scores, pythons, pythons.values(), repeat(folder)):
            found |= scores
    return found


def peer_scores(peer: str, python: Path, folder: Path) -> dict[str, Floats]:
    """The scores of a peer's detectors; none, with a message, if it fails."""
    output = folder / f"{peer}.npz"
    command = [str(python), str(HERE / "scores.py"), peer, str(folder / "job.npz"), str(output)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{peer} failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
        return {}
    print(f"{peer}: {time.monotonic() - began:.0f} s", flush=True)
    with np.load(output) as arrays:
        return {name: arrays[name] for name in arrays.files}


def environments_of(peers: Sequence[str], folder: Path) -> dict[str, Path]:
    """The Python of an environment for each peer that can be installed; the others are named."""
    found = {}
    for peer in peers:
        python = folder / peer / "bin" / "python"
        if not python.exists():
            print(f"installing {peer} in {folder / peer}", flush=True)
            venv.create(folder / peer, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "-r", str(HERE / f"{peer}.txt")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{peer} cannot be installed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
            continue
        found[peer] = python
    return found


# --- measures ----------------------------------------------------------------------------------------


def reads_labels(name: str) -> bool:
    return name.endswith("(labels)")


def exceeding(scores: Floats, job: Job) -> npt.NDArray[np.bool_]:
    """Which windows have a score above that of 99 % of the clean ones, (W,)."""
    return scores > np.quantile(scores[job.group < 0], 1 - ALPHA)


def powers(fired: npt.NDArray[np.bool_], job: Job) -> dict[tuple[str, float], float]:
    """The share of the windows of each shift and size that alarm."""
    return {cell: float(fired[job.group == at].mean()) for at, cell in enumerate(CELLS)}


def by_shift(found: Mapping[tuple[str, float], float]) -> dict[str, float]:
    """The mean of the sizes."""
    return {shift: sum(found[shift, size] for size in SIZES) / len(SIZES) for shift in SHIFTS}


def print_power(job: Job, fired: Mapping[str, npt.NDArray[np.bool_]]) -> dict[str, dict[str, float]]:
    """A table of the power of each detector, by shift, and of its delay; the former is returned."""
    rows = job.windows.shape[1]
    print(
        f"\npower at {rows} rows and {ALPHA:.0%} false alarms, mean of the sizes; windows to the first alarm"
    )
    print(" | ".join(["detector", *SHIFTS, "mean of inputs", "delay"]))
    found = {}
    for name, alarms in fired.items():
        of_cells = powers(alarms, job)
        found[name] = by_shift(of_cells)
        shifts = ["concept"] if reads_labels(name) else INPUT_SHIFTS
        mean = sum(found[name][shift] for shift in shifts) / len(shifts)
        delays = [min(MOST_DELAY, 1 / max(of_cells[shift, size], 1e-9)) for shift in shifts for size in SIZES]
        cells = [f"{found[name][shift]:.2f}" if shift in shifts else "–" for shift in SHIFTS]
        print(" | ".join([name, *cells, f"{mean:.3f}", f"{sum(delays) / len(delays):.1f}"]))
    return found


def print_sizes(job: Job, fired: Mapping[str, npt.NDArray[np.bool_]]) -> None:
    """The power of ours at each size."""
    for name in (OURS, OUR_LABELS):
        found = powers(fired[name], job)
        for shift in ["concept"] if reads_labels(name) else INPUT_SHIFTS:
            print(f"{name}, {shift}: " + ", ".join(f"{size:.0%} {found[shift, size]:.2f}" for size in SIZES))


def false_alarms(table: Table, plan: Plan) -> list[int]:
    """How many of the clean windows of each split alarm at alpha."""
    job = draw(table, plan, plan.judged, plan.checked, 0)
    with ProcessPoolExecutor(PROCESSES) as pool:
        found = list(pool.map(alarms_of_split, repeat(job), range(plan.splits)))
    print(f"\nfalse alarms at alpha {ALPHA} among {plan.checked} clean windows, by split: {found}")
    print(f"mean {sum(found) / (plan.splits * plan.checked):.2%}")
    return found


def alarms_of_split(job: Job, split: int) -> int:
    ours = Detected(job.table, job.references[split])
    return sum(ours.p_value(rows) <= ALPHA for rows in job.windows[job.split == split])


def most_alarms(plan: Plan) -> int:
    """What no split exceeds with a chance of 99 %, if the rate is alpha in each."""
    return int(binom.ppf(0.99 ** (1 / plan.splits), plan.checked, ALPHA))


def rows_to_proof(simulations: int, source: float, error: float, known: int = 2_000) -> float:
    """The median number of labelled rows until an error is proven; `known` rows tell the source's."""
    generator = np.random.default_rng(SEED)
    found: list[int] = []
    for errors, count in Counter(generator.binomial(known, source, simulations).tolist()).items():
        bound = upper_error(errors, known) + Settings().margin
        losses = (generator.random((count, MOST_ROWS)) < error).astype(np.float64)
        is_proven = detector(losses, bound) >= Settings().run_length
        found += np.where(is_proven.any(1), is_proven.argmax(1) + 1, MOST_ROWS).tolist()
    return float(np.median(found))


# --- money -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spent:
    """What a policy did in a timeline, on average. Needless are retrainings that no harm has come before."""

    usd: float
    avoided: float
    retrainings: float
    needless: float


def added_errors(job: Job) -> Floats:
    """How much each shift and size adds to the error rate, (cells,)."""
    clean = job.losses[job.group < 0].mean()
    return np.array([job.losses[job.group == at].mean() - clean for at in range(len(CELLS))])


def spend(job: Job, fired: Mapping[str, npt.NDArray[np.bool_]]) -> dict[str, Spent]:
    """Each policy on the same timelines: one of each shift and size for each run."""
    added = added_errors(job)
    error = float(job.losses[job.group < 0].mean())
    found = {}
    for name, alarms in fired.items():
        if not reads_labels(name):
            power = np.array([*powers(alarms, job).values()])
            found[name] = total(added, lambda at, generator, p=power: by_alarm(p[at], generator))
    power = np.array([*powers(fired[OURS], job).values()])
    bound = upper_error(round(error * PROMISED_ON), PROMISED_ON) + Settings().margin
    found[OURS] = total(added, lambda at, generator: by_harm(power[at], error, added[at], bound, generator))
    found["always"] = total(added, lambda at, generator: ([*range(9, WINDOWS, 10)], 0))  # noqa: ARG005
    found["never"] = total(added, lambda at, generator: ([], 0))  # noqa: ARG005
    return found


Policy = Callable[[int, np.random.Generator], tuple[list[int], int]]


def total(added: Floats, policy: Policy) -> Spent:
    """What a policy, which gives the windows of its retrainings and its labels, costs and avoids."""
    generator = np.random.default_rng(SEED)
    usd = avoided = retrainings = needless = 0.0
    for at in [*range(len(CELLS))] * TIMELINES:
        windows, labels = policy(at, generator)
        usd += RETRAINING_USD * len(windows) + LABEL_USD * labels
        retrainings += len(windows)
        is_harmless = added[at] < HARMLESS
        needless += len(windows) if is_harmless else sum(window < SHIFT_AT for window in windows)
        cures = [window for window in windows if window >= SHIFT_AT]
        if cures and not is_harmless:
            avoided += added[at] * REQUESTS * (WINDOWS - 1 - cures[0])
    runs = len(CELLS) * TIMELINES
    return Spent(usd / runs, avoided / runs, retrainings / runs, needless / runs)


def by_alarm(power: float, generator: np.random.Generator) -> tuple[list[int], int]:
    """Retrain at each false alarm, and at the first alarm after the shift."""
    before = np.flatnonzero(generator.random(SHIFT_AT) < ALPHA).tolist()
    after = np.flatnonzero(generator.random(WINDOWS - SHIFT_AT) < power) + SHIFT_AT
    return before + after[:1].tolist(), 0


def by_harm(
    power: float, error: float, added: float, bound: float, generator: np.random.Generator
) -> tuple[list[int], int]:
    """Retrain once labels have proven harm; more are asked for from the first alarm on."""
    window = np.arange(WINDOWS)
    alarms = np.flatnonzero(generator.random(WINDOWS) < np.where(window < SHIFT_AT, ALPHA, power))
    first = int(alarms[0]) if len(alarms) else WINDOWS
    counts = np.where((window > first) & (window <= first + WINDOWS_ASKED), LABELS_ASKED, LABELS)
    rates = np.repeat(np.where(window < SHIFT_AT, error, error + added), counts)
    losses = (generator.random((1, len(rates))) < rates).astype(np.float64)
    reached = np.flatnonzero(detector(losses, bound)[0] >= Settings().run_length)
    ends = counts.cumsum()
    if not len(reached):
        return [], int(ends[-1])
    proven = int(np.searchsorted(ends, reached[0] + 1))
    return [proven], int(ends[proven])


# --- speed -------------------------------------------------------------------------------------------

SPEED_OURS = """
import json, resource, sys, time
from pathlib import Path
from gauntlet.components.detect_drift.counts import count_rows
from gauntlet.components.detect_drift.reference import log_reference
from gauntlet.components.detect_drift.rows import Parts
from gauntlet.components.detect_drift.run import detect
from gauntlet.contracts.drift import DriftRecord
reference = log_reference(Path("reference"), Parts.below(Path(sys.argv[1])))
began = time.process_time()
parts = Parts.below(Path(sys.argv[2]))
found = detect(reference, count_rows(Path("window"), parts, reference.arrays.edges))
seconds = time.process_time() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak": peak, "rows": found.rows}))
"""
SPEED_COUNTS = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from pyarrow import dataset, parquet
from gauntlet.components.detect_drift.change import counted, edges_of
names = sys.argv[3].split()
held = parquet.read_table(next(Path(sys.argv[1]).glob("*.parquet")), columns=names)
edges = {name: edges_of(held[name].to_numpy()) for name in names}
began = time.process_time()
opened = dataset.dataset(sys.argv[2], format="parquet")
scanner = opened.scanner(columns=names, batch_size=2**17, batch_readahead=2, fragment_readahead=1)
counts, rows = dict.fromkeys(names, 0), 0
for batch in scanner.to_batches():
    rows += batch.num_rows
    for name in names:
        counts[name] = counts[name] + counted(batch[name].to_numpy(zero_copy_only=False), edges[name])
seconds = time.process_time() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak": peak, "rows": rows}))
"""
SPEED_EVIDENTLY = """
import json, os, resource, sys, time, warnings
from pathlib import Path
os.environ["DO_NOT_TRACK"] = "1"
warnings.filterwarnings("ignore")
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
names = sys.argv[3].split()
held = pd.read_parquet(sys.argv[1], columns=names)
began = time.process_time()
rows = pd.read_parquet(sys.argv[2], columns=names)
Report([DataDriftPreset()]).run(rows, held).dict()
seconds = time.process_time() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak": peak, "rows": len(rows)}))
"""


@dataclass(frozen=True)
class Speed:
    """Of one process: rows per second of CPU, and the peak of its memory in bytes."""

    rows: float
    peak: float


def write_log(folder: Path, rows: int, seed: int) -> Path:
    """A request log in files of a million rows, with four columns of numbers."""
    folder.mkdir(parents=True)
    for part, start in enumerate(range(0, rows, PART_ROWS)):
        count = min(PART_ROWS, rows - start)
        generator = np.random.default_rng([seed, part])
        fixed = {"model": "model", "bundle_sha256": "0" * 12, "schema_version": SCHEMA_VERSION}
        fixed |= {"sample_rate": 1.0, "status": 200}
        columns: dict[str, Any] = {name: pa.array([value] * count) for name, value in fixed.items()}
        columns["event_id"] = pa.array([EVENTS.format(at) for at in range(start, start + count)])
        columns["time"] = pa.array(
            np.arange(start, start + count).astype("datetime64[s]").astype("datetime64[us]")
        )
        columns["client"] = pa.array([f"client-{at % 500}" for at in range(count)])
        columns["feature_characters"] = pa.array(generator.lognormal(4, 0.6, count))
        columns["confidence"] = pa.array(generator.beta(8, 2, count).astype(np.float32))
        columns["entropy"] = pa.array(generator.gamma(2, 0.3, count).astype(np.float32))
        columns["energy"] = pa.array(generator.normal(-3, 1, count).astype(np.float32))
        parquet.write_table(pa.table(columns), folder / f"part-{part}.parquet", row_group_size=2**17)
    return folder


NUMBERS = "feature_characters confidence entropy energy"


def speeds(folder: Path, sizes: Sequence[int], evidently: Path | None) -> dict[str, dict[int, Speed]]:
    """Of detect-drift, of its counting alone, and of evidently, by rows of the window."""
    reference = write_log(folder / "reference", SPEED_REFERENCE, 1)
    programs: dict[str, tuple[Path, str]] = {
        "detect-drift": (Path(sys.executable), SPEED_OURS),
        "counting alone": (Path(sys.executable), SPEED_COUNTS),
    }
    if evidently is not None:
        programs["evidently"] = evidently, SPEED_EVIDENTLY
    found: dict[str, dict[int, Speed]] = {name: {} for name in programs}
    print("\nrows per second of CPU on four columns of numbers, peak of memory")
    for size in sizes:
        window = write_log(folder / str(size), size, 2)
        for name, (python, program) in programs.items():
            if name == "evidently" and size > EVIDENTLY_ROWS:
                continue
            command = [str(python), "-c", program, str(reference), str(window), NUMBERS]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name} failed at {size:,} rows: {done.stderr.strip().splitlines()[-1:]}")
                continue
            result = json.loads(done.stdout.splitlines()[-1])
            found[name][size] = Speed(result["rows"] / result["seconds"], result["peak"])
            words = f"{found[name][size].rows:,.0f} rows/s, {found[name][size].peak / 1e6:.0f} MB"
            print(f"{name}, {size:,} rows: {words}", flush=True)
    return found


# --- the whole ---------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="+", metavar="TEXTS", help="texts and labels")
    parser.add_argument("--domain", type=Path, metavar="TEXTS", help="other texts")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--environments", type=Path, default=Path("build/drift_peers"), metavar="FOLDER")
    parser.add_argument("--rows", type=int, nargs="+", default=FULL.rows, help="of a window")
    parser.add_argument(
        "--speed", type=int, nargs="*", help="rows of the logs that are timed", metavar="ROWS"
    )
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    plan = QUICK if options.quick else replace(FULL, rows=tuple(options.rows))
    texts = [row for file in options.data or [embedded("emotion_sample.csv")] for row in read_texts(file)]
    table = make_table(texts, read_texts(options.domain or embedded("review_sentiment.csv")))
    held = table.wrong[: table.rows]
    print(f"{table.rows:,} rows that the classifier has not seen, {held.mean():.1%} of them answered wrongly")
    pythons = {} if options.quick else environments_of(options.peers, options.environments.resolve())
    aims: list[tuple[str, bool]] = []
    with tempfile.TemporaryDirectory(prefix="gauntlet-drift-") as scratch:
        for rows in plan.rows:
            job = draw(table, plan, rows, plan.clean, plan.shifted)
            fired = {name: exceeding(of, job) for name, of in scores_of(job, pythons, Path(scratch)).items()}
            power = print_power(job, fired)
            if rows == plan.judged:
                print_sizes(job, fired)
                print_money(job, fired)
                aims += [judge_alarms(false_alarms(table, plan), plan), *judge_power(power)]
        if options.speed is not None:
            sizes = options.speed or SPEED_SIZES
            aims += judge_speed(speeds(Path(scratch), sizes, pythons.get("evidently")))
    proof = rows_to_proof(plan.simulations, 0.1, 0.2)
    aims.append(
        (f"4. 10 % to 20 % error is proven after {proof:.0f} labelled rows, at most 700", proof <= 700)
    )
    aims.sort(key=lambda aim: aim[0][0])
    judged = [aim for aim in aims if not options.quick or aim[0].startswith("4")]
    for words, is_met in judged:
        print(f"{'met   ' if is_met else 'MISSED'}  {words}")
    headline = next((words for words, _ in judged if words.startswith("3")), judged[-1][0])
    print(f"drift detection: {sum(is_met for _, is_met in judged)} of {len(judged)} aims met; {headline[3:]}")
    return 0 if all(is_met for _, is_met in judged) else 1


def print_money(job: Job, fired: Mapping[str, npt.NDArray[np.bool_]]) -> None:
    added = added_errors(job)
    print(
        "\nadded errors: "
        + ", ".join(f"{s} {z:.0%} {a:+.3f}" for (s, z), a in zip(CELLS, added, strict=True))
    )
    print("policy | USD | errors avoided | per USD | worth less its cost, USD | retrainings | needless")
    for name, spent in spend(job, fired).items():
        per_usd = f"{spent.avoided / spent.usd:.1f}" if spent.usd else "–"
        worth = spent.avoided * ERROR_USD - spent.usd
        cells = f"{spent.usd:.0f} | {spent.avoided:.0f} | {per_usd} | {worth:.0f}"
        print(f"{name} | {cells} | {spent.retrainings:.2f} | {spent.needless:.2f}")


def judge_alarms(alarms: Sequence[int], plan: Plan) -> tuple[str, bool]:
    """Aim 1."""
    most = most_alarms(plan)
    words = f"1. {max(alarms)} of {plan.checked} clean windows of a split alarm, at most {most}"
    return words, max(alarms) <= most


def judge_power(power: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, bool]]:
    """Aims 2 and 3."""
    peers = {name: of for name, of in power.items() if name not in (OURS, OUR_LABELS)}
    for shift in SHIFTS:
        needs_labels = shift == "concept"
        of_shift = {name: of[shift] for name, of in peers.items() if reads_labels(name) == needs_labels}
        if not of_shift:
            continue
        best = max(of_shift, key=lambda name: of_shift[name])
        ours = power[OUR_LABELS if needs_labels else OURS][shift]
        yield (
            f"2. power on {shift} {ours:.2f}, at least {best}'s {of_shift[best]:.2f}",
            ours >= of_shift[best],
        )
    means = {
        name: sum(of[shift] for shift in INPUT_SHIFTS) / len(INPUT_SHIFTS)
        for name, of in power.items()
        if not reads_labels(name)
    }
    ours = means.pop(OURS)
    best = max(means, key=lambda name: means[name])
    ratio = ours / means[best]
    yield (
        f"3. mean power {ours:.3f}, {ratio:.2f} times {best}'s {means[best]:.3f}, at least 1.3",
        ratio >= 1.3,
    )


def judge_speed(found: Mapping[str, Mapping[int, Speed]]) -> Iterator[tuple[str, bool]]:
    """Aim 5."""
    ours = found["detect-drift"]
    largest = max(ours)
    yield (
        f"5. {ours[largest].rows:,.0f} rows/s of CPU at {largest:,} rows, at least 2,000,000",
        ours[largest].rows >= 2e6,
    )
    if peer := found.get("evidently"):
        at = max(peer)
        ratio = ours[at].rows / peer[at].rows
        yield f"5. {ratio:.1f} times evidently's rows/s at {at:,} rows, at least 20", ratio >= 20
    if largest // 10 in ours:
        ratio = ours[largest].peak / ours[largest // 10].peak
        yield f"5. {ratio:.2f} times the memory for 10 times the rows, at most 1.2", ratio <= 1.2


if __name__ == "__main__":
    sys.exit(main())
