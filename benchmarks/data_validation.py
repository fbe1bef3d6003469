"""How fast validate-data is, and how much memory it takes, beside what a user would write instead.

    python benchmarks/data_validation.py [--data TEXTS.csv] [--pairs TEXTS.csv …] [--before CHECKOUT]
    python benchmarks/data_validation.py --quick

The rows are sentences that are drawn from a seed, in three CSV files: a log-normal number of words (median
17, as in dair-ai/emotion), drawn by Zipf's law from the encoder's own vocabulary. With `--data`, a CSV file
with the columns `text` and `label` or lines `text;label`, words and numbers of words are drawn from its
texts. Every thousandth to fiftieth row has a fault: a copy, a near-duplicate, a leak, another label, no
text, a control character, an unknown label or a text that is too long. Every check is on and warns, so
validate-data lists the faulty rows and writes the splits.

Each measurement is a process of its own: seconds without Python's start and the import of the framework, and
the peak of the resident memory of the process and its children. The peers are installed into an environment
of their own, do the same checks in the order of validate-data, and compare near-duplicates by datasketch's
MinHashLSH (128 permutations, candidates verified exactly): pandera and Great Expectations on pandas, and a
Hugging Face `datasets` pipeline with two processes. cleanlab compares numeric features and not words, so it
has no equal check.

Aims, of medians of three, each printed with what was found; exit code 1 if one is missed:

1. at least 100,000 rows/s at 1,000,000 rows;
2. at least 50 times as many rows/s as the code in CHECKOUT, an older commit, at its largest number of rows;
3. at most 1.5 GB at 10,000,000 rows;
4. at least 5 times as fast as the fastest peer, at the peers' largest number of rows;
5. growth no worse than linear: from the second smallest to the largest number of rows the seconds grow by
   at most the power 1.05;
6. the peers find the same number of rows in each check whose definition is exact, and no near-duplicate or
   leak that validate-data has not found;
7. in each file of `--pairs` the near-duplicates and leaks (similarity 0.8) of validate-data are those of a
   comparison of all pairs of rows, row by row, each with a partner of the same similarity; and its
   rejected.csv has the bytes that the code in CHECKOUT writes;
8. the data report has at most 2 MB.

`--quick` takes 2,000 and 4,000 rows once and judges 6 to 8 only.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")
SHARES = (0.29, 0.335, 0.081, 0.135, 0.121, 0.038)
SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
PEER_SIZES = (10_000, 100_000)
BEFORE_SIZES = (10_000, 100_000)
QUICK_SIZES = (2_000, 4_000)
RUNS = 3
PEERS = ("pandera", "great_expectations", "datasets")
PACKAGES = (
    "pandas==3.1.1",
    "pandera==0.35.0",
    "great_expectations==1.24.1",
    "datasets==5.2.0",
    "datasketch==2.0.0",
    "tokenizers==0.23.3",
)
MAX_CHARS, MAX_TOKENS, SIMILARITY = 400, 64, 0.9
EXACT = (
    "encoding",
    "empty_values",
    "unknown_labels",
    "text_length",
    "unknown_tokens",
    "context_length",
    "conflicting_labels",
    "exact_duplicates",
)
SIMILAR = ("near_duplicates", "leakage")
LEAST_ROWS_PER_SECOND, LEAST_OVER_BEFORE, LEAST_OVER_PEERS = 100_000, 50, 5
MOST_GB, MOST_POWER, MOST_REPORT_MB = 1.5, 1.05, 2.0
ROWS_OF_SPEED, ROWS_OF_MEMORY = 1_000_000, 10_000_000
SECONDS_BETWEEN_LOOKS = 0.05
TEMPLATE = (
    "your order number {} has been shipped by our partner today and will arrive with you on the next working "
    "day before noon unless they find nobody at home"
)
BLOCK = 500_000  # rows drawn at once
KEPT = 10_000  # training rows that rows of the other splits are like
PAIRS_AT_ONCE, PAIRS_SIMILARITY = 500, 0.8
GB, MB = 1e9, 1e6

OURS = """
import json, sys, time
from pathlib import Path
from gauntlet.components.validate_data.run import run
from gauntlet.manifests.schema import section_of
rules, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
section = section_of("text_classification", "dataset", rules["dataset"])
paths = [folder / name for name in ("splits", "checks.json", "report.html", "rejected.csv")]
began = time.perf_counter()
run("text_classification", section, *paths)
seconds = time.perf_counter() - began
checks = json.loads(paths[1].read_text())["checks"]
print(json.dumps({"seconds": seconds, "found": {one["check"]: one["rows_affected"] for one in checks}}))
"""


@dataclass(frozen=True)
class Measured:
    """One process.

    Attributes:
        seconds: Of its work.
        cpu: Seconds of CPU time of it and its children, start and imports included.
        peak: Bytes.
        report: Bytes of the data report; 0 of a peer.
        found: The number of rows by check.
        similar: File and line of the rows of each check in `SIMILAR`.
    """

    seconds: float
    cpu: float
    peak: int
    report: int
    found: Mapping[str, int]
    similar: Mapping[str, frozenset[tuple[str, int]]]


def main() -> int:
    options = parse()
    if options.scratch is not None:
        options.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gauntlet-validation-", dir=options.scratch) as scratch:
        folder = Path(scratch)
        sizes = QUICK_SIZES if options.quick else options.sizes
        runs = 1 if options.quick else RUNS
        python = environment_of_peers(folder / "peers") if options.peers else Path()
        words = Words.of(options.data)
        ours: dict[int, Measured] = {}
        before: dict[int, Measured] = {}
        peers: dict[str, dict[int, Measured]] = {peer: {} for peer in options.peers}
        for size in sizes:
            rules = write_rows(folder / str(size), size, words)
            here = sys.executable, "-c", OURS
            ours[size] = median("Gauntlet", size, runs, [*here, str(rules)], folder, None)
            if options.before and (options.quick or size in BEFORE_SIZES):
                before[size] = median("before", size, runs, [*here, str(rules)], folder, options.before)
            for peer in options.peers if options.quick or size in PEER_SIZES else ():
                program = str(Path(__file__).with_name("validation_peers.py"))
                peers[peer][size] = median(
                    peer, size, runs, [str(python), program, peer, str(rules)], folder, None
                )
        pairs = {str(file): compare_pairs(file, folder, options.before) for file in options.pairs}
    return judge(ours, before, peers, pairs, options.quick)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="texts whose words and lengths are drawn from")
    parser.add_argument(
        "--pairs", type=Path, nargs="*", default=(), help="texts of which all pairs are compared"
    )
    parser.add_argument("--before", type=Path, help="a checkout of an older commit")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--scratch", type=Path, help="where the files go; 10,000,000 rows need 5 GB")
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


# --- rows --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """What sentences are drawn from: words (V,), their cumulative shares (V,) and some numbers of words."""

    words: pa.Array
    cumulative: np.ndarray[Any, np.dtype[np.float64]]
    lengths: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def of(cls, data: Path | None) -> Words:
        """Those of the texts in a file, or the encoder's whole words by Zipf's law."""
        if data is not None:
            texts = [text.split() for text, _ in read_texts(data)]
            names, counts = np.unique(np.concatenate([np.array(text) for text in texts]), return_counts=True)
            lengths = np.array([len(text) for text in texts])
            return cls(pa.array(names.tolist()), np.cumsum(counts / counts.sum()), lengths)
        vocabulary = json.loads(tokenizer_file().read_text(encoding="utf-8"))["model"]["vocab"]
        names = [word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 1]
        shares = 1 / np.arange(1, len(names) + 1)
        lengths = np.random.default_rng(0).lognormal(math.log(17), 0.6, 100_000).round().clip(2, 70)
        return cls(pa.array(names), np.cumsum(shares / shares.sum()), lengths.astype(np.int64))

    def sentences(self, count: int, generator: np.random.Generator) -> pa.Array:
        """So many sentences."""
        lengths = generator.choice(self.lengths, count)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        chosen = np.searchsorted(self.cumulative, generator.random(offsets[-1]))
        words = self.words.take(pa.array(chosen.clip(max=len(self.words) - 1)))
        return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), words), " ")


def tokenizer_file() -> Path:
    from gauntlet.tasks.texts.encoder_files import READING_FILES, find_encoder

    return find_encoder(ENCODER, READING_FILES).tokenizer


def read_texts(file: Path) -> Iterator[tuple[str, str]]:
    """Text and label of each row."""
    with file.open(encoding="utf-8", newline="") as opened:
        if file.suffix == ".tsv":
            for line in opened:
                text, label, *_ = line.rstrip("\n").split("\t")
                yield text, label
            return
        rows = csv.reader(opened, delimiter=";" if file.suffix == ".txt" else ",")
        next(rows)
        for text, label, *_ in rows:
            yield text, label


def write_rows(folder: Path, size: int, words: Words) -> Path:
    """Three files of sentences with faults, and `rules.json`, which says how they are checked."""
    folder.mkdir()
    generator = np.random.default_rng(size)
    earlier: list[str] = []  # training sentences that rows of the other splits are copies of
    for split, share in SPLITS.items():
        with (folder / f"{split}.csv").open("wb") as file:
            file.write(b"text,label\n")
            for start in range(0, round(size * share), BLOCK):
                count = min(BLOCK, round(size * share) - start)
                texts, labels = faulty(words, count, earlier, generator)
                earlier = earlier or [text for text in texts[:KEPT] if text]
                header = arrow_csv.WriteOptions(include_header=False, quoting_style="all_valid")
                arrow_csv.write_csv(pa.table({"text": texts, "label": labels}), file, header)
    warning = {"severity": "warn"}
    checks = dict.fromkeys((*EXACT, *SIMILAR, "rows_per_class", "class_balance"), warning)
    checks["text_length"] = {**warning, "max_chars": MAX_CHARS}
    dataset = {
        "name": "drawn",
        "version": "1",
        "uri": str(folder),
        "files": {split: f"{split}.csv" for split in SPLITS},
        "labels": LABELS,
        "checks": checks,
        "tokenizer": ENCODER,
        "max_tokens": MAX_TOKENS,
    }
    rules = {
        "dataset": dataset,
        "max_chars": MAX_CHARS,
        "max_tokens": MAX_TOKENS,
        "similarity": SIMILARITY,
        "tokenizer": str(tokenizer_file()),
    }
    (folder / "rules.json").write_text(json.dumps(rules))
    return folder / "rules.json"


def faulty(
    words: Words, count: int, earlier: Sequence[str], generator: np.random.Generator
) -> tuple[list[str | None], list[str | None]]:
    """Texts and labels of so many rows, some of them with a fault; some are like the texts in `earlier`."""
    texts: list[Any] = words.sentences(count, generator).to_pylist()
    labels: list[Any] = generator.choice(LABELS, count, p=np.array(SHARES) / sum(SHARES)).tolist()
    sources = earlier or texts[:KEPT]

    def some(each: int) -> list[int]:
        return generator.choice(np.arange(1, count), max(1, count // each), replace=False).tolist()

    for row in some(100):  # a copy, mostly with the label of a row of the same split
        source = int(generator.integers(row))
        texts[row], labels[row] = texts[source], labels[source]
    for row in some(500):  # a copy of another split's row, or one with another label
        texts[row] = sources[int(generator.integers(len(sources)))]
    for row in some(50):  # a word more
        texts[row] = f"{texts[int(generator.integers(row))]} again"
    for row in some(500):
        texts[row] = f"{sources[int(generator.integers(len(sources)))]} again"
    for number, row in enumerate(some(500)):
        texts[row] = TEMPLATE.format(number)
    for row in some(1000):
        texts[row] = f"{texts[row]}\x07"
    for row in some(1000):
        labels[row] = "boredom"
    for row in some(1000):
        texts[row] = " ".join([texts[row]] * 20)
    for row in some(1000):
        texts[row] = None
    return texts, labels


# --- processes ---------------------------------------------------------------------------------------


def environment_of_peers(folder: Path) -> Path:
    """The Python of a new environment with the peers."""
    print(f"installing {', '.join(PACKAGES)}", flush=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def median(
    name: str, size: int, runs: int, command: Sequence[str], folder: Path, checkout: Path | None
) -> Measured:
    """The run of the median time, with the highest of the peaks."""
    measured = []
    for run in range(runs):
        output = folder / f"{name}-{size}-{run}"
        output.mkdir()
        measured.append(measure([*command, str(output)], output, checkout))
        print(
            f"{name:20} {size:>11,} rows  {measured[-1].seconds:9.2f} s  "
            f"{size / measured[-1].seconds:11,.0f} rows/s  {measured[-1].cpu:9.2f} s of CPU time  "
            f"{measured[-1].peak / GB:6.2f} GB",
            flush=True,
        )
    middle = sorted(measured, key=lambda one: one.seconds)[runs // 2]
    return replace(middle, peak=max(one.peak for one in measured))


def measure(command: Sequence[str], output: Path, checkout: Path | None) -> Measured:
    """Run a command that prints JSON on its last line, and watch the memory of its processes."""
    environment = {**os.environ, "HF_HOME": str(output / "hub"), "TOKENIZERS_PARALLELISM": "true"}
    if checkout is not None:
        environment["PYTHONPATH"] = str(checkout)
    errors = output / "stderr"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    with errors.open("w") as opened:
        process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=opened, text=True, env=environment)
        peaks = [0]
        watching = threading.Thread(target=watch, args=(process, peaks))
        watching.start()
        said, _ = process.communicate()
        watching.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{said[-2000:]}\n{errors.read_text()[-4000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    content = json.loads(said.splitlines()[-1])
    report, rejected = output / "report.html", output / "rejected.csv"
    similar = content.get("similar") or rejected_rows(rejected)
    rows = {check: frozenset(map(tuple, found)) for check, found in similar.items()}
    size = report.stat().st_size if report.exists() else 0
    return Measured(content["seconds"], cpu, max(peaks), size, content["found"], rows)


def watch(process: psutil.Popen, peaks: list[int]) -> None:
    """Append the peak of the resident memory of a process and its children until the process has ended."""
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peaks.append(sum(one.memory_info().rss for one in family))
        except psutil.Error:  # one of them has just ended
            continue
        peaks[:] = [max(peaks)]
        time.sleep(SECONDS_BETWEEN_LOOKS)


def rejected_rows(file: Path) -> dict[str, list[tuple[str, int]]]:
    """File and line of the rows of the checks in `SIMILAR`."""
    found: dict[str, list[tuple[str, int]]] = {check: [] for check in SIMILAR}
    with file.open(encoding="utf-8", newline="") as opened:
        for name, line, check, *_ in csv.reader(opened):
            if check in found:
                found[check].append((name, int(line)))
    return found


# --- all pairs ---------------------------------------------------------------------------------------


def compare_pairs(file: Path, folder: Path, before: Path | None) -> str:
    """In words, how the near-duplicates of a file differ from those among all pairs; empty if they do not."""
    rows = list(read_texts(file))
    labels = sorted({label for _, label in rows if label})
    here = Path(tempfile.mkdtemp(prefix="pairs-", dir=folder))
    cut = {
        "train": rows[: len(rows) * 8 // 10],
        "validation": rows[len(rows) * 8 // 10 : len(rows) * 9 // 10],
    }
    cut["test"] = rows[len(rows) * 9 // 10 :]
    for split, some in cut.items():
        with (here / f"{split}.csv").open("w", encoding="utf-8", newline="") as opened:
            csv.writer(opened).writerows([("text", "label"), *some])
    warning = {"severity": "warn"}
    checks = dict.fromkeys((*EXACT[:4], *EXACT[6:], *SIMILAR, "rows_per_class", "class_balance"), warning)
    checks |= {check: {**warning, "similarity": PAIRS_SIMILARITY} for check in SIMILAR}
    dataset = {
        "name": "given",
        "version": "1",
        "uri": str(here),
        "files": {split: f"{split}.csv" for split in SPLITS},
        "labels": labels,
        "checks": checks,
    }
    (here / "rules.json").write_text(json.dumps({"dataset": dataset}))
    command = [sys.executable, "-c", OURS, str(here / "rules.json")]
    (here / "ours").mkdir()
    measure([*command, str(here / "ours")], here / "ours", None)
    found = (here / "ours" / "rejected.csv").read_bytes()
    if before is not None:
        (here / "before").mkdir()
        measure([*command, str(here / "before")], here / "before", before)
        if (here / "before" / "rejected.csv").read_bytes() != found:
            return "its rejected.csv differs from that of the older commit"
    return all_pairs(here, here / "ours" / "rejected.csv")


def all_pairs(folder: Path, rejected: Path) -> str:
    """Compare the rejected rows with those that all pairs of rows in the folder's files give."""
    from gauntlet.components.validate_data.text import normalise

    places, keys, splits = [], [], []
    for split in SPLITS:
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as opened:
            lines = csv.reader(opened)
            next(lines)
            line = lines.line_num + 1
            for text, _ in lines:
                if text.strip():
                    places.append(f"{split}.csv line {line}")
                    keys.append(normalise(text))
                    splits.append(split)
                line = lines.line_num + 1
    similarities = Similarities(keys)
    expected: dict[str, set[int]] = {check: set() for check in SIMILAR}
    kept: set[int] = set()
    kept_keys: set[tuple[str, str]] = set()
    held_out = {"train": ("test", "validation"), "validation": ("test",), "test": ()}
    partners: dict[tuple[str, int], dict[int, float]] = {}
    for row, similar in similarities.rows():
        alike = {other: value for other, value in similar.items() if other != row}
        leaks = {other: value for other, value in alike.items() if splits[other] in held_out[splits[row]]}
        if leaks:
            expected["leakage"].add(row)
            partners["leakage", row] = leaks
        if (splits[row], keys[row]) in kept_keys:
            continue
        near = {
            other: value for other, value in alike.items() if other in kept and splits[other] == splits[row]
        }
        if near:
            expected["near_duplicates"].add(row)
            partners["near_duplicates", row] = near
        else:
            kept.add(row)
            kept_keys.add((splits[row], keys[row]))
    return differing(rejected, expected, partners, places)


