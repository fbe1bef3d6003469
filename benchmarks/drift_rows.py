"""How fast, and in how much memory, `gauntlet monitor` counts the rows of a window.

    python benchmarks/drift_rows.py 100000 1000000 10000000

For each number of rows, parts of a request log are drawn into a folder that is deleted afterwards: four
columns of numbers, beside what every row has (an id, a time, a client …), and with `--classes 6` as many
probabilities. A process of its own counts them against a reference of 2,000 rows. Rows per second are of the
CPU time of all threads; the memory is the process's peak above that before the window.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

PART_ROWS = 100_000
START = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1e6)


def part(rows: int, classes: int, seed: int) -> pa.Table:
    """Rows of a request log, drawn by `seed`."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 2**63, rows)
    columns = {
        "event_id": pa.array([f"0197f0c1-{number:016x}-0" for number in numbers]),
        "time": pa.array(START + np.arange(rows), pa.timestamp("us", tz="UTC")),
        "model": pa.repeat("emotion", rows),
        "bundle_sha256": pa.repeat("0123456789ab", rows),
        "schema_version": pa.repeat(pa.scalar(1, pa.int32()), rows),
        "sample_rate": pa.repeat(0.1, rows),
        "client": pa.array([f"client-{number % 500}" for number in numbers.tolist()]),
        "status": pa.repeat(pa.scalar(200, pa.int32()), rows),
        "tokens": pa.array(rng.poisson(20, rows).astype(np.int32)),
        "confidence": pa.array(rng.beta(8, 2, rows).astype(np.float32)),
        "entropy": pa.array(rng.gamma(2, 0.3, rows).astype(np.float32)),
        "feature_characters": pa.array(np.floor(rng.lognormal(4, 0.6, rows))),
    }
    if classes:
        vectors = rng.dirichlet(np.ones(classes), rows).astype(np.float32)
        columns["probabilities"] = pa.FixedSizeListArray.from_arrays(vectors.ravel(), classes).cast(
            pa.list_(pa.float32())
        )
    return pa.table(columns)


def write(folder: Path, rows: int, classes: int) -> None:
    """Write parts of `PART_ROWS` rows at most."""
    folder.mkdir()
    for number, start in enumerate(range(0, rows, PART_ROWS)):
        table = part(min(PART_ROWS, rows - start), classes, number)
        parquet.write_table(table, folder / f"part-{number:04}.parquet", compression="zstd")


def peak() -> int:
    """The process's peak memory so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def count(folder: Path) -> None:
    """Count the window against the reference, and print what that took."""
    from gauntlet.components.detect_drift.counts import count_rows
    from gauntlet.components.detect_drift.reference import log_reference
    from gauntlet.components.detect_drift.rows import Parts
    from gauntlet.components.detect_drift.run import detect

    reference = log_reference(folder / "reference", Parts.below(folder / "reference"))
    detect(reference, count_rows(folder, Parts.below(folder / "reference"), reference.arrays.edges))
    before, start, wall = peak(), time.process_time(), time.perf_counter()
    parts = Parts.below(folder / "window")
    window = count_rows(folder, parts, reference.arrays.edges, reference.baseline.energy_bound)
    cpu, elapsed = time.process_time() - start, time.perf_counter() - wall
    print(
        f"{window.rows:>12,} rows  {window.rows / cpu / 1e6:5.2f} M rows/s of CPU  {cpu:6.2f} s CPU  "
        f"{elapsed:6.2f} s  {peak() - before:4d} MB above {before} MB",
        flush=True,
    )


def main() -> None:
    """Draw and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--classes", type=int, default=0)
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.count is not None:
        count(given.count)
        return
    for rows in given.rows:
        with tempfile.TemporaryDirectory(prefix="gauntlet-drift-") as scratch:
            write(Path(scratch) / "reference", 2_000, given.classes)
            write(Path(scratch) / "window", rows, given.classes)
            subprocess.run([sys.executable, __file__, "--count", scratch], check=True)


if __name__ == "__main__":
    main()