class Similarities:
    """The Jaccard similarity of every pair of texts, by a product of sparse matrices."""

    def __init__(self, keys: Sequence[str]) -> None:
        from scipy import sparse

        numbers: dict[str, int] = {}
        of_rows = [sorted({numbers.setdefault(word, len(numbers)) for word in key.split()}) for key in keys]
        self._sizes = np.array([len(row) for row in of_rows])
        ends = np.concatenate([[0], np.cumsum(self._sizes)])
        ones = np.ones(ends[-1], dtype=np.int32)
        columns = np.concatenate([np.array(row, dtype=np.int64) for row in of_rows])
        self._words = sparse.csr_matrix((ones, columns, ends), shape=(len(keys), len(numbers)))

    def rows(self) -> Iterator[tuple[int, dict[int, float]]]:
        """For each row the rows that are similar to it, itself among them."""
        transposed = self._words.T.tocsr()
        for start in range(0, len(self._sizes), PAIRS_AT_ONCE):
            shared = (self._words[start : start + PAIRS_AT_ONCE] @ transposed).toarray()
            sizes = self._sizes[start : start + PAIRS_AT_ONCE, None] + self._sizes[None]
            similarity = shared / np.maximum(1, sizes - shared)
            for number, row in enumerate(similarity):
                others = np.flatnonzero(row >= PAIRS_SIMILARITY - 1e-9)
                yield start + number, dict(zip(others.tolist(), row[others].tolist(), strict=True))


def differing(
    rejected: Path,
    expected: Mapping[str, set[int]],
    partners: Mapping[tuple[str, int], Mapping[int, float]],
    places: Sequence[str],
) -> str:
    """The first difference between rejected.csv and the expected rows, in words; empty if they are equal."""
    number_of = {place: number for number, place in enumerate(places)}
    found: dict[str, set[int]] = {check: set() for check in SIMILAR}
    with rejected.open(encoding="utf-8", newline="") as opened:
        for name, line, check, _, _, reason in csv.reader(opened):
            if check not in found:
                continue
            row = number_of[f"{name} line {line}"]
            found[check].add(row)
            match = re.fullmatch(r"(?:the same as (.+)|like (.+), similarity ([\d.]+))", reason)
            assert match, reason
            partner = number_of[match[1] or match[2]]
            similarity = partners.get((check, row), {}).get(partner)
            if similarity is None or f"{similarity:.2f}" != f"{float(match[3] or 1):.2f}":
                return f"{check}: {places[row]} is {reason}, expected {similarity}"
    for check in SIMILAR:
        if found[check] != expected[check]:
            other = sorted(found[check] ^ expected[check])
            return f"{check}: {len(found[check])} and {len(expected[check])} rows, such as {places[other[0]]}"
    print(
        f"{', '.join(f'{check} {len(rows):,}' for check, rows in found.items())}: as of all pairs", flush=True
    )
    return ""


# --- verdict -----------------------------------------------------------------------------------------


def judge(
    ours: Mapping[int, Measured],
    before: Mapping[int, Measured],
    peers: Mapping[str, Mapping[int, Measured]],
    pairs: Mapping[str, str],
    quick: bool,
) -> int:
    """Print the aims and the headline, and return the exit code."""
    aims: list[tuple[str, bool]] = []
    largest = max(ours)
    speed = {size: size / one.seconds for size, one in ours.items()}
    if ROWS_OF_SPEED in ours:
        found = speed[ROWS_OF_SPEED]
        aims.append((f"{found:,.0f} rows/s at {ROWS_OF_SPEED:,} rows", found >= LEAST_ROWS_PER_SECOND))
    headline = f"{speed[largest]:,.0f} rows/s and {ours[largest].peak / GB:.2f} GB at {largest:,} rows"
    if before:
        at = max(before)
        ratio = max(speed.values()) / (at / before[at].seconds)
        aims.append((f"{ratio:.1f} times the rows/s of the older commit", ratio >= LEAST_OVER_BEFORE))
        headline += f", {ratio:.1f} times the older commit"
    if ROWS_OF_MEMORY in ours:
        peak = ours[ROWS_OF_MEMORY].peak / GB
        aims.append((f"{peak:.2f} GB at {ROWS_OF_MEMORY:,} rows", peak <= MOST_GB))
    of_peers = {peer: of_size for peer, of_size in peers.items() if of_size}
    if of_peers:
        at = max(next(iter(of_peers.values())))
        fastest = min(of_peers, key=lambda peer: of_peers[peer][at].seconds)
        ratio = of_peers[fastest][at].seconds / ours[at].seconds
        aims.append((f"{ratio:.1f} times as fast as {fastest} at {at:,} rows", ratio >= LEAST_OVER_PEERS))
        headline += f", {ratio:.1f} times {fastest} at {at:,}"
    small = sorted(ours)[min(1, len(ours) - 1)]
    if small != largest:
        power = math.log(ours[largest].seconds / ours[small].seconds) / math.log(largest / small)
        words = f"seconds grow by the power {power:.2f} from {small:,} to {largest:,} rows"
        aims.append((words, power <= MOST_POWER))
    if quick:
        aims.clear()  # so few rows say nothing of speed and memory
    report = max(one.report for one in ours.values()) / MB
    aims.append((f"a report of {report:.2f} MB", report <= MOST_REPORT_MB))
    aims += [
        aim for peer, of_size in of_peers.items() for size, one in of_size.items()
        for aim in agreement(peer, size, ours[size], one)
    ]  # fmt: skip
    aims += [(f"{name}: {words or 'as of all pairs'}", not words) for name, words in pairs.items()]
    for words, is_met in aims:
        print(f"{'met   ' if is_met else 'MISSED'}  {words}", flush=True)
    print(f"data_validation: {headline}")
    return 0 if all(is_met for _, is_met in aims) else 1


def agreement(peer: str, size: int, expected: Measured, found: Measured) -> Iterator[tuple[str, bool]]:
    """Whether a peer finds the rows that validate-data finds."""
    differ = [
        f"{check} {found.found[check]:,} and not {expected.found[check]:,}"
        for check in (*EXACT, "rows_per_class", "class_balance")
        if found.found[check] != expected.found[check]
    ]
    yield f"{peer} at {size:,} rows: {', '.join(differ) or 'the same rows in each exact check'}", not differ
    for check in SIMILAR:
        more = found.similar[check] - expected.similar[check]
        share = len(found.similar[check] & expected.similar[check]) / max(1, len(expected.similar[check]))
        words = f"{peer} at {size:,} rows: {share:.1%} of {len(expected.similar[check]):,} rows of {check}"
        yield f"{words}, and {len(more):,} others", not more


if __name__ == "__main__":
    sys.exit(main())
